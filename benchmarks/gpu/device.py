"""A GPU as PyTorch gives it: arrays, a clock of events, and what is known of it."""

import importlib
import math
import shutil
import subprocess
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.layers import Array

# Data sheets, dense, in 1e9 operations a second: float32 units, TF32, 16 bits with float32 sums.
SHEETS = {
    "NVIDIA A100": (19_500, 156_000, 312_000),
    "NVIDIA H100 PCIe": (51_200, 378_000, 756_000),
    "NVIDIA H100 80GB HBM3": (66_900, 494_700, 989_400),
    "NVIDIA H200": (66_900, 494_700, 989_400),
    "NVIDIA L4": (30_300, 60_000, 121_000),
    "NVIDIA L40S": (91_600, 183_000, 362_000),
}
CLOCK = 2e9  # cycles a second that no GPU much exceeds
LONGEST = 0.5  # seconds to wait for the host
PYTORCH = "https://pytorch.org/get-started/locally"
COPIED = 1 << 30  # bytes
SETTINGS = ("driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit")


def sheet(name: str) -> tuple[int, int, int] | None:
    """What the data sheet of a GPU says, if it is known."""
    whole = [
        known for known in SHEETS if name == known or name.startswith((f"{known} ", f"{known}-"))
    ]
    return SHEETS[max(whole, key=len)] if whole else None


def unavailable() -> str:
    """Why nothing can be timed, in one sentence; "" if it can."""
    reason: str = importlib.import_module("fastconv.cuda").unavailable()
    if reason:
        return reason
    how = f"see {PYTORCH} for one with CUDA"
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return f"PyTorch, whose cuDNN it is compared with, is not installed; {how}"
    if torch.version.cuda is None:
        return f"this PyTorch ({torch.__version__}) is built without CUDA; {how}"
    return "" if torch.cuda.is_available() else "PyTorch finds no GPU that it can use"


class Device:
    """PyTorch's current GPU; `place` is for tests, which have none."""

    def __init__(self, place: str = "cuda") -> None:
        self.torch: Any = importlib.import_module("torch")
        self.place = place

    @property
    def l2_bytes(self) -> int:
        """Size of the L2 cache."""
        return int(self._properties().L2_cache_size)

    def _properties(self) -> Any:
        return self.torch.cuda.get_device_properties(self.torch.cuda.current_device())

    def upload(self, array: Array, dtype: str) -> Any:
        """A copy of a float32 array as that dtype."""
        tensor = self.torch.from_numpy(np.ascontiguousarray(array))
        return tensor.to(self.place, getattr(self.torch, dtype), copy=True)

    def poisoned(self, shape: tuple[int, ...], dtype: str) -> Any:
        """An array that holds NaN, or the largest label."""
        kind = getattr(self.torch, dtype)
        worst = math.nan if kind.is_floating_point else self.torch.iinfo(kind).max
        return self.torch.full(shape, worst, dtype=kind, device=self.place)

    def download(self, tensor: Any) -> Array:
        """A tensor as an array on the host, of float32 or integers."""
        wide = tensor.float() if tensor.is_floating_point() else tensor
        return np.asarray(wide.cpu().numpy())

    def concat(self, *xs: Any) -> Any:
        """Channels side by side."""
        return self.torch.cat(xs, 3)

    def add(self, x: Any, y: Any) -> Any:
        """The sum."""
        return x + y

    def relu(self, x: Any) -> Any:
        """What is positive."""
        return self.torch.relu(x)

    def crop(self, x: Any, offset: tuple[int, int], size: tuple[int, int]) -> Any:
        """Some rows and columns, in new memory."""
        (top, left), (rows, cols) = offset, size
        return x[:, top : top + rows, left : left + cols].contiguous()

    def allow_tf32(self, allowed: bool) -> None:
        """Whether PyTorch's float32 convolutions and products may be of TF32."""
        backends = self.torch.backends
        backends.cudnn.benchmark = True
        backends.cudnn.allow_tf32 = backends.cuda.matmul.allow_tf32 = allowed

    def elapsed(self, run: Callable[[], Any], calls: int, wait: float) -> tuple[float, float]:
        """Seconds of some calls on the GPU, and on the host.

        The GPU does nothing for `wait` seconds, in which the host asks for the calls.
        """
        cuda = self.torch.cuda
        first, last = (cuda.Event(enable_timing=True) for _ in range(2))
        cuda._sleep(int(CLOCK * min(wait, LONGEST)))
        first.record()
        start = time.perf_counter()
        for _ in range(calls):
            run()
        host = time.perf_counter() - start
        last.record()
        last.synchronize()
        return 1e-3 * first.elapsed_time(last), host

    def synchronize(self) -> None:
        """Wait for all work; an error if some of it failed."""
        self.torch.cuda.synchronize()

    def release(self) -> None:
        """Give memory back that nothing refers to."""
        self.torch.cuda.empty_cache()

    def copy_rate(self) -> float:
        """Bytes that a copy reads and writes in a second, at best."""
        source = self.torch.zeros(COPIED, dtype=self.torch.uint8, device=self.place)
        target = self.torch.empty_like(source)
        times = [self.elapsed(lambda: target.copy_(source), 10, 0.001)[0] / 10 for _ in range(10)]
        return 2 * COPIED / min(times)

    def describe(self) -> dict[str, Any]:
        """What the timings depend on."""
        found, torch = self._properties(), self.torch
        settings = _settings(getattr(found, "uuid", None))
        return {
            "name": found.name,
            "capability": f"{found.major}.{found.minor}",
            "multiprocessors": found.multi_processor_count,
            "memory_bytes": found.total_memory,
            "l2_bytes": self.l2_bytes,
            "driver": settings.pop("driver_version", "unknown"),
            "clocks": settings,
            "cuda": torch.version.cuda,
            "torch": torch.__version__,
            "cudnn": torch.backends.cudnn.version(),
        }


def _settings(uuid: Any) -> dict[str, str]:
    """Driver and clocks as nvidia-smi says them, if it is there."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return {}
    which = [] if uuid is None else ["-i", f"GPU-{uuid}"]
    ask = [f"--query-gpu={','.join(SETTINGS)}", "--format=csv,noheader"]
    done = subprocess.run([tool, *which, *ask], check=False, capture_output=True, text=True)
    values = done.stdout.strip().splitlines()[:1] if done.returncode == 0 else []
    return dict(zip(SETTINGS, values[0].split(", "), strict=False)) if values else {}

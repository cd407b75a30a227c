"""The CUDA backend: kernels in Python, compiled by numba-cuda, for arrays on a GPU or the host.

Nothing here imports CUDA before a device is asked for.
"""

import functools
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastconv.cuda import device
from fastconv.cuda.arena import Arena
from fastconv.spec import ChannelOp, Conv2d, ConvTranspose2d, Pool2d, Resize2d

__all__ = ["NAMES", "Backend", "describe", "on", "unavailable"]

NAMES = (
    "auto", "direct", "winograd_f2", "winograd_f4", "winograd_f4_tf32x3", "tf32x3", "tf32",
    "tensor", "wgmma", "wgmma_tma",
)  # fmt: skip
WIDE_BLOCKS = 64  # output channels; with fewer, "wgmma" would mostly multiply zeros

# GPUs whose tensor cores multiply TF32 at more than three times the rate of float32 (A100, H100,
# B200, by their data sheets). On others "tf32x3" would be slower than the float32 units.
FAST_TF32 = {(8, 0), (9, 0), (10, 0), (10, 3)}

# What "auto" tries for float32, on such GPUs and on others, from how many input and output channels
# on. With fewer than 32 most products would be with zeros. For each channel of a tile F(4x4) writes
# and reads 576 bytes, and for each pair of channels it saves 216 operations beside "tf32x3", or 56
# beside F(2x2). By the data sheets' rates and bandwidths that pays from 90 to 130 channels on the
# first GPUs, and from 390 to 1100 on the others, or sooner where a cache holds the tiles.
AUTOMATIC = {
    True: (("winograd_f4_tf32x3", 256), ("tf32x3", 32)),
    False: (("winograd_f4", 512), ("winograd_f2", 32)),
}

unavailable, describe = device.unavailable, device.describe


@dataclass(frozen=True)
class Choice:
    """An executor, and why it was chosen; nothing was measured that could tell its time."""

    executor: Any
    reason: str
    cost: None = None
    where: str = "on the GPU"

    def time(self, threads: int, images: int) -> None:
        """Expected seconds are not known."""


class Backend:
    """What `fastconv.plan` asks a device for, on one GPU; compare `fastconv.cpu`."""

    NAMES = NAMES

    def __init__(self, gpu: Any) -> None:
        self.gpu = gpu
        self._filters = importlib.import_module("fastconv.cuda.convolution")
        self._pixels = importlib.import_module("fastconv.cuda.pixels")
        self._executors = importlib.import_module("fastconv.cuda.executor")
        self._joins = importlib.import_module("fastconv.cuda.joins")

    def plan_conv2d(self, spec: Conv2d, w: Any, bias: Any, slopes: Any, algorithm: str) -> Choice:
        """Choose a kernel and pack the weights."""
        name, reason = self._choose(spec, algorithm)
        return self._filter(spec, w, bias, slopes, name, reason)

    def choose_conv2d(self, spec: Conv2d) -> str:
        """The algorithm that "auto" takes."""
        name = self._choose(spec, "auto")[0]
        return "direct" if name == "depthwise" else name

    def plan_conv2d_transpose(
        self, spec: ConvTranspose2d, w: Any, bias: Any, slopes: Any, labels: bool
    ) -> Choice:
        """As `plan_conv2d`; `labels`: the largest channel of each pixel is all that is wanted."""
        name, reason = self._choose(spec, "auto")
        return self._filter(spec, w, bias, slopes, name, reason, labels)

    def plan_windows(self, spec: Pool2d | Resize2d, labels: bool = False) -> Any:
        """A pool or a resize."""
        stages = self._pixels.windows(spec)
        if labels:
            stages.append(self._pixels.labels(spec.out, spec.dtype))
        return self._executors.Executor(self._pixels.chain("direct", stages), self.gpu)

    def plan_windows_argmax(self, spec: Pool2d) -> Any:
        """A max-pool that gives indices, too."""
        return self._executors.WithIndices(self._pixels.pool_with_indices(spec), self.gpu)

    def plan_channels(self, spec: ChannelOp, label_bytes: int = 0) -> Any:
        """An argmax with labels of so many bytes, or a softmax."""
        label = {0: None, 1: np.uint8, 4: np.int32, 8: np.int64}[label_bytes]
        stage = self._pixels.channel_op(spec, None if label is None else np.dtype(label))
        return self._executors.Executor(self._pixels.chain("direct", [stage]), self.gpu)

    def plan_unpool(self, indices: Any, lowest: Any, highest: Any) -> Any:
        """Unpooling at `indices`."""
        return self._executors.Unpool(indices, self.gpu)

    def plan_together(self, op: str, inputs: Any, shape: Any, clamp: tuple[float, float]) -> Any:
        """Arrays number by number."""
        return self._executors.Executor(self._joins.together(op, inputs, shape, clamp), self.gpu)

    def plan_concat(self, inputs: Any, shape: Any) -> Any:
        """Channels side by side."""
        return self._executors.Executor(self._joins.concat(inputs, shape), self.gpu)

    def plan_place(self, x: Any, shape: Any, corner: tuple[int, int]) -> Any:
        """Images in a frame."""
        return self._executors.Executor(self._joins.place(x, shape, corner), self.gpu)

    def arena(self, sizes: Sequence[int]) -> Any:
        """Memory for arrays that stay on the GPU."""
        return Arena(self.gpu, sizes)

    def _choose(self, spec: Conv2d | ConvTranspose2d, algorithm: str) -> tuple[str, str]:
        """Name of a kernel's algorithm, and the reason."""
        capability = self.gpu.capability
        names = {
            name: any(kernel.runs_on(capability) for kernel in self._filters.able(spec, name))
            for name in ("depthwise", *NAMES[1:])
        }
        outputs = spec.out[3] // spec.groups
        if algorithm == "direct" and names["depthwise"]:
            return "depthwise", "as asked"
        if algorithm != "auto":
            if not names[algorithm]:
                raise ValueError(
                    f"conv2d: algorithm {algorithm!r} cannot serve this layer "
                    f"({_needs(algorithm)}); use algorithm='auto'"
                )
            return algorithm, "as asked"
        if names["depthwise"]:
            return "depthwise", "each channel is by itself"
        if names["wgmma"] and outputs >= WIDE_BLOCKS:
            return "wgmma", "16 bits on this architecture; not measured"
        if names["tensor"]:
            return "tensor", "16 bits; not measured"
        channels = min(spec.x[3] // spec.groups, outputs)
        for name, least in AUTOMATIC[capability in FAST_TF32]:
            if names[name] and channels >= least:
                return name, "by this GPU's data sheet; not measured"
        return "direct", "none other can serve, or few channels; not measured"

    def _filter(
        self, spec: Conv2d | ConvTranspose2d, w: Any, bias: Any, slopes: Any, name: str,
        reason: str, labels: bool = False,
    ) -> Choice:  # fmt: skip
        kernel = self._filters.choose(spec, name)
        program = self._filters.plan(spec, w, bias, slopes, kernel, labels)
        return Choice(self._executors.Executor(program, self.gpu), reason)


@functools.cache
def on(index: int) -> Backend:
    """The backend for a GPU.

    Raises
    ------
    DeviceError
        It cannot be used.
    """
    return Backend(device.gpu(index))


def _needs(algorithm: str) -> str:
    if algorithm.startswith("winograd"):
        return "it needs float32 images and a 3x3 kernel without stride, dilation or groups"
    if algorithm == "tensor":
        return "it needs 16-bit images and a multiple of 8 channels in a group"
    if algorithm == "wgmma":
        return (
            "it needs a GPU of compute capability 9.0, 16-bit images and a multiple of 8 channels "
            "in a group"
        )
    if algorithm == "wgmma_tma":
        return (
            "it needs a GPU of compute capability 9.0, 16-bit images, a multiple of 64 channels in "
            "a group, strides up to 8 and pixels of taps less than 128 away"
        )
    return "it needs float32 images and a multiple of 4 channels in a group"

"""PyTorch as a device and as a peer: on its CPU, or one that only notes what it is asked."""

import subprocess
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.gpu import device as gpus
from benchmarks.gpu.device import Device
from benchmarks.gpu.engines import Torch
from benchmarks.gpu.judge import Judge
from tests.benchmarks.simulated import BFLOAT16, FLOAT32
from tests.benchmarks.tiny import LAYER


@pytest.mark.parametrize(
    "name, tf32",
    [
        ("NVIDIA H200", 494_700),
        ("NVIDIA H100 80GB HBM3", 494_700),
        ("NVIDIA H100 PCIe", 378_000),
        ("NVIDIA A100-SXM4-80GB", 156_000),
        ("NVIDIA L4", 60_000),
        ("NVIDIA L40S", 183_000),
        ("NVIDIA L40", None),
        ("NVIDIA GeForce GTX 1", None),
    ],
)
def test_data_sheets(name, tf32):
    found = gpus.sheet(name)
    assert found is None if tf32 is None else found[1] == tf32


@pytest.fixture
def on_cpu():
    """What is said to PyTorch, said to its CPU."""
    pytest.importorskip("torch")
    return Device("cpu")


@pytest.mark.filterwarnings("ignore")  # TorchScript is deprecated
@pytest.mark.parametrize("precision", [FLOAT32, BFLOAT16], ids=lambda row: row.name)
def test_torch_gives_the_right_answers(precision, on_cpu):
    engine = Torch(on_cpu)
    for name in ("conv", "uneven", "labels", "network with crops"):
        layer = type(LAYER[name])(name, "", LAYER[name].steps, dtype=precision.dtype)
        judge = Judge(layer, precision.limit, True)
        xs = [on_cpu.upload(judge.x, precision.dtype) for _ in range(3)]
        names = engine.variants(layer, precision)
        assert names == ["channels_last", "optimized"]
        for variant in names if precision is FLOAT32 else names[:1]:
            program = engine.build(layer, variant, xs)
            ys = [program.run() for _ in range(4)]
            for y in ys:
                assert "rounds" in judge.outcome("torch", program.read(y)), (name, variant)


def test_calls_of_torch_rotate_through_inputs_and_results(on_cpu):
    layer = LAYER["pointwise"]
    xs = [on_cpu.upload(scale * layer.input(), "float32") for scale in (1, 2, 4)]
    program = Torch(on_cpu).build(layer, "channels_last", xs)
    places, sums = zip(*((y.data_ptr(), float(y.sum())) for y in _one_by_one(program)), strict=True)
    assert len(set(places[:3])) == len(set(sums[:3])) == 3
    assert sums[3] == sums[0]


def _one_by_one(program):
    for _ in range(4):
        yield program.run()


def test_tensors_are_what_both_sides_read(on_cpu):
    x = on_cpu.upload(np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4), "bfloat16")
    assert str(x.dtype) == "torch.bfloat16" and x.is_contiguous()
    view = x.permute(0, 3, 1, 2)
    assert view.is_contiguous(memory_format=on_cpu.torch.channels_last)
    assert view.data_ptr() == x.data_ptr()
    np.testing.assert_array_equal(on_cpu.download(x).ravel(), np.arange(24))
    assert np.isnan(on_cpu.download(on_cpu.poisoned((2,), "float16"))).all()
    np.testing.assert_array_equal(on_cpu.download(on_cpu.poisoned((2,), "uint8")), [255, 255])
    y = on_cpu.concat(x, x)
    np.testing.assert_array_equal(on_cpu.download(y)[0, 1, 2], [20, 21, 22, 23] * 2)
    part = on_cpu.crop(x, (0, 1), (2, 2))
    assert part.is_contiguous()
    np.testing.assert_array_equal(on_cpu.download(part)[0, :, :, 0], [[4, 8], [16, 20]])
    np.testing.assert_array_equal(on_cpu.download(on_cpu.add(x, x)), 2 * on_cpu.download(x))
    np.testing.assert_array_equal(on_cpu.download(on_cpu.relu(-x)), 0 * on_cpu.download(x))


def test_tf32_is_said_to_cudnn_and_cublas(on_cpu):
    backends = on_cpu.torch.backends
    before = backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32, backends.cudnn.benchmark
    for allowed in (True, False):
        on_cpu.allow_tf32(allowed)
        assert backends.cudnn.allow_tf32 is backends.cuda.matmul.allow_tf32 is allowed
        assert backends.cudnn.benchmark
    backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32, backends.cudnn.benchmark = before


class Event:
    """A CUDA event of a clock that a test moves."""

    now = 0.0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.at = Event.now

    def synchronize(self):
        assert self.at is not None

    def elapsed_time(self, other):
        return 1e3 * (other.at - self.at)


def test_the_time_is_that_between_the_events(monkeypatch):
    device, said = Device.__new__(Device), []
    device.torch = SimpleNamespace(cuda=SimpleNamespace(Event=Event, _sleep=said.append))

    def call():
        Event.now += 0.25

    clock = iter([10.0, 10.5])
    monkeypatch.setattr(gpus, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert device.elapsed(call, 4, 0.1) == (1.0, 0.5)
    assert said == [int(0.1 * gpus.CLOCK)]


@pytest.mark.parametrize(
    "printed, expected",
    [
        (None, {}),
        ("exit 1", {}),
        ("echo '580.1, 1980 MHz, 2000 MHz, 3000 MHz, 700.00 W'",
         {"driver_version": "580.1", "clocks.sm": "1980 MHz", "clocks.max.sm": "2000 MHz",
          "clocks.mem": "3000 MHz", "power.limit": "700.00 W"}),
    ],
)  # fmt: skip
def test_clocks_are_read_where_they_can_be(printed, expected, monkeypatch, tmp_path):
    tool = tmp_path / "nvidia-smi"
    if printed is not None:
        tool.write_text(f"#!/bin/sh\n[ \"$1 $2\" = '-i GPU-abc' ] || exit 3\n{printed}\n")
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    if printed is not None:
        monkeypatch.setattr(gpus, "subprocess", SimpleNamespace(run=_with_sh))
    assert gpus._settings("abc") == expected


def _with_sh(command, **how):
    return subprocess.run(["/bin/sh", *command], **how)

"""The public functions on a GPU that is simulated: its memory is NumPy's, its threads are lanes."""

import dataclasses
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

import fastconv
from fastconv import bounds, reference
from fastconv.cuda import device
from fastconv.gpu import GpuArray
from fastconv.spec import Pool2d
from tests.helpers import assert_equal, assert_within, integers, normals


class Foreign:
    """An array of some library on the GPU."""

    def __init__(self, gpu, array):
        self.kept = gpu.constant(array)
        gpu.copies.clear()
        self.strides, self.shift = None, 0

    @property
    def __cuda_array_interface__(self):
        data = self.kept.pointer + self.shift, False
        return self.kept.__cuda_array_interface__ | {"strides": self.strides, "data": data}


def values(gpu, array):
    """An array on the GPU, as NumPy's."""
    found = GpuArray.find(array, "y", "test")
    result = np.empty(found.shape, found.dtype)
    gpu.download(found, result, None)
    return result


@pytest.mark.parametrize("algorithm", ["auto", "direct", "winograd_f2", "tf32x3", "tf32"])
def test_convolution_of_host_arrays(gpu, algorithm):
    x, w, b = integers((2, 7, 9, 32), 1), integers((3, 3, 32, 40), 2), integers((40,), 3)
    plan = fastconv.plan_conv2d(
        x.shape, w, b, padding="same", activation="relu", algorithm=algorithm, device="cuda"
    )
    assert plan.algorithm == ("tf32x3" if algorithm == "auto" else algorithm)
    assert_equal(plan(x), reference.conv2d(x, w, b, plan.spec))  # integers are not rounded
    out = np.empty(plan.shape, np.float32)
    assert plan(x, out=out) is out
    assert "on the GPU" in str(plan)
    # Weights, bias, slopes and perhaps two tables are uploaded once, the image twice.
    assert gpu.copies.count("upload") == (3 if algorithm == "winograd_f2" else 5) + 2


@pytest.mark.parametrize("algorithm", ["winograd_f4", "winograd_f4_tf32x3"])
def test_winograd_in_phases(gpu, algorithm):
    x, w, b = normals((2, 7, 9, 8), 1), normals((3, 3, 8, 12), 2), normals((12,), 3)
    plan = fastconv.plan_conv2d(
        x.shape, w, b, padding="same", activation="relu", pool=True, algorithm=algorithm,
        device="cuda",
    )  # fmt: skip
    bound = bounds.conv2d(x, w, b, plan.spec, algorithm)
    for _ in range(2):
        assert_within(plan(x), reference.conv2d(x, w, b, plan.spec), bound)
    # Weights, table, steps, and bias and slopes twice, of the products and of the result.
    assert gpu.copies.count("upload") == 7 + 2
    tiles = 2 * 2 * 2  # of which the pool wants whole windows
    assert plan.scratch_bytes == 4 * 36 * tiles * (8 + 12)
    assert f"certainly below {bounds.typical(plan.spec, algorithm)[1]:.1e}" in str(plan)


@pytest.mark.parametrize("algorithm, first, second", [("auto", 5, 4), ("winograd_f4", 7, 6)])
def test_plans_for_several_shapes_share_weights_on_the_gpu(gpu, algorithm, first, second):
    w = fastconv.Weights(integers((3, 3, 8, 40), 2))
    images = [integers((1, size, size, 8), 1) for size in (6, 7)]
    plans = [fastconv.plan_conv2d(x.shape, w, algorithm=algorithm, device="cuda") for x in images]
    for plan, x, uploads in zip(plans, images, (1 + first, 1 + second), strict=True):
        gpu.copies.clear()
        bound = bounds.conv2d(x, w.array, None, plan.spec, plan.algorithm)
        assert_within(plan(x), reference.conv2d(x, w.array, None, plan.spec), bound)
        assert gpu.copies.count("upload") == uploads  # all but the weights, the second time


def test_every_operation_without_weights(gpu):
    x = normals((1, 8, 6, 12), 1)
    how = {"device": "cuda"}
    for name in ("max_pool2d", "avg_pool2d"):
        pool = getattr(fastconv, name)
        spec = Pool2d(x.shape, name[:3], (3, 2), (2, 2), ((1, 1), (0, 0)))
        y = pool(x, (3, 2), stride=2, padding=(1, 0), **how)
        assert_within(y, reference.pool2d(x, spec), bounds.pool2d(x, spec))
    y, indices = fastconv.max_pool2d(x, 2, return_indices=True, **how)
    expected = fastconv.max_pool2d(x, 2, return_indices=True)
    assert_equal(y, expected[0])
    assert_equal(indices, expected[1])
    labels = fastconv.resize2d(x, (9, 13), argmax=True, **how)
    assert labels.dtype == np.uint8
    assert_equal(labels, fastconv.resize2d(x, (9, 13), argmax=True))
    assert_equal(fastconv.argmax(x, **how), fastconv.argmax(x))
    wide = fastconv.argmax(x, out=np.empty(x.shape[:3], np.int64), **how)
    assert_equal(wide, fastconv.argmax(x))
    np.testing.assert_allclose(fastconv.softmax(x, **how), fastconv.softmax(x), rtol=1e-6)
    assert_equal(fastconv.global_max_pool2d(x, **how), x.max(axis=(1, 2)))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_unpooling(gpu, dtype):
    x = normals((2, 7, 5, 3), 1, dtype)
    places = np.random.default_rng(2).integers(0, 9 * 6 * 3, x.shape)  # some of them twice
    y = fastconv.max_unpool2d(x, places, (9, 6), device="cuda")
    assert_equal(y, fastconv.max_unpool2d(x, places, (9, 6)))


@pytest.mark.parametrize("library", ["cupy", "torch"])
def test_the_callers_library_allocates_the_result(gpu, library, monkeypatch):
    calls = []

    def empty(shape, dtype, **where):
        calls.append((shape, dtype, where))
        return Foreign(gpu, np.empty(shape, np.float32))

    current = SimpleNamespace(cuda_stream=0, ptr=0)
    streams = SimpleNamespace(
        current_stream=lambda device: current, get_current_stream=lambda: current
    )
    module = SimpleNamespace(empty=empty, float32="its float32", cuda=streams)
    monkeypatch.setitem(sys.modules, library, module)
    x = Foreign(gpu, integers((1, 4, 4, 4), 1))
    monkeypatch.setattr(Foreign, "device", nullcontext(), raising=False)
    monkeypatch.setattr(Foreign, "__module__", f"{library}.arrays")
    y = fastconv.max_pool2d(x, 2, device="cuda")
    assert isinstance(y, Foreign)
    told = ("its float32", {"device": x.device}) if library == "torch" else (np.float32, {})
    assert calls == [((1, 2, 2, 4), *told)]
    assert_equal(values(gpu, y), integers((1, 4, 4, 4), 1).reshape(2, 2, 2, 2, 4).max((1, 3))[None])


def test_other_convolutions(gpu):
    x, w = integers((1, 5, 4, 8), 1), integers((4, 4, 21, 8), 2)
    how = {"stride": 2, "padding": "same"}
    y = fastconv.conv2d_transpose(x, w, device="cuda", **how)
    assert_equal(y, fastconv.conv2d_transpose(x, w, **how))
    plan = fastconv.plan_conv2d_transpose(x.shape, w, argmax=True, device="cuda", **how)
    assert_equal(plan(x), y.argmax(axis=3))
    w, add = integers((3, 3, 8, 1), 3), integers((1, 5, 4, 8), 4)
    y = fastconv.depthwise_conv2d(x, w, padding="same", add=add, device="cuda")
    assert_equal(y, fastconv.depthwise_conv2d(x, w, padding="same", add=add))
    nchw = fastconv.depthwise_conv2d(
        x.transpose(0, 3, 1, 2), w, padding="same", data_format="NCHW", device="cuda"
    )
    assert_equal(nchw.transpose(0, 2, 3, 1) + add, y)


@pytest.mark.parametrize(
    "capability, algorithm, strided, deep, halves",
    [
        ((8, 0), "tf32x3", "tf32x3", (256, "winograd_f4_tf32x3"), "tensor"),
        ((8, 9), "winograd_f2", "direct", (512, "winograd_f4"), "tensor"),
        ((9, 0), "tf32x3", "tf32x3", (256, "winograd_f4_tf32x3"), "wgmma"),
        ((10, 0), "tf32x3", "tf32x3", (256, "winograd_f4_tf32x3"), "tensor"),
    ],
)
def test_the_choice_depends_on_the_gpu(
    gpu, monkeypatch, capability, algorithm, strided, deep, halves
):
    monkeypatch.setattr(gpu, "capability", capability)
    shapes, how = ((1, 8, 8, 32), (3, 3, 32, 64)), {"device": "cuda"}
    assert fastconv.choose_algorithm(*shapes, **how) == algorithm
    assert fastconv.choose_algorithm(*shapes, stride=2, **how) == strided
    for c, k, expected in (
        (deep[0], deep[0], deep[1]), (deep[0] - 1, 512, algorithm), (512, deep[0] - 1, algorithm),
    ):  # fmt: skip
        c -= c % 4
        assert fastconv.choose_algorithm((1, 8, 8, c), (3, 3, c, k), **how) == expected
    assert fastconv.choose_algorithm((1, 8, 8, 512), (3, 3, 512, 512), stride=2, **how) == strided
    assert fastconv.choose_algorithm(*shapes, dtype="float16", **how) == halves
    narrow = (1, 8, 8, 32), (3, 3, 32, 63)
    assert fastconv.choose_algorithm(*narrow, dtype="float16", **how) == "tensor"
    assert fastconv.choose_algorithm((1, 8, 8, 3), (3, 3, 3, 64), **how) == "direct"
    assert fastconv.choose_algorithm((1, 8, 8, 32), (3, 3, 1, 32), groups=32, **how) == "direct"


@pytest.mark.parametrize("outputs, algorithm", [(5, "tensor"), (72, "wgmma")])
def test_sixteen_bits(gpu, outputs, algorithm):
    x, w = integers((1, 5, 6, 8), 1, "float16"), integers((3, 3, 8, outputs), 2, "float16")
    plan = fastconv.plan_conv2d(x.shape, w, device="cuda")
    assert plan.algorithm == algorithm
    working = dataclasses.replace(plan.spec, dtype="float32")
    assert_equal(plan(x), reference.conv2d(x, w, None, working))


def test_tiles_of_the_image_where_it_is(gpu):
    x, w = integers((1, 5, 6, 64), 1, "float16"), integers((3, 3, 64, 72), 2, "float16")
    plan = fastconv.plan_conv2d(x.shape, w, padding="same", algorithm="wgmma_tma", device="cuda")
    assert plan.algorithm == "wgmma_tma"
    working = dataclasses.replace(plan.spec, dtype="float32")
    for image in (x, -x):
        expected = reference.conv2d(image, w, None, working).astype(np.float16)
        assert_equal(plan(image), expected)
        on_gpu = Foreign(gpu, image)
        for uploads in (["upload"], []):  # of the tensor map, which serves again
            gpu.copies.clear()
            assert_equal(values(gpu, plan(on_gpu)), expected)
            assert gpu.copies == [*uploads, "download"]


def test_arrays_on_the_gpu_stay_there(gpu):
    x, w, add = integers((1, 5, 6, 8), 1), integers((1, 1, 8, 5), 2), integers((1, 5, 6, 5), 3)
    plan = fastconv.plan_conv2d(x.shape, w, add=True, device="cuda")
    expected = plan(x, add)
    on_gpu = Foreign(gpu, x), Foreign(gpu, add)
    y = plan(*on_gpu)
    assert gpu.copies == []
    assert_equal(values(gpu, y), expected)
    out = Foreign(gpu, np.zeros_like(expected))
    assert plan(*on_gpu, out=out) is out
    assert_equal(values(gpu, out), expected)
    largest = fastconv.global_max_pool2d(y, device="cuda")
    assert_equal(values(gpu, largest), expected.max(axis=(1, 2)))
    pooled = fastconv.max_pool2d(y, 2, device="cuda")  # results can go on
    assert_equal(values(gpu, pooled), fastconv.max_pool2d(expected, 2))


def test_bfloat16_of_torch(gpu, monkeypatch):
    x, w = (integers(s, i, "bfloat16") for i, s in enumerate([(1, 5, 6, 8), (1, 1, 8, 5)]))
    on_gpu = Foreign(gpu, x.view("V2"))
    on_gpu.dtype = "torch.bfloat16"
    y = fastconv.conv2d(on_gpu, w, device="cuda")
    assert_equal(values(gpu, y).astype(float), fastconv.conv2d(x, w).astype(float))


def test_wrong_places_are_told(gpu):
    x, w, add = integers((1, 5, 6, 8), 1), integers((1, 1, 8, 5), 2), integers((1, 5, 6, 5), 3)
    on_gpu = Foreign(gpu, x)
    with pytest.raises(TypeError, match="conv2d: the input is on a GPU; use device='cuda'"):
        fastconv.conv2d(on_gpu, w)
    with pytest.raises(TypeError, match="conv2d: w must be on the host"):
        fastconv.conv2d(x, Foreign(gpu, w), device="cuda")
    with pytest.raises(TypeError, match="some inputs are on the GPU and some are not"):
        fastconv.conv2d(on_gpu, w, add=add, device="cuda")
    with pytest.raises(TypeError, match="out must be on the GPU"):
        fastconv.conv2d(on_gpu, w, out=add, device="cuda")
    with pytest.raises(ValueError, match=r"out must be float32 of shape \(1, 5, 6, 5\)"):
        fastconv.conv2d(on_gpu, w, out=Foreign(gpu, x), device="cuda")
    with pytest.raises(ValueError, match="must not share memory"):
        fastconv.max_pool2d(on_gpu, 1, out=on_gpu, device="cuda")
    with pytest.raises(ValueError, match="arrays on a GPU must be NHWC"):
        fastconv.max_pool2d(on_gpu, 2, data_format="NCHW", device="cuda")
    on_gpu.shift = 4
    with pytest.raises(ValueError, match="x must start at a multiple of 16 bytes"):
        fastconv.conv2d(on_gpu, w, device="cuda")
    on_gpu.strides = (4, 8, 4, 4)
    with pytest.raises(ValueError, match="x must be C-contiguous on the GPU"):
        fastconv.conv2d(on_gpu, w, device="cuda")


def test_what_no_kernel_serves_is_told(gpu, monkeypatch):
    x, w = integers((1, 5, 6, 3), 1), integers((1, 1, 3, 5), 2)
    with pytest.raises(ValueError, match="'tf32' cannot serve this layer"):
        fastconv.conv2d(x, w, algorithm="tf32", device="cuda")
    with pytest.raises(ValueError, match="unknown algorithm 'winograd_f6'; use 'auto', 'direct'"):
        fastconv.conv2d(x, w, algorithm="winograd_f6", device="cuda")
    half, wide = x.astype(np.float16), np.zeros((1, 1, 8, 64), np.float16)
    with pytest.raises(ValueError, match=r"it needs a GPU of compute capability 9\.0"):
        fastconv.conv2d(half, wide[:, :, :3], algorithm="wgmma", device="cuda")
    monkeypatch.setattr(gpu, "capability", (10, 0))
    with pytest.raises(ValueError, match="'wgmma' cannot serve this layer"):
        fastconv.plan_conv2d((1, 5, 6, 8), wide, algorithm="wgmma", device="cuda")
    with pytest.raises(ValueError, match=r"'winograd_f4' cannot serve this layer .*3x3 kernel"):
        fastconv.conv2d(x, w, algorithm="winograd_f4", device="cuda")
    with pytest.raises(TypeError, match="device 'cuda' has no float64"):
        fastconv.conv2d(x.astype(float), w.astype(float), device="cuda")
    with pytest.raises(TypeError, match="max_unpool2d: device 'cuda' has no float64"):
        fastconv.max_unpool2d(x.astype(float), np.zeros(x.shape, int), (9, 9), device="cuda")
    with pytest.raises(ValueError, match="more than 2147483136 numbers"):
        fastconv.plan_conv2d((1, 30000, 30000, 3), w, device="cuda")
    with pytest.raises(ValueError, match="unknown device 'cuda:one'"):
        fastconv.conv2d(x, w, device="cuda:one")


WITHOUT = """
import importlib.util, sys
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "numba_cuda" else real(name, *rest)
import numpy as np, fastconv
try:
    fastconv.max_pool2d(np.zeros((1, 4, 4, 1), np.float32), 2, device="cuda")
except fastconv.DeviceError as error:
    print(error)
print("numba.cuda" in sys.modules)
"""


def test_without_the_extra_the_reason_is_one_sentence():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "max_pool2d: device 'cuda' cannot be used: numba-cuda is not installed, and the numba.cuda "
        "inside numba is deprecated; pip install 'fastconv[cuda]'",
        "False",
    ], done.stderr


class NoDriver:
    """A driver interface that answers as told."""

    class CUresult:
        CUDA_SUCCESS, CUDA_ERROR_NO_DEVICE = "success", "no device"

    def __init__(self, answer):
        self.answer = answer

    def cuInit(self, flags):
        if isinstance(self.answer, Exception):
            raise self.answer
        return (self.answer,)


@pytest.mark.parametrize(
    "answer, visible, reason",
    [
        (RuntimeError("libcuda"), None, "no NVIDIA driver (libcuda) was found"),
        ("no device", None, "the NVIDIA driver finds no GPU"),
        ("no device", "", "the NVIDIA driver finds no GPU (CUDA_VISIBLE_DEVICES is '')"),
    ],
)
def test_reasons_of_the_driver(monkeypatch, answer, visible, reason):
    monkeypatch.setattr(device, "_driver", lambda: NoDriver(answer))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert device._undriven.__wrapped__() == reason

"""Calls of NVIDIA's driver, which is told apart from the rest: a stand-in answers them."""

import ctypes
import importlib
import inspect
import re
import types

import numpy as np
import pytest

import fastconv
from fastconv import cuda, gpu
from fastconv.cuda import compiler, device, im2col, memory
from fastconv.spec import Conv2d
from fastconv.weights import Weights
from tests.fastconv.cuda.driver import Driver
from tests.helpers import integers


def test_the_stand_in_has_the_functions_of_the_driver():
    """The same names, numbers of arguments and constants as NVIDIA's interface."""
    real = importlib.import_module("cuda.bindings.driver")
    for name, made in vars(Driver).items():
        if isinstance(made, types.FunctionType) and name.startswith("cu"):
            told = re.match(rf"{name}\((.*)\)", getattr(real, name).__doc__)[1]
            count = len(told.split(",")) if told else 0
            kinds = [p.kind for p in inspect.signature(made).parameters.values()][1:]
            assert len(kinds) == count or inspect.Parameter.VAR_POSITIONAL in kinds, told
        elif isinstance(made, types.SimpleNamespace):
            for constant, value in vars(made).items():
                known = getattr(getattr(real, name), constant)
                number = getattr(value, "value", value)
                assert isinstance(value, str) or number == known.value


def test_a_run_launches_what_was_planned_and_frees_its_memory(driver, tmp_path):
    x, w = integers((1, 6, 7, 32), 1), integers((3, 3, 32, 40), 2)
    plan = fastconv.plan_conv2d(x.shape, w, padding="same", device="cuda")
    assert plan(x).shape == (1, 6, 7, 40)
    ((name, grid, block, shared, values, kinds),) = driver.launches
    assert "tensor" in name
    assert (grid, block) == ((1, 1, 1), 256)
    assert shared == driver.attributes[name.encode()] > 48 << 10
    kernel = plan._executor.kernel
    assert [k is ctypes.c_void_p for k in kinds] == [
        p in {"x", "w", "bias", "slopes", "add", "y", "table", "steps"} for p in kernel.parameters
    ]
    given = dict(zip(kernel.parameters, values, strict=True))
    packed = driver.memory[given["w"]].view(np.float32)
    np.testing.assert_array_equal(packed, plan._executor.packed.reshape(-1))
    assert given["x"] not in driver.memory  # free again, as is the result
    assert not driver.contexts
    assert [f.name for f in tmp_path.iterdir()] == ["tf32x3_float32_64-sm_90.cubin"]
    plan(x)
    assert len(driver.launches) == 2


def test_what_only_an_architecture_has_is_assembled_for_it(driver, tmp_path):
    x, w = integers((1, 6, 7, 8), 1, "float16"), integers((3, 3, 8, 256), 2, "float16")
    plan = fastconv.plan_conv2d(x.shape, w, device="cuda")
    plan(x)
    ((name, grid, block, shared, _, _),) = driver.launches
    assert "wgmma" in name
    assert (grid, block) == ((1, 1, 1), 256)
    assert shared == driver.attributes[name.encode()] > 128 << 10
    (file,) = tmp_path.iterdir()
    assert file.name == "wgmma_float16_256-sm_90a.cubin"


def test_the_image_is_told_to_the_accelerator(driver):
    x, w = integers((2, 6, 7, 64), 1, "float16"), integers((3, 2, 64, 40), 2, "float16")
    how = {"stride": (1, 2), "padding": ((2, 1), (1, 3)), "dilation": (2, 1)}
    plan = fastconv.plan_conv2d(x.shape, w, algorithm="wgmma_tma", device="cuda", **how)
    plan(x)
    assert plan.shape == (2, 5, 5, 40)
    strides = [128, 7 * 128, 6 * 7 * 128]
    # Columns before rows: the boxes are columns -1 to 7 of 0 to 6 and rows -2 to 2 of 0 to 5.
    corners = [-1, -2], [1, -3]
    rest = 64, 128, [1, 2, 1, 1], "plain", "128", "256", "zeros"
    assert driver.maps == [("f16", 4, [64, 7, 6, 2], strides, *corners, *rest)]
    ((_, _, _, _, values, _),) = driver.launches
    given = dict(zip(plan._executor.kernel.parameters, values, strict=True))
    words = driver.memory[given["tensor_map"]].view(np.uint64)
    assert len(words) == 16 and len({*words}) == 1
    assert (given["top"], given["left"]) == (-2, -1)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_driver_takes_what_tells_the_image(dtype):
    """Its own interface judges the types, and the values, too, where there is a driver."""
    seen = im2col.of(Conv2d((1, 6, 7, 64), (3, 3, 64, 8), dtype=dtype))
    own = types.SimpleNamespace(driver=device._driver())
    try:
        words = device.Gpu.tensor_map(own, seen, 1 << 20)
    except RuntimeError as error:
        assert "NVIDIA driver" in str(error)  # is missing
    else:
        assert words.shape == (16,) and words.any()


def test_the_second_process_reads_machine_code(driver, tmp_path, monkeypatch):
    x = integers((1, 4, 4, 4), 1)
    before = fastconv.plan_conv2d(x.shape, Weights(integers((1, 1, 4, 4), 2)), device="cuda")
    before(x)
    (file,) = tmp_path.iterdir()
    for cached in (device.gpu, cuda.on):  # as if it were another one
        cached.cache_clear()

    def again(kernel):
        raise AssertionError("it is compiled again")

    monkeypatch.setattr(compiler, "to_ptx", again)
    fastconv.plan_conv2d(x.shape, Weights(integers((1, 1, 4, 4), 2)), device="cuda")(x)
    assert len(driver.launches) == 2
    file.write_bytes(file.read_bytes()[:-1])  # damaged
    for cached in (device.gpu, cuda.on):
        cached.cache_clear()
    with pytest.raises(AssertionError, match="it is compiled again"):
        fastconv.plan_conv2d(x.shape, Weights(integers((1, 1, 4, 4), 2)), device="cuda")(x)


def test_errors_tell_the_gpu_and_the_bytes(driver):
    with pytest.raises(fastconv.DeviceError, match="there is no GPU number 2, only 2 from 0 on"):
        fastconv.max_pool2d(np.zeros((1, 2, 2, 1), np.float32), 2, device="cuda:2")
    driver.limit = 100
    x = integers((1, 5, 6, 7), 1)
    with pytest.raises(MemoryError, match="840 bytes does not fit on GPU 0: 5 of its 100 bytes"):
        fastconv.plan_conv2d(x.shape, integers((1, 1, 7, 4), 2), device="cuda")(x)
    driver.limit = 1 << 30
    fastconv.plan_conv2d(x.shape, integers((1, 1, 7, 4), 2), device="cuda")(x)  # usable again
    elsewhere = gpu.GpuArray(16, x.shape, x.dtype, None)
    with pytest.raises(ValueError, match="an input is on GPU 1; use device='cuda:1'"):
        fastconv.plan_conv2d(x.shape, integers((1, 1, 7, 4), 2), device="cuda")(elsewhere)


def test_old_things_are_refused(driver):
    driver.capability = (7, 5)
    assert cuda.unavailable() == "GPU 0 has compute capability 7.5, and 8.0 is needed"
    device._undriven.cache_clear()
    driver.version = 12_090
    assert cuda.unavailable() == "the NVIDIA driver is for CUDA 12.9, and 13.0 is needed"


def test_a_gpu_is_described(driver):
    assert cuda.unavailable() == ""
    assert cuda.describe() == "Stand-in, compute capability 9.0"


@pytest.mark.parametrize("lockable", [True, False])
def test_arrays_travel_through_locked_memory(driver, monkeypatch, lockable):
    monkeypatch.setattr(memory, "CHUNK", 256)
    driver.lockable = lockable
    x = integers((1, 4, 5, 64), 1)  # 20 chunks
    gpu = device.gpu(0)
    there = gpu.upload(x, 7)
    back = np.zeros_like(x)
    gpu.download(there, back, 7)
    np.testing.assert_array_equal(back, x)
    copies = [w for w in driver.work if w[0] in ("up", "down")]
    if lockable:
        assert copies == [("up", 7, 256, True)] * 20 + [("down", 7, 256, True)] * 20
        assert ("wait", 7) not in driver.work  # the host waits for parts of the result alone
        assert [m.size for m in driver.pinned.values()] == [512]  # two chunks, used again
    else:
        assert copies == [("up", 7, x.nbytes, False), ("down", 7, x.nbytes, False)]
        assert driver.work.count(("wait", 7)) == 2


def test_odd_sizes_travel(driver, monkeypatch):
    monkeypatch.setattr(memory, "CHUNK", 256)
    for size in (0, 1, 255, 256, 257, 700):
        x = np.arange(size).astype(np.uint8)
        back = np.zeros_like(x)
        gpu = device.gpu(0)
        gpu.download(gpu.upload(x, 1), back, 1)
        np.testing.assert_array_equal(back, x)


def test_a_chunk_is_used_again_when_its_copy_has_ended(driver, monkeypatch):
    """The driver copies when somebody waits for the event behind the copy, and not before."""
    monkeypatch.setattr(memory, "CHUNK", 64)
    pending = []

    def later(target, source, nbytes, stream):
        pending.append([None, target, source, nbytes])
        return driver.cuStreamSynchronize(stream)

    def record(event, stream):
        pending[-1][0] = event
        return driver.cuStreamSynchronize(stream)

    def wait(event):
        while any(p[0] == event for p in pending):  # and all that came before
            ctypes.memmove(*pending.pop(0)[1:])
        return driver.cuStreamSynchronize(1)

    for name in ("cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync"):
        monkeypatch.setattr(driver, name, later)
    monkeypatch.setattr(driver, "cuEventRecord", record)
    monkeypatch.setattr(driver, "cuEventSynchronize", wait)
    gpu = device.gpu(0)
    x, back = integers((7, 50), 1), np.zeros((7, 50), np.float32)
    there = gpu.upload(x, 1)
    x0 = x.copy()
    x[...] = 9  # the caller may do so
    gpu.download(there, back, 1)
    np.testing.assert_array_equal(back, x0)


def test_threads_have_chunks_of_their_own(driver, monkeypatch):
    gpu = device.gpu(0)
    with gpu._transfers._chunks() as one, gpu._transfers._chunks() as two:
        assert one is not two
        with gpu._transfers._chunks() as three:
            assert three not in (one, two)
    assert len(driver.pinned) == 3
    del one, two, three
    assert len(driver.pinned) == memory.IDLE  # the others are let go

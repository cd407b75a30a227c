"""Calls of NVIDIA's driver, which is told apart from the rest: a stand-in answers them."""

import ctypes
from types import SimpleNamespace

import numpy as np
import pytest

import fastconv
from fastconv import cuda, gpu
from fastconv.cuda import compiler, device, im2col
from fastconv.spec import Conv2d
from fastconv.weights import Weights
from tests.helpers import integers

GOOD = SimpleNamespace(value=0, name="CUDA_SUCCESS")
FULL = SimpleNamespace(value=2, name="CUDA_ERROR_OUT_OF_MEMORY")


class Driver:
    """Two GPUs whose memory is the host's and whose kernels leave no trace but in `launches`."""

    CUresult = SimpleNamespace(
        CUDA_SUCCESS=GOOD, CUDA_ERROR_OUT_OF_MEMORY=FULL, CUDA_ERROR_NO_DEVICE=None
    )
    CUdevice_attribute = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR="major",
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR="minor",
    )
    CUfunction_attribute = SimpleNamespace(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES="shared")
    CUtensorMapDataType = SimpleNamespace(
        CU_TENSOR_MAP_DATA_TYPE_FLOAT16="f16", CU_TENSOR_MAP_DATA_TYPE_BFLOAT16="bf16"
    )
    CUtensorMapInterleave = SimpleNamespace(CU_TENSOR_MAP_INTERLEAVE_NONE="plain")
    CUtensorMapSwizzle = SimpleNamespace(CU_TENSOR_MAP_SWIZZLE_128B="128")
    CUtensorMapL2promotion = SimpleNamespace(CU_TENSOR_MAP_L2_PROMOTION_L2_256B="256")
    CUtensorMapFloatOOBfill = SimpleNamespace(CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE="zeros")
    cuuint32_t = cuuint64_t = int
    CUpointer_attribute = SimpleNamespace(CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL="ordinal")

    def __init__(self, capability=(9, 0), limit=1 << 30):
        self.capability, self.limit, self.version = capability, limit, 13_000
        self.memory, self.contexts, self.launches, self.attributes = {}, [], [], {}
        self.maps = []

    def cuInit(self, flags):
        return (GOOD,)

    def cuDriverGetVersion(self):
        return GOOD, self.version

    def cuDeviceGetCount(self):
        return GOOD, 2

    def cuDeviceGet(self, index):
        return GOOD, index

    def cuDeviceGetName(self, length, index):
        return GOOD, b"Stand-in" + bytes(length - 8)

    def cuDeviceGetAttribute(self, name, index):
        return GOOD, self.capability[name == "minor"]

    def cuDevicePrimaryCtxRetain(self, index):
        return GOOD, f"context {index}"

    def cuCtxPushCurrent(self, context):
        self.contexts.append(context)
        return (GOOD,)

    def cuCtxPopCurrent(self):
        return GOOD, self.contexts.pop()

    def cuMemAllocAsync(self, nbytes, stream):
        assert self.contexts and nbytes > 0
        if sum(m.nbytes for m in self.memory.values()) + nbytes > self.limit:
            return FULL, 0
        made = fastconv.aligned_empty((nbytes,), np.uint8)
        self.memory[made.ctypes.data] = made
        return GOOD, made.ctypes.data

    def cuMemGetInfo(self):
        return GOOD, 5, self.limit

    def cuMemFreeAsync(self, pointer, stream):
        del self.memory[pointer]
        return (GOOD,)

    def cuMemcpyHtoDAsync(self, target, source, nbytes, stream):
        assert nbytes <= self.memory[target].nbytes
        ctypes.memmove(target, source, nbytes)
        return (GOOD,)

    def cuMemcpyDtoHAsync(self, target, source, nbytes, stream):
        assert nbytes <= self.memory[source].nbytes
        ctypes.memmove(target, source, nbytes)
        return (GOOD,)

    def cuStreamSynchronize(self, stream):
        return (GOOD,)

    def cuPointerGetAttribute(self, name, pointer):
        return GOOD, 1 if pointer == 16 else 0

    def cuModuleLoadData(self, code):
        assert code[:4] == b"\x7fELF"
        return GOOD, code

    def cuModuleGetFunction(self, module, name):
        assert name in module
        return GOOD, name

    def cuFuncSetAttribute(self, function, name, value):
        self.attributes[function] = value
        return (GOOD,)

    def cuTensorMapEncodeIm2col(self, kind, rank, address, *told):
        self.maps.append((kind, rank, *told))
        return GOOD, SimpleNamespace(opaque=[address] * 16)

    def cuLaunchKernel(self, function, gx, gy, gz, bx, by, bz, shared, stream, parameters, extra):
        values, kinds = parameters
        assert self.contexts and (by, bz, stream, extra) == (1, 1, 0, 0)
        [kind(value) for value, kind in zip(values, kinds, strict=True)]  # they must fit
        assert shared <= self.attributes.get(function, 48 << 10)
        self.launches.append((function.decode(), (gx, gy, gz), bx, shared, values, kinds))
        return (GOOD,)


@pytest.fixture
def driver(monkeypatch, tmp_path):
    made = Driver()
    monkeypatch.setattr(device, "_driver", lambda: made)
    monkeypatch.setattr(compiler, "cache_folder", lambda: tmp_path)
    caches = device.gpu, device._undriven, cuda.on
    for cached in caches:
        cached.cache_clear()
    yield made
    for cached in caches:
        cached.cache_clear()


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
    own = SimpleNamespace(_driver=device._driver())
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

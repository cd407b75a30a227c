"""Arrays of other libraries: their streams, their memory pools, and DLPack."""

import ctypes
import gc
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

import fastconv
from fastconv import dlpack
from fastconv.cuda import device
from fastconv.gpu import GpuArray
from tests.helpers import assert_equal, integers

X = integers((1, 4, 4, 8), 1)
W = integers((3, 3, 8, 8), 2)


class Foreign:
    """An array of a library whose interface names a stream."""

    def __init__(self, array, stream, read_only=False):
        self.__cuda_array_interface__ = array.__cuda_array_interface__ | {
            "stream": stream, "data": (array.pointer, read_only),
        }  # fmt: skip
        self.array = array


class Exported:
    """An array of a library that has DLPack alone."""

    def __init__(self, array):
        self._array = array

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()

    def __dlpack__(self, **how):
        return self._array.__dlpack__(**how)


class Old(Exported):
    """From before DLPack had versions."""

    def __dlpack__(self, stream):
        return self._array.__dlpack__(stream=stream)


def on_gpu(array):
    """An array on the first GPU of the stand-in, which any stream may use."""
    return device.gpu(0).constant(array)


def found(array):
    """As NumPy's, where the memory of the GPU is the host's."""
    kind = ctypes.c_char * array.nbytes
    return np.frombuffer(kind.from_address(array.pointer), array.dtype).reshape(array.shape)


def after(driver, run):
    """What streams are given by `run`, after a first time that copies weights."""
    kept = [run()]
    driver.work.clear()
    kept.append(run())
    work = list(driver.work)
    kept.clear()
    gc.collect()
    return work, driver.work[len(work) :]


def test_work_goes_to_the_callers_stream(driver):
    x = Foreign(on_gpu(X), 7)
    plan = fastconv.plan_conv2d_transpose(X.shape, W, argmax=True, device="cuda")
    work, later = after(driver, lambda: plan(x))
    # The result and what lies before the labels; nothing waits for anything.
    assert work == [
        ("allocate", 7), ("allocate", 7), ("launch", 7), ("launch", 7), ("free", 7),
    ]  # fmt: skip
    assert later == [("free", 7), ("free", 7)]
    assert plan(x).__cuda_array_interface__["stream"] == 7


def test_without_a_stream_it_is_the_default_one(driver):
    plan = fastconv.plan_conv2d(X.shape, W, device="cuda")
    x = Foreign(on_gpu(X), None)
    work, _ = after(driver, lambda: plan(x))
    assert work == [("allocate", 1), ("launch", 1)]


def test_streams_wait_for_each_other_on_the_gpu(driver):
    x, add = on_gpu(X), on_gpu(integers((1, 4, 4, 8), 3))
    out = on_gpu(np.zeros_like(X))
    plan = fastconv.plan_conv2d(X.shape, W, padding="same", add=True, device="cuda")
    arrays = Foreign(x, 7), Foreign(add, 8)
    work, _ = after(driver, lambda: plan(*arrays, out=Foreign(out, 9)))
    assert work == [("order", 8, 7), ("order", 9, 7), ("launch", 7)]


def test_what_no_stream_orders_is_kept_until_the_work_has_ended(driver):
    driver.busy = True
    x = Foreign(on_gpu(X), 7)
    pointer = x.array.pointer
    fastconv.max_pool2d(x, 2, device="cuda")
    del x
    assert pointer in driver.memory  # its library might use it again
    driver.busy = False
    fastconv.max_pool2d(on_gpu(X), 2, device="cuda")
    assert pointer not in driver.memory
    assert not [e for e in driver.events.values() if e == 7]


def library(name, driver, monkeypatch, stream):
    """PyTorch or CuPy in miniature, which works on a stream; its arrays, and what it allocated."""
    made = []

    class Array:
        def __init__(self, array):
            self.array, self.device = array, nullcontext()

        def data_ptr(self):
            return self.array.pointer

        @property
        def __cuda_array_interface__(self):
            return self.array.__cuda_array_interface__ | {"stream": None}

    def empty(shape, dtype, device=None):
        made.append((tuple(shape), np.dtype(dtype).name))
        return Array(device_array(shape, dtype))

    def alloc(nbytes):
        made.append(((nbytes,), "uint8"))
        return SimpleNamespace(ptr=device_array((nbytes,), np.uint8).pointer)

    kept = []

    def device_array(shape, dtype):
        kept.append(on_gpu(np.zeros(shape, dtype)))
        return kept[-1]

    current = SimpleNamespace(cuda_stream=stream, ptr=stream)
    module = SimpleNamespace(
        empty=empty, float32=np.float32, uint8=np.uint8,
        cuda=SimpleNamespace(
            current_stream=lambda device: current, get_current_stream=lambda: current, alloc=alloc
        ),
    )  # fmt: skip
    Array.__module__ = f"{name}.arrays"
    monkeypatch.setitem(sys.modules, name, module)
    return Array, made


@pytest.mark.parametrize("stream, number", [(0, 1), (12, 12)])
@pytest.mark.parametrize("name", ["torch", "cupy"])
def test_pools_and_streams_of_libraries(driver, monkeypatch, name, stream, number):
    array, made = library(name, driver, monkeypatch, stream)
    x = array(on_gpu(X))
    plan = fastconv.plan_conv2d_transpose(X.shape, W, argmax=True, device="cuda")
    y = plan(x)
    made.clear()
    work, _ = after(driver, lambda: plan(x))
    assert isinstance(y, array)
    assert [w for w in work if w[0] == "launch"] == [("launch", number)] * 2
    assert ("allocate", number) not in work
    assert made[:1] == [(y.array.shape, "uint8")]  # the result, then what lies before the labels
    assert made[2:] == made[:2]


def test_dlpack_round_trip(driver):
    y = device.gpu(0).array((2, 3, 4, 8), np.dtype(np.float32), 5)
    for exported in (Exported(y), Old(y)):
        driver.work.clear()
        x = GpuArray.find(exported, "x", "test")
        assert (x.pointer, x.shape, x.dtype, x.device) == (y.pointer, y.shape, y.dtype, 0)
        assert x.writable
        assert driver.work[:1] == [("order", 5, 1)]  # ready on the default stream
    pointer = y.pointer
    del y, exported
    assert pointer in driver.memory  # `x` keeps it
    del x
    gc.collect()
    assert pointer not in driver.memory
    assert not dlpack._EXPORTED


def test_a_capsule_that_nobody_takes_gives_its_array_back(driver):
    y = device.gpu(0).array((2, 3), np.dtype(np.float32))
    pointer = y.pointer
    for version in (None, (0, 8), (1, 1)):
        capsule = y.__dlpack__(max_version=version, stream=-1)
        assert len(dlpack._EXPORTED) == 1
        del capsule
    assert not dlpack._EXPORTED
    del y
    assert pointer not in driver.memory


@pytest.mark.parametrize("stream, waits", [(None, False), (1, False), (7, True), (-1, True)])
def test_what_is_lent_to_other_streams_is_free_after_their_work(driver, stream, waits):
    y = device.gpu(0).array((2, 3), np.dtype(np.float32), 1)
    taken = dlpack.Shared(y.__dlpack__(stream=stream))
    del y
    driver.work.clear()
    del taken
    assert driver.work == [("wait for all",)] * waits + [("free", 1)]


@pytest.mark.parametrize("version", [None, (1, 0)])
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int32", "int64"])
def test_capsules_are_as_numpy_has_them(dtype, version):
    """NumPy reads what is exported here as on the host, and what it exports is read here."""
    x = np.arange(24).reshape(2, 3, 4).astype(dtype)

    class OnHost:
        def __dlpack_device__(self):
            return dlpack.CPU, 0

        def __dlpack__(self, **_):
            where = dlpack.CPU, 0
            return dlpack.export(self, x.ctypes.data, x.shape, x.dtype, where, version)

    assert_equal(np.from_dlpack(OnHost()), x)
    assert not dlpack._EXPORTED
    taken = dlpack.Shared(x.__dlpack__(max_version=version))
    assert (taken.pointer, taken.shape, taken.dtype) == (x.ctypes.data, x.shape, dtype)
    assert taken.strides in (None, (12, 4, 1))
    assert taken.device == (dlpack.CPU, 0)


def test_bfloat16_of_dlpack(driver):
    x, w = integers((1, 5, 6, 8), 1, "bfloat16"), integers((1, 1, 8, 5), 2, "bfloat16")
    y = fastconv.conv2d(Exported(on_gpu(x)), w, device="cuda")
    assert y.dtype == ml_dtypes.bfloat16
    again = GpuArray.find(Exported(y), "y", "test")
    assert (again.dtype, again.shape) == (y.dtype, (1, 5, 6, 5))


def test_dlpack_of_the_host_stays_there():
    x = Exported(X)
    assert GpuArray.find(x, "x", "test") is None


NAME = b"dltensor"
KEPT = []


class HandMade:
    """A producer whose structure is written field by field, and which counts deletions."""

    def __init__(self, pointer, strides=(128, 32, 8, 1), code=2, device_id=0, lanes=1):
        self.deleted = []
        KEPT.append(self)  # until it is deleted, which errors may put off
        self._deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self.deleted.append)
        self._shape = (ctypes.c_int64 * 4)(1, 4, 4, 8)
        self._strides = (ctypes.c_int64 * 4)(*strides)
        self._bytes = ctypes.create_string_buffer(64)
        at = ctypes.addressof(self._bytes)
        for offset, kind, value in (
            (0, ctypes.c_void_p, pointer - 16), (8, ctypes.c_int32, 2),
            (12, ctypes.c_int32, device_id), (16, ctypes.c_int32, 4), (20, ctypes.c_uint8, code),
            (21, ctypes.c_uint8, 32), (22, ctypes.c_uint16, lanes),
            (24, ctypes.c_void_p, ctypes.addressof(self._shape)),
            (32, ctypes.c_void_p, ctypes.addressof(self._strides)), (40, ctypes.c_uint64, 16),
            (56, ctypes.c_void_p, ctypes.cast(self._deleter, ctypes.c_void_p).value),
        ):  # fmt: skip
            kind.from_address(at + offset).value = value

    def __dlpack_device__(self):
        return 2, 0

    def __dlpack__(self, stream):
        assert stream == 1
        return dlpack._new(ctypes.addressof(self._bytes), NAME, None)


def test_a_structure_made_by_hand(driver):
    kept = on_gpu(X)
    x = HandMade(kept.pointer)
    taken = GpuArray.find(x, "x", "test")
    assert_equal(found(taken), X)
    assert x.deleted == []
    del taken
    assert x.deleted == [ctypes.addressof(x._bytes)]
    fastconv.max_pool2d(x, 2, device="cuda")
    assert len(driver.launches) == 1
    with pytest.raises(ValueError, match="x must be C-contiguous on the GPU"):
        fastconv.max_pool2d(HandMade(kept.pointer, (128, 8, 32, 1)), 2, device="cuda")
    with pytest.raises(ValueError, match="an input is on GPU 1; use device='cuda:1'"):
        fastconv.max_pool2d(HandMade(kept.pointer, device_id=1), 2, device="cuda")
    for how in ({"code": 5}, {"lanes": 2}):
        with pytest.raises(BufferError, match="DLPack's type"):
            fastconv.max_pool2d(HandMade(kept.pointer, **how), 2, device="cuda")


def test_exports_without_a_copy_alone(driver):
    y = device.gpu(0).array((2, 3), np.dtype(np.float32))
    for how in ({"copy": True}, {"dl_device": (dlpack.CPU, 0)}):
        with pytest.raises(BufferError, match="without a copy"):
            y.__dlpack__(**how)


def test_results_in_read_only_arrays_are_refused(driver):
    out = Foreign(on_gpu(np.zeros((1, 2, 2, 8), np.float32)), None, read_only=True)
    with pytest.raises(ValueError, match="max_pool2d: out is read-only"):
        fastconv.max_pool2d(on_gpu(X), 2, out=out, device="cuda")

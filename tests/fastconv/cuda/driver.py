"""A stand-in for NVIDIA's driver: memory is the host's, and kernels leave no trace but a list."""

import ctypes
import itertools
from types import SimpleNamespace

import numpy as np

import fastconv

GOOD = SimpleNamespace(value=0, name="CUDA_SUCCESS")
FULL = SimpleNamespace(value=2, name="CUDA_ERROR_OUT_OF_MEMORY")
NONE = SimpleNamespace(value=100, name="CUDA_ERROR_NO_DEVICE")
BUSY = SimpleNamespace(value=600, name="CUDA_ERROR_NOT_READY")
INVALID = SimpleNamespace(value=901, name="CUDA_ERROR_STREAM_CAPTURE_INVALIDATED")


class Driver:
    """Two GPUs. `work` is what their streams were given, in order."""

    CUresult = SimpleNamespace(
        CUDA_SUCCESS=GOOD, CUDA_ERROR_OUT_OF_MEMORY=FULL, CUDA_ERROR_NO_DEVICE=NONE,
        CUDA_ERROR_NOT_READY=BUSY,
    )  # fmt: skip
    CUevent_flags = SimpleNamespace(CU_EVENT_DISABLE_TIMING=2)
    CUstream_flags = SimpleNamespace(CU_STREAM_NON_BLOCKING=1)
    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_RELAXED=2)
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
        self.allocations, self.failing = 0, 0  # how many there were, and the one that fails
        self.maps = []
        self.pinned, self.lockable = {}, True  # memory of the host
        self.numbers = itertools.count(100)  # of streams and events
        self.streams, self.events, self.busy = set(), {}, False
        self.work = []  # what streams were given, in order
        self.captured, self.graphs, self.spoilt, self.full = None, {}, False, False

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

    def cuCtxSynchronize(self):
        self.work.append(("wait for all",))
        return (GOOD,)

    def cuMemAlloc(self, nbytes):
        assert self.contexts and nbytes > 0 and self.captured is None
        self.allocations += 1
        taken = sum(m.nbytes for m in self.memory.values())
        if taken + nbytes > self.limit or self.allocations == self.failing:
            return FULL, 0
        made = fastconv.aligned_empty((nbytes,), np.uint8)
        self.memory[made.ctypes.data] = made
        return GOOD, made.ctypes.data

    def cuMemAllocAsync(self, nbytes, stream):
        self.work.append(("allocate", stream))
        return self.cuMemAlloc(nbytes)

    def cuMemGetInfo(self):
        return GOOD, 5, self.limit

    def cuMemFree(self, pointer):
        del self.memory[pointer]
        return (GOOD,)

    def cuMemFreeAsync(self, pointer, stream):
        self.work.append(("free", stream))
        return self.cuMemFree(pointer)

    def cuMemHostAlloc(self, nbytes, flags):
        if not self.lockable:
            return FULL, 0
        made = np.empty(nbytes, np.uint8)
        self.pinned[made.ctypes.data] = made
        return GOOD, made.ctypes.data

    def cuMemFreeHost(self, pointer):
        del self.pinned[pointer]
        return (GOOD,)

    def locked(self, pointer, nbytes):
        """Whether memory of the host is page-locked."""
        return any(p <= pointer and pointer + nbytes <= p + m.size for p, m in self.pinned.items())

    def cuMemcpyHtoDAsync(self, target, source, nbytes, stream):
        assert self.captured is None
        self.work.append(("up", stream, nbytes, self.locked(source, nbytes)))
        ctypes.memmove(target, source, nbytes)
        return (GOOD,)

    def cuMemcpyDtoHAsync(self, target, source, nbytes, stream):
        assert self.captured is None
        self.work.append(("down", stream, nbytes, self.locked(target, nbytes)))
        ctypes.memmove(target, source, nbytes)
        return (GOOD,)

    def cuMemcpyDtoDAsync(self, target, source, nbytes, stream):
        assert self.captured is None
        self.work.append(("copy", stream))
        ctypes.memmove(target, source, nbytes)
        return (GOOD,)

    def cuStreamCreate(self, flags):
        self.streams.add(made := next(self.numbers))
        return GOOD, made

    def cuStreamDestroy(self, stream):
        self.streams.remove(stream)
        return (GOOD,)

    def cuStreamSynchronize(self, stream):
        self.work.append(("wait", stream))
        return (GOOD,)

    def cuEventCreate(self, flags):
        self.events[made := next(self.numbers)] = None
        return GOOD, made

    def cuEventRecord(self, event, stream):
        self.events[event] = stream
        return (GOOD,)

    def cuEventQuery(self, event):
        return (BUSY if self.busy else GOOD,)

    def cuEventSynchronize(self, event):
        assert event in self.events
        return (GOOD,)

    def cuEventDestroy(self, event):
        del self.events[event]
        return (GOOD,)

    def cuStreamWaitEvent(self, stream, event, flags):
        self.work.append(("order", self.events[event], stream))
        return (GOOD,)

    def cuStreamBeginCapture(self, stream, mode):
        assert stream in self.streams and self.captured is None and mode == 2
        self.captured = stream, []
        return (GOOD,)

    def cuStreamEndCapture(self, stream):
        (begun, launches), self.captured = self.captured, None
        assert begun == stream
        if self.spoilt:
            return INVALID, None
        self.graphs[made := next(self.numbers)] = launches
        return GOOD, made

    def cuGraphInstantiate(self, graph, flags):
        if self.full:
            return FULL, None
        self.graphs[made := next(self.numbers)] = list(self.graphs[graph])
        return GOOD, made

    def cuGraphDestroy(self, graph):
        del self.graphs[graph]
        return (GOOD,)

    def cuGraphExecDestroy(self, graph):
        return self.cuGraphDestroy(graph)

    def cuGraphLaunch(self, graph, stream):
        assert self.contexts and stream in self.streams
        self.work.append(("graph", graph))
        for launch in self.graphs[graph]:  # what it reads and writes has to be there
            self.check(launch)
        return (GOOD,)

    def check(self, launch):
        """Arrays of a launch lie in memory that is not free."""
        *_, values, kinds = launch
        for value, kind in zip(values, kinds, strict=True):
            if kind is ctypes.c_void_p:
                places = self.memory.items()
                assert any(p <= value < p + m.size for p, m in places), "memory is free"

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
        assert self.contexts and (by, bz, extra) == (1, 1, 0)
        [kind(value) for value, kind in zip(values, kinds, strict=True)]  # they must fit
        assert shared <= self.attributes.get(function, 48 << 10)
        launch = function.decode(), (gx, gy, gz), bx, shared, values, kinds
        self.check(launch)
        if self.captured is not None:
            assert stream == self.captured[0]
            self.captured[1].append(launch)
        else:
            self.launches.append(launch)
            self.work.append(("launch", stream))
        return (GOOD,)

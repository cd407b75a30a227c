"""The code of the micro-kernels: functions that emit LLVM vectors, one file a family.

A builder gets a row of `kernels.KERNELS`, an `Emitter` and the arguments of the kernel, all of them
int64: addresses and byte offsets, or counts.
"""

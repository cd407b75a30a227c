"""PTX for kernels: the only package that knows it, or how Numba makes LLVM IR.

Each function here is an instruction, or a few of them, that a kernel calls by its Python name.
Conditions are operands (`predicate`), not branches: the code is better, and a simulator whose
threads are the elements of NumPy vectors can run the kernels.

Addresses are an array and the number of an element, without Numba's test for negative ones. An
array is a pointer (``CPointer``) to global memory, or one of ``cuda.shared``. Pointers to uint16
are to bfloat16 numbers.

Register tiles are tuples, and loops over them are unrolled here: an array that a loop indexes would
be put into local memory.

Formats: NVIDIA, *Parallel Thread Execution ISA*, "Warp level matrix instructions".
"""

from fastconv.cuda.ptx.hopper import (
    close_products,
    fence_writes,
    finish_products,
    multiply_rows_bf16,
    multiply_rows_f16,
    open_products,
    rows_at,
    wait_products,
)
from fastconv.cuda.ptx.memory import (
    load1,
    load4,
    load8,
    load_entry,
    load_int,
    load_shared,
    load_shared4,
    store1,
    store4,
    store8,
    store_int,
    store_shared,
    store_shared2,
    store_shared4,
)
from fastconv.cuda.ptx.numbers import (
    again,
    fma_outer,
    largest,
    partner,
    select,
    smallest,
    splat,
    udivmod,
    unroll,
)
from fastconv.cuda.ptx.tensor import (
    close_group,
    copy16,
    matrices,
    matrices_transposed,
    multiply_bf16,
    multiply_f16,
    multiply_tf32,
    round_tf32,
    split_tf32,
    wait_groups,
)
from fastconv.cuda.ptx.tma import (
    acquire_map,
    barrier_expect,
    barrier_start,
    barrier_wait,
    copy_bytes,
    copy_im2col,
)

__all__ = [
    "acquire_map",
    "again",
    "barrier_expect",
    "barrier_start",
    "barrier_wait",
    "close_group",
    "close_products",
    "copy16",
    "copy_bytes",
    "copy_im2col",
    "fence_writes",
    "finish_products",
    "fma_outer",
    "largest",
    "load1",
    "load4",
    "load8",
    "load_entry",
    "load_int",
    "load_shared",
    "load_shared4",
    "matrices",
    "matrices_transposed",
    "multiply_bf16",
    "multiply_f16",
    "multiply_rows_bf16",
    "multiply_rows_f16",
    "multiply_tf32",
    "open_products",
    "partner",
    "round_tf32",
    "rows_at",
    "select",
    "smallest",
    "splat",
    "split_tf32",
    "store1",
    "store4",
    "store8",
    "store_int",
    "store_shared",
    "store_shared2",
    "store_shared4",
    "udivmod",
    "unroll",
    "wait_groups",
    "wait_products",
]

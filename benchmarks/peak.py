"""What this machine can do at most: ``python -m benchmarks.peak [THREADS]``.

The ceilings of the roofline: fused multiply-adds on registers alone, and a copy between arrays
that no cache holds, both by the vectors and the thread pool of the kernels.
"""

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import fastconv
from benchmarks.worker import ROOT
from fastconv.cpu import host
from fastconv.cpu.intrinsics import Intrinsic, atomic_add
from fastconv.cpu.job import Job
from fastconv.cpu.simd import LANES, Emitter
from fastconv.memory import aligned_empty

# Independent sums hide the latency of an FMA: 4 cycles, 2 a cycle. Without AVX-512 a vector of the
# emitter is two or four registers, of which there are 16 or 32.
SUMS = 12 if host.has("avx512f") else 6
VECTOR = 4 * LANES["float32"]  # bytes
STEPS = 10_000  # FMAs of each sum in a task; exact as float32, so that a test can count them
CHUNK = 1 << 20  # bytes that a task copies
SECONDS = 0.5  # of each probe


@Intrinsic
def _emit_fma(builder: Any, source: Any, target: Any) -> None:
    """`SUMS` vectors ``s = s * a + b``, `STEPS` times; a and b are the vectors at `source`."""
    e = Emitter(builder, "float32", LANES["float32"])
    a, b = e.load(source), e.load(e.add(source, e.bytes))
    sums = [e.variable(e.splat(0.0)) for _ in range(SUMS)]
    with e.loop(STEPS):
        for slot in sums:
            e.set(slot, e.fma(e.get(slot), a, b))
    for i, slot in enumerate(sums):
        e.store(e.get(slot), e.add(target, i * e.bytes))


@Intrinsic
def _emit_copy(builder: Any, source: Any, target: Any) -> None:
    """Copy one chunk past the caches."""
    e = Emitter(builder, "float32", LANES["float32"])
    with e.loop(CHUNK, 4 * e.bytes) as i:
        for v in range(4):
            at = e.add(i, v * e.bytes)
            e.store(e.load(e.add(source, at)), e.add(target, at), streaming=True)


def _multiply_add(thread, counter, x, out, scratch, add, tasks):  # noqa: ARG001
    """Driver: every task has a result of its own."""
    while True:
        task = atomic_add(counter, 1)
        if task >= tasks:
            break
        _emit_fma(x, out + task * SUMS * VECTOR)


def _move(thread, counter, x, out, scratch, add, tasks):  # noqa: ARG001
    """Driver: a task is a chunk."""
    while True:
        task = atomic_add(counter, 1)
        if task >= tasks:
            break
        _emit_copy(x + task * CHUNK, out + task * CHUNK)


MULTIPLY_ADD, MOVE = Job(_multiply_add), Job(_move)


def multiply_add(x: np.ndarray, out: np.ndarray, threads: int) -> int:
    """Fill each row of `out` (tasks, SUMS * lanes) by one task; the number of operations done.

    `x` holds a factor and a summand, a vector of each.
    """
    tasks = MULTIPLY_ADD.pack(tasks=len(out))
    MULTIPLY_ADD.run(tasks, x.ctypes.data, out.ctypes.data, 0, threads)
    return 2 * STEPS * out.size


def copy(x: np.ndarray, out: np.ndarray, threads: int) -> int:
    """Copy `x`, whole chunks that start on a cache line; the bytes read and written."""
    MOVE.run(MOVE.pack(tasks=x.nbytes // CHUNK), x.ctypes.data, out.ctypes.data, 0, threads)
    return 2 * x.nbytes


def _best(run: Callable[[], int], seconds: float = SECONDS) -> float:
    """The highest rate of calls that return how much they did: what disturbs only lowers it."""
    run()  # compiles, wakes threads, maps memory
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        done = run()
        best = max(best, done / (time.perf_counter() - start))
    return best


def ceilings(threads: int) -> dict[str, float]:
    """Measure in this process; see `measure`."""
    operands = np.ones(2 * LANES["float32"], np.float32)
    sums = aligned_empty((64 * threads, SUMS * LANES["float32"]), np.float32)
    nbytes = math.ceil(4 * host.cache_bytes()[1] / CHUNK) * CHUNK
    source, target = (aligned_empty((nbytes,), np.uint8) for _ in range(2))
    source[...] = 1
    return {
        "gflops": 1e-9 * _best(lambda: multiply_add(operands, sums, threads)),
        "gbytes": 1e-9 * _best(lambda: copy(source, target, threads)),
    }


def measure(threads: int) -> dict[str, float]:
    """Ceilings of `threads` threads, measured in a process that ends.

    Returns
    -------
    dict
        "gflops", 1e9 float32 operations in a second, and "gbytes", 1e9 bytes read and written in
        a second.
    """
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.peak", str(threads)],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    threads = int(sys.argv[1]) if sys.argv[1:] else fastconv.get_num_threads()
    print(json.dumps(ceilings(threads)))

"""One pool of native threads for all kernels, safe under Python threads and after fork.

A job is a C function ``run(parameters, thread)`` that takes tasks from an atomic counter until
none is left, so a helper that comes late, or never, costs time but not correctness: the caller
works too, and waits only for helpers that have joined. Helpers are Python threads that stay inside
compiled code without the interpreter lock. They spin briefly for the next job before they sleep:
the layers of a network follow each other within microseconds.

Numba's own layers do not serve here: `omp` kills forked children, `workqueue` aborts the process
when two Python threads enter, and launches in 94 us.
"""

import atexit
import contextlib
import ctypes
import math
import os
import threading
from typing import Any

import numpy as np

from fastconv.cpu.intrinsics import External, atomic_load, call, load_int, store_int
from fastconv.cpu.native import Driver, Native

_mutex_init = External("pthread_mutex_init", 2)
_mutex_lock = External("pthread_mutex_lock", 1)
_mutex_unlock = External("pthread_mutex_unlock", 1)
_cond_init = External("pthread_cond_init", 2)
_cond_wait = External("pthread_cond_wait", 2)
_cond_broadcast = External("pthread_cond_broadcast", 1)
_sched_yield = External("sched_yield", 0)

# Byte offsets in the shared state, each on a cache line of its own.
MUTEX, WAKE, DONE = 0, 128, 256  # pthread_mutex_t and two pthread_cond_t, 128 bytes each at most
GENERATION = 384  # grows with every job; helpers wait for it to change
ACTIVE = 448  # helpers inside the current job
OPEN = 512  # helpers that may still join
JOINED, FUNCTION, PARAMETERS, STOP = 576, 584, 592, 600
STATE_BYTES = 640
SPINS = 200  # yields before sleeping: about 50 us


def _create(state: int) -> None:
    _mutex_init(state + MUTEX, 0)
    _cond_init(state + WAKE, 0)
    _cond_init(state + DONE, 0)


def _serve(state: int) -> None:
    """A helper's life: wait for a job, join it while it is open, work, report."""
    seen = 0
    while True:
        spins = 0
        while atomic_load(state + GENERATION) == seen and spins < SPINS:
            _sched_yield()
            spins += 1
        _mutex_lock(state + MUTEX)
        while atomic_load(state + GENERATION) == seen:
            _cond_wait(state + WAKE, state + MUTEX)
        seen = load_int(state + GENERATION)
        stop = load_int(state + STOP)
        free = load_int(state + OPEN)
        if stop == 0 and free > 0:
            index = load_int(state + JOINED) + 1
            function = load_int(state + FUNCTION)
            parameters = load_int(state + PARAMETERS)
            store_int(state + JOINED, index)
            store_int(state + OPEN, free - 1)
            store_int(state + ACTIVE, load_int(state + ACTIVE) + 1)
            _mutex_unlock(state + MUTEX)
            call(function, (parameters, index))
            _mutex_lock(state + MUTEX)
            active = load_int(state + ACTIVE) - 1
            store_int(state + ACTIVE, active)
            if active == 0:
                _cond_broadcast(state + DONE)
        _mutex_unlock(state + MUTEX)
        if stop != 0:
            break


def _launch(state: int, function: int, parameters: int, helpers: int) -> None:
    """Run a job here and on up to `helpers` helpers; returns when all who joined are done."""
    _mutex_lock(state + MUTEX)
    store_int(state + FUNCTION, function)
    store_int(state + PARAMETERS, parameters)
    store_int(state + JOINED, 0)
    store_int(state + OPEN, helpers)
    store_int(state + GENERATION, load_int(state + GENERATION) + 1)
    _cond_broadcast(state + WAKE)
    _mutex_unlock(state + MUTEX)
    call(function, (parameters, 0))
    _mutex_lock(state + MUTEX)
    store_int(state + OPEN, 0)
    _mutex_unlock(state + MUTEX)
    spins = 0
    while atomic_load(state + ACTIVE) > 0 and spins < SPINS:
        _sched_yield()
        spins += 1
    _mutex_lock(state + MUTEX)
    while load_int(state + ACTIVE) > 0:
        _cond_wait(state + DONE, state + MUTEX)
    _mutex_unlock(state + MUTEX)


def _stop(state: int) -> None:
    _mutex_lock(state + MUTEX)
    store_int(state + STOP, 1)
    store_int(state + GENERATION, load_int(state + GENERATION) + 1)
    _cond_broadcast(state + WAKE)
    _mutex_unlock(state + MUTEX)


CREATE, SERVE, STOP_POOL = Driver(_create, 1), Driver(_serve, 1), Driver(_stop, 1)
LAUNCH = Driver(_launch, 4)
NATIVE = (CREATE, SERVE, STOP_POOL, LAUNCH)


class Pool:
    """Helper threads and the state that they share with the caller."""

    def __init__(self) -> None:
        self._busy = threading.Lock()  # one job at a time; others run on their own thread alone
        self._memory = np.zeros(STATE_BYTES // 8 + 8, np.int64)
        self._state = -(-self._memory.ctypes.data // 64) * 64
        self._helpers: list[threading.Thread] = []
        self._created = False

    def run(self, job: Native, parameters: int, threads: int) -> None:
        """Call ``job(parameters, thread)`` on up to `threads` threads, this one included."""
        if threads == 1 or os.name == "nt" or not self._busy.acquire(blocking=False):
            job.entry(parameters, 0)
            return
        try:
            self._grow(threads - 1)
            LAUNCH.entry(self._state, job.address, parameters, threads - 1)
        finally:
            self._busy.release()

    def _grow(self, helpers: int) -> None:
        if not self._created:
            CREATE.entry(self._state)
            self._created = True
        while len(self._helpers) < helpers:
            thread = threading.Thread(
                target=SERVE.entry, args=(self._state,), name="fastconv", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:  # the system gives no more threads: work with those there are
                break
            self._helpers.append(thread)

    def stop(self) -> None:
        """End the helpers."""
        if self._helpers:
            STOP_POOL.entry(self._state)
            for helper in self._helpers:
                helper.join()
            self._helpers.clear()


_pool = Pool()


def run(job: Native, parameters: int, threads: int) -> None:
    """Run `job` on the process's pool; see `Pool.run`."""
    _pool.run(job, parameters, threads)


def _after_fork() -> None:
    """The child has no helpers, and a mutex that may be locked for ever: start anew."""
    global _pool
    _pool = Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@atexit.register
def _stop_at_exit() -> None:
    # Helpers must leave compiled code before the interpreter frees it.
    with contextlib.suppress(ctypes.ArgumentError):
        _pool.stop()


class Arena(threading.local):
    """Scratch memory of one Python thread, kept between calls and grown on demand."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)
        self._size = self._skip = self._address = 0

    def reserve(self, nbytes: int) -> int:
        """Address of `nbytes` bytes, aligned to a page; valid until the next call."""
        if self._size < nbytes:
            self._memory = np.empty(0, np.uint8)  # frees the old block before taking the new one
            self._memory = np.empty(nbytes + 4096, np.uint8)
            self._size = nbytes
            self._skip = -self._memory.ctypes.data % 4096
            self._address = self._memory.ctypes.data + self._skip
        return self._address

    def take(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """The same as an array."""
        nbytes = math.prod(shape) * dtype.itemsize
        self.reserve(nbytes)
        return self._memory[self._skip : self._skip + nbytes].view(dtype).reshape(shape)


arena, handover = Arena(), Arena()

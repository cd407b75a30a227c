"""Jobs: drivers that the thread pool runs, with parameters by name."""

import inspect
from array import array
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from fastconv.cpu.intrinsics import Inlined, atomic_add
from fastconv.cpu.native import Driver
from fastconv.cpu.pool import arena, handover, run
from fastconv.cpu.simd import I64, POINTER
from fastconv.memory import address

Template = array  # of int64: copies and takes numbers five times as fast as NumPy's
COMMON = ("thread", "counter", "x", "out", "scratch", "add")
COUNTERS = 2  # numbers in front of a template, from `counter` on


@Inlined
def take(counter, thread, tasks):
    """The next task of a driver, `tasks` when none is left.

    Even threads take those of the first half and odd ones those of the second, then what the others
    have left. So a thread finds what it wrote in the last layer in its own cache, and panels of
    weights that others do not need.
    """
    own = thread & 1
    half = (tasks + 1) // 2
    for which in range(own, own + 2):
        start = (which & 1) * half
        task = start + atomic_add(counter + 8 * (which & 1), 1)
        if task < start + half and task < tasks:
            return task
    return tasks


class Job(Driver):
    """A driver ``f(thread, counter, x, out, scratch, add, ...)`` of int64 arguments.

    `counter` is the address of the task counters that `take` needs, `x` and `out` of the arrays,
    `scratch` of the memory that all threads share; `add` is how many bytes behind `out` the
    residual lies, 0 without one. The other arguments are constants of a plan.
    """

    def __init__(self, driver: Callable[..., None]) -> None:
        names = list(inspect.signature(driver).parameters)
        if tuple(names[: len(COMMON)]) != COMMON:
            raise TypeError(f"{driver.__name__}: the first arguments must be {COMMON}")
        self.names = tuple(names[len(COMMON) :])
        super().__init__(driver, 2)

    def _object_code(self) -> bytes:
        """The C function has the address of the parameters and the thread."""

        def expand(builder: Any, given: Any) -> list[Any]:
            parameters, thread = given
            array = builder.inttoptr(parameters, POINTER)
            loaded = [
                builder.load(builder.gep(array, [ir.Constant(I64, i)], source_etype=I64), typ=I64)
                for i in range(COUNTERS, COUNTERS + len(COMMON) - 2 + len(self.names))
            ]
            return [thread, parameters, *loaded]

        from fastconv.cpu import compiler

        return compiler.object_code(self.name, self._arguments, self._function, expand)

    def pack(self, **constants: int) -> Template:
        """Template of a call's parameters: counters, x, out, scratch, add, then the constants."""
        if constants.keys() != set(self.names):
            wrong = sorted(constants.keys() ^ set(self.names))
            raise TypeError(f"{self.name}: parameters missing or unknown: {wrong}")
        return array("q", [0] * COUNTERS + [0, 0, 0, 0] + [constants[n] for n in self.names])

    def changed(self, template: Template, **constants: int) -> Template:
        """A copy of a template with other constants."""
        other = template[:]
        for name, value in constants.items():
            other[COUNTERS + len(COMMON) - 2 + self.names.index(name)] = value
        return other

    def run(
        self, template: Template, x: int, out: int, scratch: int, threads: int, add: int = 0
    ) -> None:
        """Run the job on up to `threads` threads, with the arrays at these addresses."""
        parameters = template[:]
        parameters[COUNTERS : COUNTERS + 4] = array("q", [x, out, scratch, add and add - out])
        run(self, parameters.buffer_info()[0], threads)


def scratch(nbytes: int) -> int:
    """Address of scratch memory for one call of the current Python thread."""
    return arena.reserve(nbytes)


def between(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """Memory for what one job hands to the next, until the next call of the current thread."""
    return handover.take(shape, dtype)


class OneJob:
    """A planned operation that is one job, with private scratch memory for each thread.

    It may read a padded copy of its input, which lies in front of the scratch memory.
    """

    def __init__(self, job: Job, private_bytes: int, padded: Any = None, **constants: int) -> None:
        self._job = job
        self._padded = padded
        self._private = _page(private_bytes)  # threads do not share pages
        self._shared = _page(padded.nbytes) if padded else 0
        if "shared_bytes" in job.names:
            constants["shared_bytes"] = self._shared
        self._template = job.pack(scratch_bytes=self._private, **constants)

    def scratch_bytes(self, threads: int) -> int:
        """Scratch memory of a run."""
        return self._shared + self._private * threads

    def run(
        self, x: np.ndarray, out: np.ndarray, threads: int, add: np.ndarray | None = None
    ) -> None:
        """All arrays C-contiguous, of the plan's shapes and dtype."""
        memory = scratch(self.scratch_bytes(threads))
        source, target = address(x), address(out)
        residual = 0 if add is None else address(add)
        if self._padded:
            self._padded.run(source, memory, threads)
        self._job.run(self._template_for(target), source, target, memory, threads, residual)

    def _template_for(self, out: int) -> Template:
        """Parameters for a run that writes to the address `out`."""
        return self._template


def _page(nbytes: int) -> int:
    return -(-nbytes // 4096) * 4096

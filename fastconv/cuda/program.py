"""Programs: kernels to launch one after another, with all that they are given."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastconv.cuda.im2col import Im2col
from fastconv.cuda.kernels import IMAGE_TYPES, Kernel

LARGEST = 2**31 - 512  # kernels count in 32 bits, and threads past the end do, too
GRID_LIMITS = (2**31 - 1, 65535, 65535)  # blocks along x, y and z that CUDA starts


@dataclass(frozen=True, eq=False)
class Step:
    """One launch.

    Attributes
    ----------
    kernel : Kernel
    grid : (int, int, int)
        Blocks.
    constants : dict
        Parameters that are the same in every run: numbers, arrays that stay on the device, and how
        copies see the program's array "x".
    buffers : dict
        The other parameters: their names, and those of the program's arrays.
    """

    kernel: Kernel
    grid: tuple[int, int, int]
    constants: dict[str, Any]
    buffers: dict[str, str]

    def __post_init__(self) -> None:
        given = {*self.constants, *self.buffers}
        if given != set(self.kernel.parameters):
            wrong = sorted(given ^ set(self.kernel.parameters))
            raise TypeError(f"{self.kernel.name}: parameters missing or unknown: {wrong}")

    def arguments(self, find: Callable[[Any], Any]) -> list[Any]:
        """Arguments in order.

        `find` gives what stands for an array, for a buffer's name, or for a view of "x".
        """
        found = {name: find(buffer) for name, buffer in self.buffers.items()}
        for name, value in self.constants.items():
            found[name] = find(value) if isinstance(value, (np.ndarray, Im2col)) else value
        return [found[name] for name in self.kernel.parameters]


@dataclass(frozen=True)
class Stage:
    """Steps whose place in a program is open: `make` has the names of their input and their output.

    `inside` are the arrays that they hand to each other.
    """

    make: Callable[[str, str], Step | list[Step]]
    shape: tuple[int, ...]
    dtype: str
    inside: dict[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Program:
    """Steps from the arrays "x" and perhaps "add" to "out" and perhaps "indices".

    Attributes
    ----------
    algorithm : str
        Public name of how the first step computes.
    steps : tuple of Step
    between : dict
        Name -> shape and dtype of each array that one step hands to the next.
    packed : ndarray
        Weights as the kernel reads them.
    main : int
        Which step does most of the work.
    """

    algorithm: str
    steps: tuple[Step, ...]
    between: dict[str, tuple[tuple[int, ...], str]]
    packed: np.ndarray
    main: int = 0

    @property
    def kernel(self) -> Kernel:
        """The kernel that does most of the work."""
        return self.steps[self.main].kernel


def chain(
    algorithm: str, stages: Iterable[Stage], packed: np.ndarray | None = None, main: int = 0
) -> Program:
    """A program of stages that each read what the one before gives."""
    *before, last = stages
    between = {f"between{i}": (stage.shape, stage.dtype) for i, stage in enumerate(before)}
    names = ["x", *between, "out"]
    steps: list[Step] = []
    for stage, *pair in zip([*before, last], names, names[1:], strict=False):
        made = stage.make(*pair)
        steps += made if isinstance(made, list) else [made]
        between |= stage.inside
    packed = np.empty(0) if packed is None else packed
    return Program(algorithm, tuple(steps), between, packed, main)


def check_dtype(op: str, dtype: str) -> None:
    """Raise TypeError for a dtype without kernels."""
    if dtype not in IMAGE_TYPES:
        raise TypeError(
            f"{op}: device 'cuda' has no {dtype}; convert with x.astype(np.float32), or use "
            "device='cpu'"
        )


def check_sizes(op: str, *shapes: tuple[int, ...]) -> None:
    """Raise ValueError for an array with more numbers than kernels can count."""
    for shape in shapes:
        if math.prod(shape) > LARGEST:
            raise ValueError(
                f"{op}: an array of shape {shape} has more than {LARGEST} numbers, which the CUDA "
                f"kernels cannot count; use smaller batches"
            )


def blocks(op: str, *counts: int) -> tuple[int, int, int]:
    """A grid of so many blocks along x, y and z.

    Raises
    ------
    ValueError
        There are more than a launch can have.
    """
    x, y, z = (*counts, *[1] * (3 - len(counts)))
    if any(n > limit for n, limit in zip((x, y, z), GRID_LIMITS, strict=True)):
        raise ValueError(f"{op}: too many blocks for CUDA, {x} x {y} x {z}; use smaller arrays")
    return x, y, z


def tasks(op: str, count: int, kernel: Kernel) -> tuple[int, int, int]:
    """A grid of one thread for each of `count` tasks."""
    return blocks(op, -(-count // kernel.threads))

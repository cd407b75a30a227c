"""The engines that are compared, one file each, behind one small interface.

A file holds a class `Engine`. Its package is imported when the engine is made, never before, so a
missing one is only an ImportError there. The first line of its docstring says how it is run.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from benchmarks.layers import Array, Layer

OURS, AUTO = "fastconv", "auto"  # AUTO: its variant that counts, where it chooses by itself
AVX2 = "fastconv-avx2"  # the same, as it runs on CPUs without AVX-512

# engine -> kind. "direct" engines multiply out every product; "winograd" ones have fewer to do; the
# "restricted" one takes part if it is asked for.
PEERS = {
    OURS: "own",
    AVX2: "restricted",
    "tensorflow": "direct",
    "torch": "direct",
    "onnxruntime": "direct",
    "openvino": "direct",
    "mnn": "winograd",
    "ncnn": "winograd",
}


@dataclass(frozen=True)
class Program:
    """A layer, ready to run on an engine.

    Attributes
    ----------
    run : function
        One inference and nothing else: this is what is timed.
    read : function
        Turns what `run` gave into an (n, h, w, k) array, or (n, h, w) of labels; never timed.
    alive : tuple
        Objects that the engine refers to without holding them.
    """

    run: Callable[[], Any]
    read: Callable[[Any], Array] = np.asarray
    alive: tuple[Any, ...] = ()


class Engine(Protocol):
    """What a file of this package provides.

    Attributes
    ----------
    version : str
    """

    version: str

    def __init__(self, threads: int) -> None:
        """Import the package and give it `threads` threads."""

    def variants(self, layer: Layer) -> dict[str, Callable[[], Program]]:
        """Ways to run this layer, each with the function that packs, compiles and allocates.

        That function raises NotImplementedError where the engine has no such operation.
        """


def load(name: str, threads: int) -> Engine:
    """Make the engine of that name.

    Raises
    ------
    ImportError
        If its package is not installed.
    """
    engine: Engine = _module(name).Engine(threads)
    return engine


def settings(name: str) -> str:
    """How the engine is run, in one line."""
    return str(_module(name).Engine.__doc__).partition("\n")[0]


def environment(name: str) -> dict[str, str]:
    """What an engine's process needs in its environment."""
    return {"NUMBA_CPU_NAME": "haswell"} if name == AVX2 else {}


def _module(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{'ours' if name in (OURS, AVX2) else name}")

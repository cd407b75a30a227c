"""C functions compiled on first use and kept on disk as object code.

Numba's own cache is not used. Its check sees only the file that holds a function, not the
generators that our code comes from, and to load from it a process first fills Numba's registries,
which takes half a second. Here the folder is named after a digest of all sources, of the compiler
and of the CPU (`fastconv.disk`), and LLVM alone loads the object. Where nothing can be written or
read, functions are compiled anew in each process.
"""

import ctypes
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

from fastconv import disk
from fastconv.cpu import host

_LOCK = threading.RLock()


@cache
def cache_folder() -> Path | None:
    """Folder of the compiled code, or None where none can be written."""
    here = Path(__file__).resolve().parent
    made_by = (version("numba"), version("llvmlite"), host.cpu_name(), host.feature_flags())
    sources = (here.parent / "cook_toom.py", *sorted(here.rglob("*.py")))
    return disk.folder(made_by, sources)


class Native(ABC):
    """``void(int64, ...)`` as a C function; compiled, or read from the cache, when first used.

    No two may have the same name.
    """

    def __init__(self, name: str, arguments: int, cached: bool = True) -> None:
        self.name = name
        self.compiled: bool | None = None  # False: read from the cache; None: not used yet
        self._arguments = arguments
        self._cached = cached
        self._address = 0

    @property
    def address(self) -> int:
        """Address of the machine code."""
        if not self._address:
            with _LOCK:
                self._address = self._address or self._load()
        return self._address

    @cached_property
    def entry(self) -> Callable[..., None]:
        """Callable from Python; the interpreter lock is released meanwhile."""
        return ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * self._arguments)(self.address)

    def _load(self) -> int:
        folder = cache_folder() if self._cached else None
        file = folder / f"{self.name}.o" if folder else None
        code = disk.read(file)
        self.compiled = code is None
        if code is None:
            code = self._object_code()
            disk.write(file, code)
        engine = _engine()
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        engine.finalize_object()
        return int(engine.get_function_address(self.name))

    @abstractmethod
    def _object_code(self) -> bytes:
        """Compile it."""

    def __repr__(self) -> str:
        return f"<native {self.name}>"


class Driver(Native):
    """A Python function of int64 arguments that returns nothing, as Numba compiles it."""

    def __init__(self, function: Callable[..., None], arguments: int) -> None:
        # the cache's folder has a digest of our own sources
        own = Path(function.__code__.co_filename).is_relative_to(Path(__file__).parent)
        super().__init__(function.__name__, arguments, cached=own)
        self._function = function

    def _object_code(self) -> bytes:
        from fastconv.cpu import compiler

        return compiler.object_code(self.name, self._arguments, self._function)


@cache
def _engine() -> Any:
    """LLVM's loader; what it has loaded stays until the process ends."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine()
    return llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)

"""C functions compiled by Numba on first use and kept on disk.

Compiled code is cached below ``NUMBA_CACHE_DIR`` (default: the user's cache folder) in a folder
named after a digest of the sources that generate it: Numba's own check sees only the file that
holds a function, not the generators that its code comes from. Where nothing can be written or
read, the functions are compiled anew in each process.
"""

import ctypes
import hashlib
import os
import pickle
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numba
from numba import cfunc, types

_LOCK = threading.RLock()


def _user_cache() -> Path:
    if "NUMBA_CACHE_DIR" in os.environ:
        return Path(os.environ["NUMBA_CACHE_DIR"])
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


@cache
def cache_folder() -> Path | None:
    """Folder of the compiled code, or None where none can be written."""
    here = Path(__file__).resolve().parent
    digest = hashlib.sha256(numba.__version__.encode())
    for source in (here.parent / "cook_toom.py", *sorted(here.rglob("*.py"))):
        digest.update(source.read_bytes())
    try:
        folder = _user_cache() / "fastconv" / digest.hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError):  # RuntimeError: no home folder is known
        return None


@contextmanager
def _cache_directory(folder: Path | None) -> Iterator[None]:
    """Numba reads its cache folder from a global when a function is decorated."""
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(folder or before)
    try:
        yield
    finally:
        numba.config.CACHE_DIR = before


def define(name: str, source: str, module: str, file: str, **scope: Any) -> Callable[..., None]:
    """Function `name` of generated `source`, as if it stood in `file`: that makes it cacheable."""
    space = {"__name__": module, **scope}
    exec(compile(source, file, "exec"), space)
    function: Callable[..., None] = space[name]
    return function


def _compile(function: Callable[..., None], signature: Any, folder: Path | None) -> Any:
    if folder is not None:
        with suppress(OSError, EOFError, pickle.UnpicklingError):  # a full disk, a damaged file
            return cfunc(signature, nopython=True, cache=True)(function)
    return cfunc(signature, nopython=True)(function)


class Native:
    """``void(int64, ...)`` as a C function; compiled, or read from the cache, when first used."""

    def __init__(self, function: Callable[..., None], arguments: int) -> None:
        self.name = function.__name__
        self._function = function
        self._arguments = arguments
        self._compiled: Any = None

    @property
    def compiled(self) -> Any:
        if self._compiled is None:
            with _LOCK:
                if self._compiled is None:
                    signature = types.void(*[types.int64] * self._arguments)
                    folder = cache_folder()
                    with _cache_directory(folder):
                        self._compiled = _compile(self._function, signature, folder)
        return self._compiled

    @cached_property
    def address(self) -> int:
        """Address of the machine code."""
        return int(self.compiled.address)

    @cached_property
    def entry(self) -> Callable[..., None]:
        """Callable from Python; the interpreter lock is released meanwhile."""
        return ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * self._arguments)(self.address)

    def __repr__(self) -> str:
        return f"<native {self.name}>"

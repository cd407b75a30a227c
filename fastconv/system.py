"""What runs here, and compiling it ahead of time."""

import importlib
import platform
import sys
from collections.abc import Sequence
from typing import TextIO

import numpy as np

from fastconv.dtypes import WORKING
from fastconv.spec import check_dtype
from fastconv.threads import available_cpus, get_num_threads


def show_config() -> None:
    """Print versions, CPU, threads, chosen kernels, the folder of compiled code, and the GPU."""
    import numba  # here: it takes 0.3 s

    host = importlib.import_module("fastconv.cpu.host")
    kernels = importlib.import_module("fastconv.cpu.kernels")
    native = importlib.import_module("fastconv.cpu.native")
    l2, last = host.cache_bytes()
    usable = [k.name for k in kernels.KERNELS if host.has(k.needs) and k.dtype == "float32"]
    print(f"python {platform.python_version()}, numpy {np.__version__}, numba {numba.__version__}")
    print(f"cpu {host.cpu_name()}, L2 {l2 >> 10} KiB, last level {last >> 10} KiB")
    print(f"threads {get_num_threads()} of {available_cpus()} available")
    print(f"float32 kernels: {', '.join(usable)}")
    print(f"compiled code in {native.cache_folder() or 'memory only: no folder can be written'}")
    cuda = importlib.import_module("fastconv.cuda")
    reason = cuda.unavailable()
    print(f"cuda {f'cannot be used: {reason}' if reason else cuda.describe()}")


def warmup(
    progress: bool = False, file: TextIO | None = None, dtypes: Sequence[str] = ("float32",)
) -> int:
    """Compile the kernels of this machine, or read them from the disk cache.

    Later processes then start without compiling. ``python -m fastconv warmup`` does the same.

    Parameters
    ----------
    progress : bool
        Show a progress bar.
    file : text file, optional
        Where the bar goes; default: standard error.
    dtypes : sequence of str
        Of the images that later processes will have.

    Raises
    ------
    TypeError
        A dtype is not supported.

    Returns
    -------
    int
        Number of functions.
    """
    stream = sys.stderr if file is None else file
    host = importlib.import_module("fastconv.cpu.host")
    kernels = importlib.import_module("fastconv.cpu.kernels")
    backend = importlib.import_module("fastconv.cpu")
    for dtype in dtypes:
        check_dtype("warmup", dtype)
    wanted = {*dtypes, *(WORKING[dtype] for dtype in dtypes)}
    rows = [k for k in kernels.KERNELS if k.dtype in wanted and host.has(k.needs)]
    natives = [*backend.NATIVE, *(k.native for k in rows)]
    for i, native in enumerate(natives, 1):
        _ = native.address
        if progress:
            filled = "#" * (30 * i // len(natives))
            end = "\n" if i == len(natives) else "\r"
            print(f"[{filled:<30}] {i}/{len(natives)} {native.name:<40}", end=end, file=stream)
            stream.flush()
    return len(natives)

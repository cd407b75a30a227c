"""From a kernel's Python to machine code; it needs the `cuda` extra, but no driver and no GPU."""

import functools
import re
import shutil
import subprocess
import tempfile
import threading
import types
from importlib.metadata import version
from pathlib import Path
from unittest import mock

from fastconv import disk
from fastconv.cuda.device import INSTALL
from fastconv.cuda.kernels import Capability, Kernel

LOCK = threading.Lock()


@functools.cache
def tool(name: str) -> str:
    """Path of a program of the CUDA toolkit: the one of the wheels, or the one on the path.

    Raises
    ------
    FileNotFoundError
        There is none.
    """
    try:
        import nvidia  # the folder that all of NVIDIA's wheels share
    except ImportError:
        roots = []
    else:
        roots = list(nvidia.__path__)
    found = [p for root in roots if (p := Path(root, "cu13", "bin", name)).exists()]
    path = str(found[0]) if found else shutil.which(name)
    if path is None:
        raise FileNotFoundError(f"{name}, a program of the CUDA toolkit, is missing; {INSTALL}")
    return path


def architecture(capability: Capability) -> str:
    """sm_90a from (9, 0, "a")."""
    return "sm_" + "".join(map(str, capability))


@functools.cache
def to_ptx(kernel: Kernel) -> str:
    """PTX text of a kernel, which the assembler makes code of for any GPU that can run it."""
    from numba import cuda

    # A kernel that calls another function asks the current device for its capability.
    device = types.SimpleNamespace(compute_capability=kernel.needs[:2])
    current = mock.patch("numba.cuda.dispatcher.get_current_device", return_value=device)
    with LOCK, current:
        ptx, _ = cuda.compile(
            kernel.function, kernel.signature, device=False, abi="numba", cc=kernel.needs,
            launch_bounds=(kernel.threads, kernel.blocks),
        )  # fmt: skip
    return str(ptx)


def entry(ptx: str) -> str:
    """Name of the kernel in its PTX."""
    found = re.search(r"\.visible \.entry (\w+)", ptx)
    assert found is not None
    return found[1]


def assemble(ptx: str, capability: Capability) -> tuple[bytes, str]:
    """Machine code, and what the assembler says about registers and memory.

    Raises
    ------
    RuntimeError
        The assembler refuses the code.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        source.write_text(ptx)
        options = ["-v", "-O3", f"-arch={architecture(capability)}"]
        command = [tool("ptxas"), *options, str(source), "-o", str(target)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603
        if done.returncode:
            raise RuntimeError(f"ptxas refuses a kernel: {done.stderr}{done.stdout}")
        return target.read_bytes(), done.stderr + done.stdout


@functools.cache
def cache_folder() -> Path | None:
    """Folder of machine code, or None where none can be written."""
    here, assembler = Path(__file__).resolve().parent, Path(tool("ptxas"))
    found = assembler.stat()
    made_by = (version("numba"), version("numba-cuda"), str(found.st_size), str(found.st_mtime_ns))
    return disk.folder(made_by, sorted(here.rglob("*.py")))


def cubin(kernel: Kernel, capability: Capability) -> tuple[str, bytes]:
    """Name and machine code of a kernel for a GPU; compiled, or read from the cache."""
    capability = kernel.target(capability)
    folder = cache_folder()
    file = folder / f"{kernel.name}-{architecture(capability)}.cubin" if folder else None
    kept = disk.read(file)
    if kept is None:
        ptx = to_ptx(kernel)
        kept = entry(ptx).encode() + b"\0" + assemble(ptx, capability)[0]
        disk.write(file, kept)
    name, _, code = kept.partition(b"\0")
    return name.decode(), code

"""What this machine is: CPU features and cache sizes, read once."""

import os
from functools import cache
from pathlib import Path

import llvmlite.binding as llvm


@cache
def features() -> frozenset[str]:
    """CPU features that kernels are chosen for, as LLVM names them.

    ``NUMBA_CPU_NAME`` and ``NUMBA_CPU_FEATURES`` restrict them.
    """
    name = os.environ.get("NUMBA_CPU_NAME")
    if name is not None and "NUMBA_CPU_FEATURES" not in os.environ:
        return frozenset(_KNOWN_CPUS.get(name, ()))
    return frozenset(flag[1:] for flag in feature_flags().split(",") if flag.startswith("+"))


@cache
def feature_flags() -> str:
    """CPU features that are compiled for, and those that are not: ``+avx2,-avx512f``.

    Nothing where ``NUMBA_CPU_NAME`` names a CPU: LLVM knows what that one has. (Numba compiles for
    the features of the host even then.)
    """
    if "NUMBA_CPU_FEATURES" in os.environ:
        return os.environ["NUMBA_CPU_FEATURES"]
    named = os.environ.get("NUMBA_CPU_NAME")
    return "" if named else str(llvm.get_host_cpu_features().flatten())


# The features that rows of `kernels.KERNELS` ask for, by CPU; other names get none of them.
_KNOWN_CPUS = {
    "skylake-avx512": ("avx512f",),
    "icelake-server": ("avx512f",),
    "sapphirerapids": ("avx512f",),
    "znver4": ("avx512f",),
    "znver5": ("avx512f",),
}


def has(feature: str) -> bool:
    """True when `feature` is "" or one of this host's."""
    return not feature or feature in features()


@cache
def vector_registers() -> int:
    """How many vectors a kernel can hold."""
    return 32 if has("avx512f") or has("neon") else 16


@cache
def cpu_name() -> str:
    """LLVM's name of the CPU."""
    return os.environ.get("NUMBA_CPU_NAME") or str(llvm.get_host_cpu_name())


@cache
def cache_bytes() -> tuple[int, int]:
    """Sizes of one core's L2 and of the last-level cache; 1 and 8 MiB where unknown."""
    sizes: dict[int, int] = {}
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            if (index / "type").read_text().strip() == "Instruction":
                continue
            size = (index / "size").read_text().strip()
            sizes[int((index / "level").read_text())] = int(size.rstrip("K")) * 1024
        except (OSError, ValueError):
            continue
    l2 = sizes.get(2, 1 << 20)
    return l2, max(sizes.get(3, 8 << 20), l2)


@cache
def vector_bytes() -> int:
    """Size of a vector register."""
    known = features()
    wide = (("avx512f", 64), ("avx", 32))
    return next((size for name, size in wide if name in known), 16)


@cache
def fma_vectors() -> float:
    """64-byte vectors of multiply-adds that a core can start in a cycle.

    Two registers each, as on nearly every CPU of the last ten years; Zen 4 joins its two pipes for
    the 64-byte ones.
    """
    return 1.0 if cpu_name() == "znver4" else 2 * vector_bytes() / 64


def bypasses(nbytes: int) -> bool:
    """Whether an output of so many bytes is better written past the caches.

    They keep half of what they hold for inputs: at 17 of 32 MB, layers whose tiles write several
    rows at once are 1.1 to 1.2 times as fast, others as fast as before, and whole networks, too.
    """
    return nbytes >= cache_bytes()[1] // 2

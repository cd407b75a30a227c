"""The CPU backend: which algorithm serves a spec, and why."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from fastconv.cpu import depthwise, direct, pool, transpose, windows, winograd
from fastconv.cpu.windows import Windows
from fastconv.spec import Conv2d, ConvTranspose2d, Pool2d, Resize2d


@dataclass(frozen=True)
class Algorithm:
    """A way to convolve: its public name, who plans it, and when it cannot serve or is slow."""

    name: str
    make: Callable[..., Any]
    supports: Callable[[Conv2d], str]  # "" or why not
    profits: Callable[[Conv2d], str] | None  # "" or why another one is faster; None: if asked for


# In the order of preference; several rows may share a public name.
ALGORITHMS = (
    *(
        Algorithm(
            f"winograd_f{m}", partial(winograd.Winograd, m), partial(winograd.supports, m),
            winograd.profits if m == 4 else None,
        )
        for m in (4, 2, 6)
    ),
    Algorithm("direct", depthwise.Depthwise, depthwise.supports, lambda spec: ""),
    Algorithm("direct", direct.Direct, direct.supports, lambda spec: ""),
)  # fmt: skip
NAMES = ("auto", *dict.fromkeys(a.name for a in ALGORITHMS))

# Everything but the micro-kernels that is compiled; `fastconv.warmup` reads it.
NATIVE = (
    *pool.NATIVE, direct.JOB, depthwise.JOB, transpose.JOB, windows.JOB,
    winograd.FUSED, winograd.FORWARD, winograd.PRODUCT,
)  # fmt: skip


def plan_conv2d(spec: Conv2d, w: Any, bias: Any, algorithm: str) -> tuple[Any, str]:
    """Packed weights and all that depends on shapes, and the reason for the choice."""
    refused = []
    for row in ALGORITHMS:
        if algorithm not in ("auto", row.name) or (algorithm == "auto" and row.profits is None):
            continue
        why_not = row.supports(spec)
        if algorithm == "auto" and row.profits is not None:
            why_not = why_not or row.profits(spec)
        if why_not:
            refused.append(f"not {row.name}: {why_not}")
            continue
        reason = "as asked" if algorithm != "auto" else "; ".join(refused) or "least arithmetic"
        return row.make(spec, w, bias), reason
    raise ValueError(
        f"conv2d: algorithm {algorithm!r} cannot serve this layer "
        f"({'; '.join(refused)}); use algorithm='auto'"
    )


def plan_conv2d_transpose(spec: ConvTranspose2d, w: Any, bias: Any) -> tuple[Any, str]:
    """As `plan_conv2d`."""
    return transpose.Transpose(spec, w, bias), "one matrix product a row phase"


@lru_cache(maxsize=256)
def plan_windows(spec: Pool2d | Resize2d, indices: bool = False) -> Windows:
    """Tables of a pool or a resize."""
    return Windows(spec, indices)

"""The CPU backend: which algorithm serves a spec, and why."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

from fastconv.cpu import (
    channelwise,
    composite,
    depthwise,
    direct,
    padding,
    pool,
    transpose,
    windows,
    winograd,
)
from fastconv.cpu.channelwise import label_dtype
from fastconv.spec import ChannelOp, Conv2d, ConvTranspose2d, Pool2d, Resize2d

__all__ = [
    "ALGORITHMS",
    "NAMES",
    "NATIVE",
    "label_dtype",
    "plan_channels",
    "plan_conv2d",
    "plan_conv2d_transpose",
    "plan_windows",
    "plan_windows_argmax",
]


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
    *pool.NATIVE, padding.JOB, direct.JOB, depthwise.JOB, depthwise.REPEAT, transpose.JOB,
    windows.JOB, windows.ARGMAX_JOB, channelwise.JOB, winograd.FUSED, winograd.FORWARD,
    winograd.PRODUCT,
)  # fmt: skip


def plan_conv2d(spec: Conv2d, w: Any, bias: Any, slopes: Any, algorithm: str) -> tuple[Any, str]:
    """Packed weights and all that depends on shapes, and the reason for the choice."""
    if composite.pool_comes_after(spec, slopes):
        first, reason = plan_conv2d(replace(spec, pool=False), w, bias, slopes, algorithm)
        return composite.then_pool(first, spec, w.dtype), reason
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
        return row.make(spec, w, bias, slopes), reason
    raise ValueError(
        f"conv2d: algorithm {algorithm!r} cannot serve this layer "
        f"({'; '.join(refused)}); use algorithm='auto'"
    )


def plan_conv2d_transpose(
    spec: ConvTranspose2d, w: Any, bias: Any, slopes: Any, labels: bool
) -> tuple[Any, str]:
    """As `plan_conv2d`; `labels`: the largest channel of each pixel is all that is wanted."""
    reason = "one matrix product a row phase"
    if labels and (spec.activation or spec.add or spec.groups > 1):
        first = transpose.Transpose(spec, w, bias, slopes)
        return composite.then_argmax(first, spec, w.dtype), reason
    return transpose.Transpose(spec, w, bias, slopes, labels), reason


@lru_cache(maxsize=256)
def plan_windows(spec: Pool2d | Resize2d, labels: bool = False) -> Any:
    """Tables of a pool or a resize; `labels` as above."""
    return windows.Windows(spec, labels=True) if labels else windows.plan(spec)


@lru_cache(maxsize=256)
def plan_windows_argmax(spec: Pool2d) -> windows.WindowsArgmax:
    """Tables of a max-pool that gives indices, too."""
    return windows.WindowsArgmax(spec)


@lru_cache(maxsize=256)
def plan_channels(spec: ChannelOp, label_bytes: int = 0) -> channelwise.Channelwise:
    """An argmax with labels of so many bytes, or a softmax."""
    return channelwise.Channelwise(spec, label_bytes)

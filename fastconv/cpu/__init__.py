"""The CPU backend: which algorithm serves a spec, and why."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

from fastconv.cpu import (
    channelwise,
    clock,
    composite,
    depthwise,
    direct,
    padding,
    pool,
    pooling,
    transpose,
    unpool,
    windows,
    winograd,
    winograd_few,
)
from fastconv.cpu.cost import Cost
from fastconv.spec import ChannelOp, Conv2d, ConvTranspose2d, Pool2d, Resize2d
from fastconv.weights import Weights

__all__ = [
    "ALGORITHMS",
    "NAMES",
    "NATIVE",
    "choose_conv2d",
    "plan_channels",
    "plan_conv2d",
    "plan_conv2d_transpose",
    "plan_unpool",
    "plan_windows",
    "plan_windows_argmax",
]


@dataclass(frozen=True)
class Algorithm:
    """A way to convolve: its public name, who plans it, when it can serve, what it costs."""

    name: str
    make: Callable[..., Any]
    supports: Callable[[Conv2d], str]  # "" or why not
    expected: Callable[[Conv2d], Cost | None]  # None: only if asked for


# Several rows may share a public name: the first that can serve does.
ALGORITHMS = (
    Algorithm(
        "winograd_f4", partial(winograd_few.Few, 4), partial(winograd_few.supports, 4),
        partial(winograd_few.expected, 4),
    ),
    *(
        Algorithm(
            f"winograd_f{m}", partial(winograd.Winograd, m), partial(winograd.supports, m),
            partial(winograd.expected, m),
        )
        for m in (4, 3, 2, 6)
    ),
    Algorithm("direct", depthwise.Depthwise, depthwise.supports, depthwise.expected),
    Algorithm("direct", direct.Direct, direct.supports, direct.expected),
)  # fmt: skip
NAMES = ("auto", *dict.fromkeys(a.name for a in ALGORITHMS))

# Everything but the micro-kernels that is compiled; `fastconv.warmup` reads it.
NATIVE = (
    *pool.NATIVE, padding.JOB, direct.JOB, depthwise.JOB, depthwise.REPEAT, transpose.JOB,
    windows.JOB, windows.ARGMAX_JOB, pooling.JOB, pooling.INSIDE, channelwise.JOB, unpool.JOB,
    winograd.FUSED, winograd.FORWARD, winograd.PRODUCT, winograd_few.JOB,
)  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """An executor, why it was chosen, and what it is expected to cost.

    `executor` holds packed weights and all that depends on shapes.
    """

    executor: Any
    reason: str
    cost: Cost | None
    where: str = ""  # on so many threads

    def time(self, threads: int, images: int) -> tuple[float, float] | None:
        """Expected seconds of a call, and those of its roofline; None where nothing is known."""
        if self.cost is None:
            return None
        rate = clock.cycles_per_second()
        both = self.cost.time(threads, images), self.cost.roofline(threads, images)
        return both[0] / rate, both[1] / rate


def plan_conv2d(spec: Conv2d, w: Weights, bias: Any, slopes: Any, algorithm: str) -> Choice:
    """Choose an algorithm and pack the weights."""
    if composite.pool_comes_after(spec, slopes):
        choice = plan_conv2d(replace(spec, pool=False), w, bias, slopes, algorithm)
        return replace(choice, executor=composite.then_pool(choice.executor, spec, w.dtype))
    able, refused = _able(spec)
    if algorithm != "auto":
        if algorithm not in able:
            raise ValueError(
                f"conv2d: algorithm {algorithm!r} cannot serve this layer "
                f"({refused[algorithm]}); use algorithm='auto'"
            )
        row = able[algorithm]
        return Choice(row.make(spec, w, bias, slopes), "as asked", row.expected(spec))
    known = _expected(spec, able)
    costs = {name: cost.time() for name, cost in known.items()}
    best = min(costs, key=lambda name: costs[name])
    others = [f"{name} {t / costs[best]:.2f} times" for name, t in costs.items() if name != best]
    reason = f"least expected time; {', '.join(others)}" if others else "none other can serve"
    return Choice(able[best].make(spec, w, bias, slopes), reason, known[best])


def choose_conv2d(spec: Conv2d) -> str:
    """The algorithm that "auto" takes."""
    if composite.pool_comes_after(spec, None):
        spec = replace(spec, pool=False)
    known = _expected(spec, _able(spec)[0])
    return min(known, key=lambda name: known[name].time())


def _expected(spec: Conv2d, able: dict[str, Algorithm]) -> dict[str, Cost]:
    return {name: cost for name, row in able.items() if (cost := row.expected(spec))}


def _able(spec: Conv2d) -> tuple[dict[str, Algorithm], dict[str, str]]:
    """Name -> the algorithm that serves `spec`, and name -> why there is none."""
    able: dict[str, Algorithm] = {}
    refused = {}
    for row in ALGORITHMS:
        if row.name not in able:
            if why_not := row.supports(spec):
                refused[row.name] = why_not
            else:
                able[row.name] = row
    return able, {name: why for name, why in refused.items() if name not in able}


def plan_conv2d_transpose(
    spec: ConvTranspose2d, w: Weights, bias: Any, slopes: Any, labels: bool
) -> Choice:
    """As `plan_conv2d`; `labels`: the largest channel of each pixel is all that is wanted."""
    reason = "one matrix product a row phase"
    if labels and (spec.activation or spec.add or spec.groups > 1):
        first = transpose.Transpose(spec, w, bias, slopes)
        executor: Any = composite.then_argmax(first, spec, w.dtype)
    else:
        executor = transpose.Transpose(spec, w, bias, slopes, labels)
    return Choice(executor, reason, transpose.expected(spec))


@lru_cache(maxsize=256)
def plan_windows(spec: Pool2d | Resize2d, labels: bool = False) -> Any:
    """Tables of a pool or a resize; `labels` as above."""
    return pooling.plan(spec, labels)


@lru_cache(maxsize=256)
def plan_windows_argmax(spec: Pool2d) -> windows.WindowsArgmax:
    """Tables of a max-pool that gives indices, too."""
    return windows.WindowsArgmax(spec)


@lru_cache(maxsize=256)
def plan_channels(spec: ChannelOp, label_bytes: int = 0) -> channelwise.Channelwise:
    """An argmax with labels of so many bytes, or a softmax."""
    return channelwise.Channelwise(spec, label_bytes)


def plan_unpool(indices: Any, lowest: Any, highest: Any) -> unpool.Unpool:
    """Unpooling at `indices`, which lie between `lowest` and `highest` in each row."""
    return unpool.Unpool(indices, lowest, highest)

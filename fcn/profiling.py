"""What each step of a segmentation takes, measured, beside what its arithmetic and bytes would."""

from __future__ import annotations

import html
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

import fastconv
from fcn.graph import INPUT
from fcn.session import Session
from fcn.steps import Step

__all__ = ["Measured", "Profile", "profile"]

HEAD = (
    "step", "computed as", "result", "ms", "time", "GFLOP", "MB", "GFLOP/s", "roofline", "why",
)  # fmt: skip
TEXT = 3  # columns of text before those of numbers
BAR, ROW = 560, 22  # largest bar and height of a row in the picture, in pixels


@dataclass(frozen=True)
class Measured:
    """One step.

    Attributes
    ----------
    name : str
        Of the node; ``"labels"`` where the best class of each pixel is a step of its own.
    way : str
        The algorithm of a convolution, or the operation.
    reason : str
        Why that algorithm.
    shape : tuple of int
        Of the result.
    seconds : float
        Median.
    flops : int
        Of the convolution as a direct one; 0 for what is none.
    nbytes : float
        Bytes moved: of a convolution those that its cost model counts, otherwise those of the
        inputs and the result.
    roofline : float or None
        Seconds that the machine's peak allows the algorithm (`fastconv.Plan.roofline_seconds`).
    """

    name: str
    way: str
    reason: str
    shape: tuple[int, ...]
    seconds: float
    flops: int
    nbytes: float
    roofline: float | None

    @property
    def rate(self) -> float:
        """FLOPs in a second; more than the peak is possible where Winograd's algorithm saves."""
        return self.flops / self.seconds

    @property
    def share(self) -> float | None:
        """Share of the roofline."""
        return None if self.roofline is None else self.roofline / self.seconds


@dataclass(frozen=True)
class Profile:
    """What `profile` measured; `str` gives a table, `svg` a picture and `html` both as a page.

    Attributes
    ----------
    model : str
    shape : tuple of int
        Of the network's input.
    threads, runs : int
    steps : tuple of Measured
    seconds : float
        Median of the runs, each from its first step to its last.
    """

    model: str
    shape: tuple[int, ...]
    threads: int
    runs: int
    steps: tuple[Measured, ...]
    seconds: float

    @property
    def title(self) -> str:
        """The model, its input, and how it was measured."""
        size = " x ".join(map(str, self.shape))
        return f"{self.model}, input {size}, {self.threads} threads, median of {self.runs} runs"

    @property
    def summary(self) -> str:
        """Time, work and speed of all."""
        flops = sum(step.flops for step in self.steps)
        return (
            f"{1e3 * self.seconds:.3g} ms, {flops / 1e9:.3g} GFLOP as direct convolutions, "
            f"{flops / self.seconds / 1e9:.3g} GFLOP/s"
        )

    def __str__(self) -> str:
        rows = [HEAD, *self._rows()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [self.title, ""]
        for row in rows:
            cells = [
                cell.ljust(width) if i < TEXT or i == len(HEAD) - 1 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  ".join(cells).rstrip())
        return "\n".join([*lines, "", self.summary])

    def svg(self) -> str:
        """A bar of each step's time; its dark part is what the roofline allows."""
        longest = max(step.seconds for step in self.steps)
        left = 16 + 7 * max(len(step.name) for step in self.steps)
        size = f'width="{left + BAR + 220}" height="{ROW * len(self.steps) + 8}"'
        bars = "\n".join(
            _bar(step, left, 4 + ROW * i, BAR / longest) for i, step in enumerate(self.steps)
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" '
            f'font-size="12">\n{bars}\n</svg>\n'
        )

    def html(self) -> bytes:
        """Picture and table as one HTML file."""
        from fcn.pages import page, paragraph, table

        return page(
            f"fcn profile {self.model}",
            [
                paragraph(f"{self.title}: {self.summary}"),
                f'<div class="wide">{self.svg()}</div>',
                paragraph("Length: measured time. Dark: the least time at the machine's peak."),
                table(HEAD, self._rows(), [False] * len(self.steps), TEXT),
            ],
        )

    def _rows(self) -> Iterator[tuple[str, ...]]:
        total = sum(step.seconds for step in self.steps)
        for step in self.steps:
            yield (
                step.name, step.way, " x ".join(map(str, step.shape[1:])),
                f"{1e3 * step.seconds:.3f}", f"{step.seconds / total:.1%}",
                f"{step.flops / 1e9:.3f}" if step.flops else "", f"{step.nbytes / 1e6:.2f}",
                f"{step.rate / 1e9:.1f}" if step.flops else "",
                "" if step.share is None else f"{step.share:.0%}", step.reason,
            )  # fmt: skip


def profile(session: Session, image: npt.NDArray[Any], runs: int = 5) -> Profile:
    """Run the steps of ``session.segment(image)`` one by one; see `Session.profile`.

    Raises
    ------
    ValueError, TypeError
        For less than one run, or as `Session.segment` does.
    """
    if type(runs) is not int or runs < 1:
        raise ValueError(f"profile: runs is an integer >= 1, got {runs!r}")
    x = session.prepare(image)
    program = session.labelling(x.shape)
    steps = [_Timed(**vars(step)) for step in program.steps]
    watched = program.with_steps(steps)
    buffers, whole, last = program.buffers(), _Times(), _Times()
    for _ in range(runs + 1):
        with whole:
            result = watched.run(x, buffers)
            if not program.labels:
                with last:
                    labels = session.labels_of(result)
    sizes = {INPUT: x.size} | {step.node.name: math.prod(step.shape) for step in steps}
    found = [_measured(step, sizes) for step in steps]
    if not program.labels:
        moved = result.nbytes + labels.nbytes
        found.append(Measured("labels", "argmax", "", labels.shape, last.median, 0, moved, None))
    threads = session.num_threads or fastconv.get_num_threads()
    name = session.model.graph.name
    return Profile(name, x.shape, threads, runs, tuple(found), whole.median)


class _Times:
    """How long each of the blocks took that were run with it."""

    def __init__(self) -> None:
        self._seconds: list[float] = []

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._seconds.append(time.perf_counter() - self._start)

    @property
    def median(self) -> float:
        """Of all but the first one, which may have had to compile."""
        return statistics.median(self._seconds[1:])


@dataclass(frozen=True)
class _Timed(Step):
    """A step that keeps its times."""

    times: _Times = field(default_factory=_Times)

    def run(self, inputs: Sequence[npt.NDArray[Any]], out: npt.NDArray[Any]) -> None:
        """As `Step.run`."""
        with self.times:
            super().run(inputs, out)
            if not isinstance(out, np.ndarray):  # on a GPU it has only been started
                out.wait()


def _measured(step: _Timed, sizes: dict[str, int]) -> Measured:
    reason, flops, nbytes, roofline = "", 0, None, None
    if plan := step.plan:
        reason, flops = plan.reason, plan.spec.flops
        nbytes, roofline = plan.bytes_moved, plan.roofline_seconds
    if nbytes is None:
        nbytes = 4.0 * (sum(sizes[name] for name in step.inputs) + math.prod(step.shape))
    return Measured(
        step.node.name, step.way, reason, step.shape, step.times.median, flops, nbytes, roofline
    )


def _bar(step: Measured, left: int, top: int, scale: float) -> str:
    """Name, bar and figures; `scale` is in pixels a second."""
    length, least = scale * step.seconds, scale * min(step.roofline or 0, step.seconds)
    words = f"{1e3 * step.seconds:.3g} ms, {step.way}"
    if step.share is not None:
        words += f", {step.share:.0%} of the roofline"
    middle = top + ROW - 8
    return (
        f'<text x="{left - 8}" y="{middle}" text-anchor="end">{html.escape(step.name)}</text>'
        f'<rect x="{left}" y="{top}" width="{length:.1f}" height="{ROW - 5}" fill="#9ebcda"/>'
        f'<rect x="{left}" y="{top}" width="{least:.1f}" height="{ROW - 5}" fill="#08306b"/>'
        f'<text x="{left + length + 6:.1f}" y="{middle}">{html.escape(words)}</text>'
    )

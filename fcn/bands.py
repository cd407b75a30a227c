"""Segment pictures of any size in bounded memory, over bands of rows, with the bits of the whole.

A round reads some rows of the picture; then the steps take turns to make what follows from them,
each as much of the height as was read, and of each tensor only the rows stay that somebody still
reads. Nothing is computed twice, however large receptive fields are. Bits are those of the whole
picture because bands begin where Winograd tiles do, zeros stand only where the whole has zeros
(`fcn.rows`), and every convolution runs the algorithm that it would run on the whole.

A step waits until it has `PIXELS` to make, so that the small maps of a network, whose weights are
large, do not read these for each row. What depends on all rows, such as a global pool, waits for
them all, and what it reads is then kept whole.

Bands save memory, not time, so nobody takes them unasked: whole layers write past the caches, and
fetch what they read during the products before. FCN-8s at 512 x 512 takes 159 ms whole, 167 to 169
in bands of 64 to 256 rows, and 163 to 175 if only the layers before the third or fourth stage are
banded; at 1024 x 1024 it is 622, 644 to 688, and 624 to 634 (Zen 5, two threads).
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import fastconv
from fcn import native, rows, scores
from fcn.fusion import Group, groups
from fcn.graph import INPUT, Shape
from fcn.rows import Band
from fcn.session import Session
from fcn.steps import Step, compile_band, gives_labels, kernel_bytes

__all__ = ["Bands", "Schedule", "nbytes", "segment"]

PIXELS = 4096  # of a result, for which it pays to read the weights
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20,
         "GIB": 2**30}  # fmt: skip


def segment(
    session: Session, image: npt.NDArray[Any], memory: int | str | None, band: int | None,
    planes: Sequence[str] | None,
) -> tuple[npt.NDArray[Any], dict[str, npt.NDArray[np.float32]]]:  # fmt: skip
    """See `Session.segment`."""
    if band is not None and (type(band) is not int or band < 1):
        raise ValueError(f"segment: band is an integer >= 1, got {band!r}")
    many = isinstance(image, np.ndarray) and image.ndim > 1
    session.normalise(image[:1, :1] if many else image)  # is it a picture at all?
    height, width = image.shape[:2]
    whole = session.prepared_shape(height, width)
    across = np.minimum(np.arange(whole[2]), width - 1)

    def read(low: int, high: int) -> npt.NDArray[np.float32]:
        """What `Session.prepare` would have there: behind the picture its edge goes on."""
        down = np.minimum(np.arange(low, high), height - 1)
        return session.normalise(image[down][:, across])[None]

    classes = session.model.graph.shapes(whole)[session.model.graph.output][3]
    labels = np.empty((height, width), fastconv.label_dtype(classes))
    found = {name: np.empty((height, width), np.float32) for name in planes or ()}
    limit = nbytes(memory or 0) if band is None else None
    kept = sum(array.nbytes for array in (image, labels, *found.values()))
    runner, schedule = session.banded(whole, not planes, band, limit, kept)
    for low, made in runner.run(schedule, read):
        here = slice(low, min(low + made.shape[1], height))
        part = made[:, : here.stop - low, :width]
        labels[here] = (part if runner.labels else session.labels_of(part))[0]
        if planes:
            for name, values in scores.assess(part[0], session.model.graph, planes).items():
                found[name][here] = values
    return labels, found


def nbytes(memory: int | str) -> int:
    """Bytes of ``"2GB"`` and its like."""
    text = str(memory).strip().upper()
    number = text.rstrip("KMGIB ")
    try:
        count = float(number) * UNITS[text[len(number) :].strip()]
    except (ValueError, KeyError):
        count = math.nan
    if not 0 < count < math.inf:
        raise ValueError(f"memory is a number of bytes, or a text such as '2GB': {memory!r}")
    return int(count)


class Task(NamedTuple):
    """Rows that are read of the picture, if `group` is None, or that a step makes.

    Attributes
    ----------
    group : Group or None
    band : Band
    keep : int
        The first row of its tensor that somebody still reads; the ones before may go.
    """

    group: Group | None
    band: Band
    keep: int


class Schedule:
    """Which rows are made when, and how many of each tensor have to be kept.

    Parameters
    ----------
    output : str
        The node whose rows are wanted.
    known : mapping of tensor name to shape
        Of the whole picture.
    groups : sequence of Group
    height : int
        Rows of the picture that a round reads.
    units : mapping of str to int
        For the last node of each group `fcn.rows.unit`.

    Attributes
    ----------
    tasks : list of Task
    kept : dict of str to int
        Tensor -> the most rows of it that are in memory at once.
    """

    def __init__(
        self, output: str, known: Mapping[str, Shape], groups: Sequence[Group], height: int,
        units: Mapping[str, int],
    ) -> None:  # fmt: skip
        self.known, self.groups = known, groups
        self.tasks: list[Task] = []
        self.done = dict.fromkeys([INPUT, *(g.last.name for g in self.groups)], 0)
        self.kept = dict(self.done)
        self._units, self._output = units, output
        self._most = {g.last.name: self._limit(g.last.name, height) for g in self.groups}
        self._readers = {
            name: [(g, g.inputs.index(name)) for g in self.groups if name in g.inputs]
            for name in self.done
        }
        end = known[INPUT][1]
        for low in range(0, end, height):
            self._add(None, INPUT, Band((low, min(low + height, end)), ()))
            while self._turns():
                pass

    def nbytes(self) -> int:
        """Memory of the tensors, but for the result."""
        counts = ((name, count) for name, count in self.kept.items() if name != self._output)
        return 4 * sum(count * math.prod(self.known[name][2:]) for name, count in counts)

    def buffers(self) -> dict[str, npt.NDArray[np.float32]]:
        """A new set of arrays for the rows of all tensors but the result."""
        return {
            name: fastconv.aligned_empty((1, count, *self.known[name][2:]), np.float32)
            for name, count in self.kept.items()
            if name != self._output
        }

    def _turns(self) -> bool:
        """One turn of every step; whether any made something."""
        before = len(self.tasks)
        for group in self.groups:
            if band := self._possible(group):
                self._add(group, group.last.name, band)
        return len(self.tasks) > before

    def _limit(self, name: str, height: int) -> int:
        """Rows of a turn: the share of the whole that a round reads, or enough of small ones."""
        _, down, across, _ = self.known[name]
        share = -(-height * down // self.known[INPUT][1])
        unit = self._units[name]
        return -(-max(share, -(-PIXELS // max(across, 1))) // unit) * unit

    def _add(self, group: Group | None, name: str, band: Band) -> None:
        low, high = band.rows
        keep = low if name == self._output else min(self._needed(name), low)
        self.tasks.append(Task(group, band, keep))
        self.kept[name] = max(self.kept[name], high - keep)
        self.done[name] = high

    def _needed(self, name: str) -> int:
        """The first row of a tensor that has still to be read."""
        least = self.known[name][1]
        for group, i in self._readers[name]:
            low, end = self.done[group.last.name], self.known[group.last.name][1]
            if low < end:
                least = min(least, rows.band(group, self.known, low, low + 1).reads[i][0])
        return max(least, 0)

    def _possible(self, group: Group) -> Band | None:
        """The rows that a step makes in its turn; None if it had better wait."""
        name = group.last.name
        low, end = self.done[name], self.known[name][1]
        most = end if rows.wants_all(group.node) else min(low + self._most[name], end)
        for limit in (most, end):  # more where so few are made of zeros around the picture alone
            high = self._ready(group, low, limit)
            if high < end:
                high -= high % self._units[name]
            few = high < end and (high - low) * self.known[name][2] < PIXELS
            if high <= low or few:
                return None
            parts = [(low, high), (high, end)] if high < end else [(low, end)]
            first, *rest = (rows.band(group, self.known, *part) for part in parts)
            if all(start < stop for band in (first, *rest) for start, stop in band.reads):
                return first
        return first if high == end else None

    def _ready(self, group: Group, low: int, limit: int) -> int:
        """The row, `limit` at most, up to which all is there that a step reads."""

        def missing(high: int) -> bool:
            reads = rows.band(group, self.known, low, high).reads
            parts = zip(group.inputs, reads, strict=True)
            return any(last > self.done[tensor] for tensor, (_, last) in parts)

        return low + bisect.bisect_left(range(low + 1, limit + 1), True, key=missing)


class Bands:
    """What it takes to run a session's model on one picture over bands.

    Parameters
    ----------
    session : Session
        Its packed weights are shared.
    whole : (1, h, w, c)
        Shape of the network's input.
    labels : bool
        Give labels instead of scores, where the last step can.
    """

    def __init__(self, session: Session, whole: Shape, labels: bool = False) -> None:
        self.session, self.whole, self.graph = session, whole, session.model.graph
        self.known = self.graph.shapes(whole)
        self.groups = list(groups(self.graph, self.known))
        self.algorithms = {g.last.name: self._algorithm(g) for g in self.groups}
        self._units = {g.last.name: rows.unit(g, self.algorithms[g.last.name]) for g in self.groups}
        self.labels = labels and gives_labels(self.groups[-1], self.known)
        self._steps: dict[Any, Step] = {}

    def schedule(self, height: int) -> Schedule:
        """Rounds of so many rows; more to make a multiple of the network's total stride."""
        stride = self.graph.total_stride
        rounded = -(-height // stride) * stride
        return Schedule(self.graph.output, self.known, self.groups, rounded, self._units)

    def nbytes(self, schedule: Schedule) -> int:
        """Memory of a run; weights are packed to know it."""
        scratch = self._scratch(schedule)  # packs weights
        return self._weights() + scratch + self._tensors(schedule)

    def schedule_within(self, limit: int, kept: int = 0) -> Schedule:
        """The schedule of the tallest bands that take no more than `limit` bytes.

        Of these, `kept` are taken already. How scratch memory grows with the tensors is learnt from
        lower bands.
        """
        limit -= kept
        stride = self.graph.total_stride
        heights = range(stride, self.whole[1] + stride, stride)
        best = self.schedule(stride)
        need = self.nbytes(best)
        if need > limit:
            raise ValueError(
                f"segment: {self.graph.name} takes about {(need + kept) / 1e6:.0f} MB for this "
                f"picture in the lowest bands, got memory={(limit + kept) / 1e6:.0f} MB; allow more"
            )
        while True:
            growth = 1 + self._scratch(best) / self._tensors(best)
            room = (limit - self._weights()) / growth
            more = bisect.bisect_right(
                heights, room, key=lambda height: self._tensors(self.schedule(height))
            )
            found = self.schedule(heights[max(more - 1, 0)])
            if self._tensors(found) <= self._tensors(best):
                return best
            if self.nbytes(found) > limit:
                heights = heights[: more - 1]
            else:
                best = found

    def run(self, schedule: Schedule, read: Callable[[int, int], Any]) -> Any:
        """Yield the first row and the rows of the result, or its labels, band by band.

        Parameters
        ----------
        schedule : Schedule
        read : function of (low, high)
            Gives these rows of the input, (1, high - low, w, c).
        """
        self._plan(schedule)
        buffers = self.session.borrow(schedule)
        tensors = {name: _Rows(memory) for name, memory in buffers.items()}
        for group, band, keep in schedule.tasks:
            if group is None:
                tensors[INPUT].grow(*band.rows, keep)[...] = read(*band.rows)
                continue
            step, name = self._step(group, band), group.last.name
            if name == self.graph.output:
                out = fastconv.aligned_empty(step.shape, step.dtype)  # who asked may keep it
            else:
                out = tensors[name].grow(*band.rows, keep)
            parts = zip(group.inputs, band.reads, strict=True)
            step.call(*(tensors[source].rows(*reads) for source, reads in parts), out=out)
            if name == self.graph.output:
                yield band.rows[0], out
        self.session.give_back(schedule, buffers)

    def _step(self, group: Group, band: Band) -> Step:
        """A step for a band of that form, wherever it lies; for a resize that matters."""
        lengths = tuple(high - low for low, high in (band.rows, *band.reads))
        where = band.rows if group.node.op in rows.RESIZES else None
        key = group.last.name, lengths, band.pad, where
        if key not in self._steps:
            session = self.session
            self._steps[key] = compile_band(
                group, self.known, session.model.weights, session.packed, band,
                algorithm=self.algorithms[group.last.name], num_threads=session.num_threads,
                device=session.device,
                labels=self.labels and group.last.name == self.graph.output,
            )  # fmt: skip
        return self._steps[key]

    def _plan(self, schedule: Schedule) -> list[Step]:
        """All steps of a schedule."""
        weights = self.session.model.weights
        found = [(group, band) for group, band, _ in schedule.tasks if group is not None]
        found.sort(key=lambda pair: kernel_bytes(pair[0], weights), reverse=True)
        return [self._step(*pair) for pair in found]

    def _scratch(self, schedule: Schedule) -> int:
        plans = (step.plan for step in self._plan(schedule))
        return max((plan.scratch_bytes for plan in plans if plan is not None), default=0)

    def _tensors(self, schedule: Schedule) -> int:
        """Bytes of what lies between steps, and of the newest rows of the result."""
        _, _, across, channels = self.known[self.graph.output]
        item = 4 if self.labels else 4 * channels
        return schedule.nbytes() + item * across * schedule.kept[self.graph.output]

    def _weights(self) -> int:
        packed = sum(w.packed_bytes for w in self.session.packed.values())
        arrays = self.session.model.weights.values()
        return packed + sum(w.nbytes for w in arrays if not native.mapped(w))

    def _algorithm(self, group: Group) -> str:
        """What runs on the whole picture."""
        node, session = group.node, self.session
        if node.op != "conv2d":
            return "direct"
        if session.algorithm != "auto":
            return session.algorithm
        x, attrs = self.known[node.inputs[0]], node.attrs
        keys = ("stride", "padding", "dilation", "groups", "activation", "alpha")
        options = {key: attrs[key] for key in keys}
        if group.residual is not None and group.then is not None:
            options |= {"add": True, "activation": group.then.attrs["activation"]}
        elif group.then is not None:
            options["pool"] = True
        kernel = (*attrs["kernel"], x[3] // attrs["groups"], attrs["filters"])
        return fastconv.choose_algorithm(x, kernel, device=session.device, **options)


class _Rows:
    """Some rows of a tensor, the oldest of which make room for new ones."""

    def __init__(self, memory: npt.NDArray[Any]) -> None:
        self._memory, self._first, self._behind = memory, 0, 0

    def rows(self, low: int, high: int) -> npt.NDArray[Any]:
        """A view of rows that are there."""
        assert self._first <= low and high <= self._behind
        return self._memory[:, low - self._first : high - self._first]

    def grow(self, low: int, high: int, keep: int) -> npt.NDArray[Any]:
        """A view of new rows behind the last; rows before `keep` may be lost."""
        if high - self._first > self._memory.shape[1]:
            self._memory[:, : low - keep] = self.rows(keep, low)
            self._first = keep
        self._behind = high
        return self.rows(low, high)

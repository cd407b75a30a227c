"""Pictures of results, made from the JSON alone; matplotlib comes with ``fastconv[bench]``."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.peers import OURS
from benchmarks.summary import PEER_KINDS, Json, engines, fastest, layers, speedup


class Series(NamedTuple):
    """Points of one colour; `spread` is that of y, a share of it."""

    name: str
    x: list[Any]
    y: list[float]
    spread: list[float]


def speedups(result: Json) -> list[Series]:
    """For each peer: layers, and its time over ours."""
    found = []
    for name in engines(result, *PEER_KINDS["all"]):
        points = [(layer["name"], s) for layer in layers(result) if (s := speedup(layer, name))]
        found.append(Series(name, [p[0] for p in points], *_columns([p[1] for p in points])))
    return found


def roofline(result: Json) -> list[Series]:
    """Operations per byte and GFLOP/s of every convolution: ours, and the fastest peer's."""
    found = []
    for name, names in ((OURS, [OURS]), ("fastest peer", engines(result, *PEER_KINDS["all"]))):
        points = [
            (layer["gflop"] / layer["gbyte"], (layer["gflop"] / one[0].median, one[0].spread))
            for layer in layers(result)
            if layer["gflop"] and (one := fastest(layer, names))
        ]
        found.append(Series(name, [p[0] for p in points], *_columns([p[1] for p in points])))
    return found


def curves(result: Json, against: str) -> list[Series]:
    """Milliseconds of a sweep, ours and the fastest peer's.

    Parameters
    ----------
    result : dict
        Of `benchmarks.sweep`.
    against : "size" or "threads"
        What x is; there is a series for each value of the other.
    """
    found: dict[str, list[tuple[int, tuple[float, float]]]] = {}
    for run in result["sweep"]:
        for layer in layers(run):
            size, threads = layer["x"][1], run["threads"]
            x, of = (size, f"{threads} threads") if against == "size" else (threads, f"{size}^2")
            for name, names in (
                (OURS, [OURS]), ("fastest peer", engines(run, *PEER_KINDS["all"]))
            ):  # fmt: skip
                if one := fastest(layer, names):
                    point = x, (1e3 * one[0].median, one[0].spread)
                    found.setdefault(f"{name}, {of}", []).append(point)
    return [
        Series(name, [x for x, _ in points], *_columns([y for _, y in points]))
        for name, points in found.items()
    ]


def _columns(pairs: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [a for a, _ in pairs], [b for _, b in pairs]


def draw(result: Json, path: Path) -> list[Path]:
    """Write all plots of a result beside `path`, as ``<stem>-<plot>.svg``; which were written."""
    pictures: dict[str, Callable[[Any, Json], None]]
    if "sweep" in result:
        pictures = {"sizes": _draw_sizes, "threads": _draw_threads}
    else:
        pictures = {"speedups": _draw_speedups, "roofline": _draw_roofline}
    try:
        figure = importlib.import_module("matplotlib.figure").Figure
    except ImportError as error:
        print(f"no plots: {error}; pip install 'fastconv[bench]'", file=sys.stderr)
        return []
    written = []
    for name, picture in pictures.items():
        canvas = figure(layout="constrained")
        picture(canvas, result)
        written.append(path.with_name(f"{path.stem}-{name}.svg"))
        canvas.savefig(written[-1])
    return written


def _draw_speedups(figure: Any, result: Json) -> None:
    series, names = speedups(result), [layer["name"] for layer in layers(result)]
    figure.set_size_inches(8, 2 + 0.12 * len(names) * (len(series) + 1))
    axes, height = figure.subplots(), 1 / (len(series) + 1)
    for i, one in enumerate(series):
        at = [names.index(name) + (i - (len(series) - 1) / 2) * height for name in one.x]
        ends = [y * spread for y, spread in zip(one.y, one.spread, strict=True)]
        axes.barh(at, [y - 1 for y in one.y], height, left=1, xerr=ends, label=one.name)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("time / fastconv's time")
    if _legend(axes):
        axes.set_xscale("log")


def _draw_roofline(figure: Any, result: Json) -> None:
    axes = figure.subplots()
    for one, marker in zip(roofline(result), "ox", strict=True):
        axes.plot(one.x, one.y, marker, label=one.name)
    peak = result.get("peak", {})
    if {"gflops", "gbytes"} <= peak.keys():
        ridge = peak["gflops"] / peak["gbytes"]
        x = [0.01 * ridge, ridge, 100 * ridge]
        axes.plot(x, [min(peak["gflops"], v * peak["gbytes"]) for v in x], label="roofline")
    axes.set(xlabel="operations per byte", ylabel="GFLOP/s as a direct convolution")
    _finish(axes)


def _draw_sizes(figure: Any, result: Json) -> None:
    _draw_curves(figure, result, "size", "height and width of the map")


def _draw_threads(figure: Any, result: Json) -> None:
    _draw_curves(figure, result, "threads", "threads")


def _draw_curves(figure: Any, result: Json, against: str, label: str) -> None:
    axes = figure.subplots()
    for one in curves(result, against):
        ends = [y * spread for y, spread in zip(one.y, one.spread, strict=True)]
        line = "-" if one.name.startswith(OURS) else "--"
        axes.errorbar(one.x, one.y, ends, linestyle=line, marker=".", label=one.name)
    axes.set(xlabel=label, ylabel="ms")
    _finish(axes)


def _legend(axes: Any) -> bool:
    """Name what is drawn; False where there is nothing, without peers or after failures."""
    drawn = bool(axes.get_legend_handles_labels()[0]) and bool(axes.dataLim.width >= 0)
    if drawn:
        axes.legend(fontsize="small")
    return drawn


def _finish(axes: Any) -> None:
    """Logarithmic axes, which must not be empty, and a legend."""
    if _legend(axes):
        axes.set(xscale="log", yscale="log")

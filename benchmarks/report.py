"""Results as text: the Markdown tables of `compare`, made from the JSON alone."""

import statistics
from typing import Any, NamedTuple

import numpy as np

from benchmarks import check, startup
from benchmarks.peers import OURS

Json = dict[str, Any]


class Time(NamedTuple):
    """Median of the rounds in seconds, and half their interquartile range as a share of it."""

    median: float
    spread: float
    variant: str

    def __str__(self) -> str:
        return f"{1e3 * self.median:.3g} +-{100 * self.spread:.0f}%"


def best(layer: Json, engine: str) -> Time | None:
    """The fastest variant of an engine on a layer; None where no variant ran."""
    found = []
    for variant, result in layer["engines"].get(engine, {}).items():
        rounds = [turn["median"] for turn in result.get("rounds", [])]
        if rounds and "failed" not in result:
            low, median, high = np.percentile(rounds, [25, 50, 75])
            found.append(Time(float(median), float((high - low) / 2 / median), variant))
    return min(found, default=None)


def ratio(layer: Json, engines: list[str]) -> float | None:
    """Time of the fastest of `engines` over ours."""
    ours, others = best(layer, OURS), [t for e in engines if (t := best(layer, e))]
    return min(others).median / ours.median if ours and others else None


def table(result: Json) -> str:
    """One row per layer: every engine's time, and the ratios."""
    kinds = {kind: [n for n, e in result["engines"].items() if e.get("kind") == kind]
             for kind in ("own", "direct", "winograd")}  # fmt: skip
    engines = [*kinds["own"], *kinds["direct"], *kinds["winograd"]]
    head = ["layer", *engines, "direct / ours", "winograd / ours", "error"]
    lines = [head, ["---"] * len(head)]
    for layer in result["layers"]:
        times = [best(layer, engine) for engine in engines]
        ratios = [ratio(layer, kinds[kind]) for kind in ("direct", "winograd")]
        own = best(layer, OURS)
        error = layer["engines"][OURS][own.variant]["error"] if own else None
        lines.append([
            f"{layer['name']}, {layer['what']}",
            *(str(t) if t else "-" for t in times),
            *(f"{r:.2f}" if r else "-" for r in ratios),
            f"{error:.1e}" if error is not None else "-",
        ])  # fmt: skip
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def goals(result: Json) -> str:
    """What the project promises on these layers, and what was reached."""
    lines = []
    for layer in result["layers"]:
        for goal in layer["goals"]:
            reached = ratio(layer, goal["peers"])
            if reached is not None:
                verdict = "yes" if reached >= goal["ratio"] else "NO"
                peers = " and ".join(goal["peers"])
                lines.append(
                    f"| {layer['name']} | fastest of {peers} | {reached:.2f} | {goal['ratio']} "
                    f"| {verdict} |"
                )
    if not lines:
        return ""
    return "\n".join(
        ["| goal | over ours | ratio | wanted | reached |", "|---|---|---|---|---|", *lines]
    )


def notes(result: Json) -> str:
    """How each engine was run, and all that is missing or odd."""
    lines = []
    for name, engine in result["engines"].items():
        if "missing" in engine:
            lines.append(f"* {name}: left out, {engine['missing']}")
        else:
            lines.append(f"* {name} {engine['version']}: {engine['settings']}")
    for layer in result["layers"]:
        for name, variants in layer["engines"].items():
            for variant, found in variants.items():
                where = f"* {layer['name']}, {name} ({variant}):"
                if "failed" in found:
                    lines.append(f"{where} did not run, {found['failed']}")
                elif "rounds" not in found:
                    lines.append(f"{where} not timed, relative error {found['error']:.1e}")
                else:
                    lines += [f"{where} {odd}" for odd in _oddities(found, result["threads"])]
    return "\n".join(lines)


def _oddities(found: Json, threads: int) -> list[str]:
    odd = []
    if found["error"] >= check.COARSE:
        odd.append(f"coarse, relative error {found['error']:.1e}")
    cores = statistics.median(turn["cores"] for turn in found["rounds"])
    if cores > 1.1 * threads:
        odd.append(f"used {cores:.1f} threads instead of {threads}")
    if not all(turn["rests"] for turn in found["rounds"]):
        odd.append("its threads did not come to rest between turns")
    return odd


def markdown(result: Json) -> str:
    """The whole report."""
    machine = result["machine"]
    head = (
        f"{machine['cpu']}, {machine['cpus']} CPUs, {result['threads']} threads; "
        f"{machine['system']}, Python {machine['python']}, NumPy {machine['numpy']}, "
        f"Numba {machine['numba']}; "
        f"{result['date']}, load {machine['load']}. Milliseconds, median of {result['rounds']} "
        f"interleaved rounds +- half the interquartile range; error: our relative L2 error against "
        f"float64. A ratio above 1 means that we are faster than the fastest engine of that kind."
    )
    parts = [head]
    if result["layers"]:
        parts += [table(result), goals(result), notes(result)]
    if "startup" in result:
        parts.append(startup.table(result["startup"]))
    return "\n\n".join(part for part in parts if part) + "\n"

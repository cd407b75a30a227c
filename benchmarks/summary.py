"""What the JSON of a comparison says: times, ratios and goals, for the text and the plots."""

import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.peers import AUTO, AVX2, OURS

FORMAT = 2  # of the JSON files
PEER_KINDS = {"direct": ("direct",), "all": ("direct", "winograd")}  # goal -> kinds of engines

Json = dict[str, Any]


class Time(NamedTuple):
    """Median of the rounds in seconds, and half their interquartile range as a share of it."""

    median: float
    spread: float
    variant: str

    def __str__(self) -> str:
        return f"{1e3 * self.median:.3g} +-{100 * self.spread:.0f}%"


def layers(result: Json) -> list[Json]:
    """All layers of all classes."""
    return [layer for group in result["classes"] for layer in group["layers"]]


def engines(result: Json, *kinds: str) -> list[str]:
    """Engines of these kinds that were there, kind by kind."""
    installed = result["engines"].items()
    return [name for kind in kinds for name, e in installed if e.get("kind") == kind]


def times(layer: Json, engine: str) -> list[Time]:
    """Every variant of an engine that ran on a layer."""
    found = []
    for variant, result in layer["engines"].get(engine, {}).items():
        rounds = [turn["median"] for turn in result.get("rounds", [])]
        if rounds and "failed" not in result:
            low, median, high = np.percentile(rounds, [25, 50, 75])
            found.append(Time(float(median), float((high - low) / 2 / median), variant))
    return found


def best(layer: Json, engine: str) -> Time | None:
    """The fastest variant of a peer, or what counts of fastconv; None where none ran."""
    found = times(layer, engine)
    chooses = engine in (OURS, AVX2)
    return min((t for t in found if not chooses or t.variant == counts(layer)), default=None)


def counts(layer: Json) -> str:
    """The variant of fastconv that counts: what it chose by itself, or a GPU's precision."""
    return str(layer.get("counts", AUTO))


def best_own(layer: Json) -> Time | None:
    """The fastest of our algorithms that were asked for by name, but the one that counts."""
    return min((t for t in times(layer, OURS) if t.variant != counts(layer)), default=None)


def fastest(layer: Json, names: Sequence[str]) -> tuple[Time, str] | None:
    """The shortest time among engines, and whose it is."""
    return min(((t, name) for name in names if (t := best(layer, name))), default=None)


def ratio(layer: Json, names: Sequence[str]) -> float | None:
    """Time of the fastest of these engines over ours."""
    ours, other = best(layer, OURS), fastest(layer, names)
    return other[0].median / ours.median if ours and other else None


def ratios(result: Json, group: Json, goal: str) -> dict[str, float]:
    """Layer -> `ratio` to the peers of a goal ("direct" or "all"), where there is one."""
    peers = engines(result, *PEER_KINDS[goal])
    found = {layer["name"]: ratio(layer, peers) for layer in group["layers"]}
    return {name: value for name, value in found.items() if value is not None}


def missed(result: Json, group: Json) -> list[str] | None:
    """Goals of a class that are not reached, in words; None where none can be judged."""
    short, judged = [], False
    for goal in PEER_KINDS:
        found = ratios(result, group, goal)
        for layer in group["layers"]:
            name, wanted = layer["name"], (layer["goals"] or {}).get(goal)
            if wanted is None:
                continue
            if best(layer, OURS) is None:
                judged = True
                short.append(f"{name} has no time")
            elif name in found:
                judged = True
                if found[name] < wanted:
                    short.append(f"{name} {goal} {found[name]:.2f} of {wanted}")
        wanted = group["mean_direct"] if goal == "direct" else None
        if wanted is not None and found and (mean := geometric_mean(found.values())) < wanted:
            short.append(f"mean {goal} {mean:.2f} of {wanted}")
    return list(dict.fromkeys(short)) if judged else None


def geometric_mean(values: Any) -> float:
    """The mean of ratios."""
    return statistics.geometric_mean(values)


def speedup(layer: Json, engine: str) -> tuple[float, float] | None:
    """Time of one engine over ours, and its spread by those of the two times; a share of it."""
    ours, other = best(layer, OURS), best(layer, engine)
    if ours is None or other is None:
        return None
    return other.median / ours.median, math.hypot(ours.spread, other.spread)

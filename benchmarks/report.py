"""Results as Markdown, made from the JSON alone: ``python -m benchmarks.report FILE.json...``."""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import check, plots, startup
from benchmarks.peers import AVX2, OURS
from benchmarks.summary import (
    FORMAT,
    PEER_KINDS,
    Json,
    best,
    best_own,
    engines,
    fastest,
    geometric_mean,
    layers,
    missed,
    ratios,
    speedup,
)

MEMORY = (
    "Megabytes that a process has held at most, once it has read a network from a file of the "
    "engine's own kind and run it three times; TensorFlow makes its own in memory."
)
WITHOUT = "Time of fastconv with the kernels for CPUs that have AVX2 only, over its own."
SHOWN = ("own", "restricted", "direct", "winograd")  # kinds of engines, in this order
SLOW = 1.1  # "auto" that takes longer than this times the best algorithm is named


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; "" without rows."""
    lines = [head, ["---"] * len(head), *rows] if rows else []
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def goals(result: Json) -> str:
    """What the project promises of each class, and what was reached."""
    rows = []
    for group in result["classes"]:
        short = missed(result, group)
        if short is None:
            continue
        row = [group["name"], str(len(group["layers"]))]
        for goal in PEER_KINDS:
            found = ratios(result, group, goal).values()
            row.append(f"{geometric_mean(found):.2f}" if found else "-")
            row += [f"{min(found):.2f}" if found else "-", _wanted(group, goal)]
        rows.append([*row, f"NO: {', '.join(short)}" if short else "yes"])
    columns = [f"{goal} / ours{what}" for goal in PEER_KINDS for what in (", mean", ", least", "")]
    head = [name if "," in name else "wanted" for name in columns]
    return table(["class", "layers", *head, "reached"], rows)


def _wanted(group: Json, goal: str) -> str:
    each = sorted({layer["goals"][goal] for layer in group["layers"] if layer["goals"]})
    text = f"{each[0]} - {each[-1]}" if len(each) > 1 else str(each[0])
    mean = group["mean_direct"] if goal == "direct" else None
    return text if mean is None else f"{text}, mean {mean}"


def group_table(result: Json, group: Json) -> str:
    """One row per layer of a class: every engine's time, and the ratios beside their goals."""
    names = engines(result, *SHOWN)
    found = {goal: ratios(result, group, goal) for goal in PEER_KINDS}
    rows = []
    for layer in group["layers"]:
        row = [f"{layer['name']}, {layer['what']}"]
        row += [str(t) if (t := best(layer, name)) else "-" for name in names]
        for goal in PEER_KINDS:
            value, wanted = found[goal].get(layer["name"]), (layer["goals"] or {}).get(goal)
            row.append("-" if value is None else f"{value:.2f}")
            if value is not None and wanted is not None:
                row[-1] += f" of {wanted}{'' if value >= wanted else ' NO'}"
        rows.append(row)
    return table(["layer", *names, *(f"{goal} / ours" for goal in PEER_KINDS)], rows)


def own(result: Json) -> str:
    """How near fastconv comes to the ceilings of the machine, and how well it chose."""
    peak, rows = result.get("peak"), []
    for layer in layers(result):
        time = best(layer, OURS)
        if time is None:
            continue
        row = [layer["name"], f"{1e3 * time.median:.3g}"]
        for unit, ceiling in (("gflop", "gflops"), ("gbyte", "gbytes")):
            rate = layer[unit] / time.median
            row.append(f"{rate:.1f}" if rate else "-")
            row.append(f"{100 * rate / peak[ceiling]:.0f}%" if rate and peak else "-")
        other = best_own(layer)
        row += [other.variant, f"{time.median / other.median:.2f}"] if other else ["-", "-"]
        rows.append(row)
    return table(
        ["fastconv", "ms", "GFLOP/s", "of FMA peak", "GB/s", "of copy", "best own",
         "auto / best own"],
        rows,
    )  # fmt: skip


def restricted(result: Json) -> str:
    """What wider vectors bring: the time without AVX-512 over that with it."""
    rows = []
    for group in result["classes"]:
        found = {
            layer["name"]: value[0]
            for layer in group["layers"]
            if (value := speedup(layer, AVX2)) is not None
        }
        if found:
            worst = max(found, key=lambda name: found[name])
            mean = geometric_mean(found.values())
            rows.append([group["name"], f"{mean:.2f}", f"{found[worst]:.2f}", worst])
    return table(["class", "mean", "most", "of"], rows)


def choices(result: Json) -> str:
    """Layers on which an algorithm of ours is clearly faster than the one that is chosen."""
    lines = []
    for layer in layers(result):
        auto, other = best(layer, OURS), best_own(layer)
        if auto and other and auto.median > SLOW * other.median:
            share = f"{auto.median / other.median:.2f}"
            lines.append(f"* {layer['name']}: auto takes {share} times as long as {other.variant}")
    return "\n".join(lines)


def memory(result: Json) -> str:
    """Peak memory of whole networks."""
    names = engines(result, *SHOWN)
    rows = []
    for layer in layers(result):
        times = {name: best(layer, name) for name in names}
        found = [
            layer["engines"][name][time.variant].get("peak_bytes") if time else None
            for name, time in times.items()
        ]
        if any(found):
            rows.append([layer["name"], *(f"{n / 1e6:.0f}" if n else "-" for n in found)])
    return table(["MB", *names], rows)


def errors(result: Json) -> str:
    """The error of what was timed."""
    names = engines(result, *SHOWN)
    rows = []
    for layer in layers(result):
        row = [layer["name"]]
        for name in names:
            time = best(layer, name)
            row.append(f"{layer['engines'][name][time.variant]['error']:.1e}" if time else "-")
        rows.append(row)
    return table(["error", *names], rows)


def notes(result: Json) -> str:
    """How each engine was run, and all that is missing or odd."""
    lines = []
    for name, engine in result["engines"].items():
        if "missing" in engine:
            lines.append(f"* {name}: left out, {engine['missing']}")
        else:
            lines.append(f"* {name} {engine['version']}: {engine['settings']}")
    for layer in layers(result):
        for name, variants in layer["engines"].items():
            for variant, found in variants.items():
                where = f"* {layer['name']}, {name} ({variant}):"
                if "failed" in found:
                    lines.append(f"{where} did not run, {found['failed']}")
                elif "rounds" not in found:
                    lines.append(f"{where} not timed, error {found['error']:.1e}")
                else:
                    lines += [f"{where} {odd}" for odd in _oddities(found, result["threads"])]
    return "\n".join(lines)


def _oddities(found: Json, threads: int) -> list[str]:
    odd = []
    if found["error"] >= check.COARSE:
        odd.append(f"coarse, error {found['error']:.1e}")
    cores = statistics.median(turn["cores"] for turn in found["rounds"])
    if cores > 1.1 * threads:
        odd.append(f"used {cores:.1f} threads instead of {threads}")
    if not all(turn["rests"] for turn in found["rounds"]):
        odd.append("its threads did not come to rest between turns")
    return odd


def origin(result: Json, threads: object) -> str:
    """Machine and date, and what a time is."""
    machine = result["machine"]
    return (
        f"{machine['cpu']}, {machine['cpus']} CPUs, {threads} threads; "
        f"{machine['system']}, Python {machine['python']}, NumPy {machine['numpy']}, "
        f"Numba {machine['numba']}; {result['date']}, load {machine['load']}. "
        f"Milliseconds, median of {result['rounds']} interleaved rounds +- half the interquartile "
        f"range."
    )


def heading(result: Json) -> str:
    """How to read the tables."""
    text = (
        f"{origin(result, result['threads'])} Ratios: time of the fastest engine that multiplies "
        f"out every product (direct), or of all engines, over ours; above 1 we are faster."
    )
    if "peak" in result:
        text += (
            f" Ceilings: {result['peak']['gflops']:.0f} GFLOP/s of FMAs, "
            f"{result['peak']['gbytes']:.1f} GB/s of a copy, read and written."
        )
    return text


def markdown(result: Json) -> str:
    """The whole report."""
    if "sweep" in result:
        return sweep(result)
    parts = [heading(result)]
    if layers(result):
        parts.append(goals(result))
        for group in result["classes"]:
            parts += [f"## {group['name']}: {group['what']}", group_table(result, group)]
        parts += [
            "## fastconv and the machine",
            "Arithmetic is that of the direct algorithm, so fast algorithms may pass the peak; "
            "bytes are those of input, weights and result, moved once. The larger of the two "
            "shares is that of the roofline.",
            own(result),
            choices(result),
            *(["## Without AVX-512", WITHOUT, text] if (text := restricted(result)) else []),
            *(["## Peak memory", MEMORY, text] if (text := memory(result)) else []),
            "## Errors",
            "Relative L2 norm, beside float64; of labels see `benchmarks.check.error`.",
            errors(result),
            "## Notes",
            notes(result),
        ]
    if "startup" in result:
        parts.append(startup.table(result["startup"]))
    return "\n\n".join(part for part in parts if part) + "\n"


def sweep(result: Json) -> str:
    """One row per layer, for each number of threads: our time and that of the fastest peer."""
    runs, rows = result["sweep"], []
    for same in zip(*map(layers, runs), strict=True):
        row = [same[0]["name"]]
        for run, layer in zip(runs, same, strict=True):
            ours = best(layer, OURS)
            other = fastest(layer, engines(run, *PEER_KINDS["all"]))
            row.append(str(ours) if ours else "-")
            row.append(f"{other[0]} {other[1]}" if other else "-")
        rows.append(row)
    columns = [(f"fastconv, {n}", f"fastest peer, {n}") for n in (run["threads"] for run in runs)]
    head = ["layer, threads", *(name for pair in columns for name in pair)]
    parts = [origin(runs[0], " and ".join(str(run["threads"]) for run in runs)), table(head, rows)]
    for run in runs:
        parts += [f"## Notes, {run['threads']} threads", notes(run)]
    return "\n\n".join(parts) + "\n"


def render(result: Json, path: Path) -> list[Path]:
    """Write text and plots beside the JSON file `path`; what was written."""
    text = path.with_suffix(".md")
    text.write_text(markdown(result))
    return [text, *plots.draw(result, path)]


def publish(result: Json, path: Path) -> None:
    """Print the report, and write it with the JSON file and the plots."""
    print(markdown(result), end="")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    written = [path, *render(result, path)]
    print(f"\nwritten: {', '.join(map(str, written))}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: make text and plots of JSON files again."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("files", type=Path, nargs="+", help="JSON files of compare or sweep")
    for path in parser.parse_args(arguments).files:
        result = json.loads(path.read_text())
        if result.get("format") != FORMAT:
            parser.error(
                f"{path} has format {result.get('format')}, this reads {FORMAT}; measure again"
            )
        print(*render(result, path), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

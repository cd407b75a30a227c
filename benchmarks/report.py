"""Results as Markdown, made from the JSON alone: ``python -m benchmarks.report FILE.json...``."""

import argparse
import collections
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import check, correlate, plots, startup
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
    judged = [goal for goal in PEER_KINDS if "gpu" not in result or goal == "all"]  # cuDNN chooses
    found = {goal: ratios(result, group, goal) for goal in judged}
    rows = []
    for layer in group["layers"]:
        row = [f"{layer['name']}, {layer['what']}"]
        row += [str(t) if (t := best(layer, name)) else "-" for name in names]
        for goal in judged:
            value, wanted = found[goal].get(layer["name"]), (layer["goals"] or {}).get(goal)
            row.append("-" if value is None else f"{value:.2f}")
            if value is not None and wanted is not None:
                row[-1] += f" of {wanted}{'' if value >= wanted else ' NO'}"
        rows.append(row)
    return table(["layer", *names, *(f"{goal} / ours" for goal in judged)], rows)


def own(result: Json) -> str:
    """How near fastconv comes to the ceilings of the machine, and how well it chose."""
    peak, rows = result.get("peak", {}), []
    scale, flops = _arithmetic(result)
    for layer in layers(result):
        time = best(layer, OURS)
        if time is None:
            continue
        row = [layer["name"], f"{1e3 * time.median:.3g}"]
        for unit, ceiling, per in (("gflop", "gflops", scale), ("gbyte", "gbytes", 1.0)):
            rate = layer[unit] / time.median
            row.append(f"{per * rate:.1f}" if rate else "-")
            row.append(f"{100 * rate / peak[ceiling]:.0f}%" if rate and ceiling in peak else "-")
        other = best_own(layer)
        row += [other.variant, f"{time.median / other.median:.2f}"] if other else ["-", "-"]
        if "gpu" in result:
            row.append(_kernels(layer, time.variant))
        rows.append(row)
    head = ["fastconv", "ms", flops, "of FMA peak", "GB/s", "of copy", "best own",
            "auto / best own"]  # fmt: skip
    if "gpu" in result:
        head[3], head[7:] = "of peak", ["ours / best own", "kernel"]
    return table(head, rows)


def _arithmetic(result: Json) -> tuple[float, str]:
    """What 1e9 operations a second are in the unit of the report, and that unit."""
    return (1e-3, "TFLOP/s") if "gpu" in result else (1.0, "GFLOP/s")


def _kernels(layer: Json, variant: str) -> str:
    """Which kernels ran, and how many times where that is more than once."""
    found = collections.Counter(layer["engines"][OURS][variant]["kernels"])
    return ", ".join(f"{name} x{n}" if n > 1 else name for name, n in found.items()) or "-"


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
                    outside = found.get("outside", 0)
                    more = f", {outside} numbers outside of their bounds" if outside else ""
                    lines.append(f"{where} not timed, error {found['error']:.1e}{more}")
                elif "gpu" in result:
                    lines += [f"{where} {odd}" for odd in _oddities_of_gpu(found, result)]
                else:
                    lines += [f"{where} {odd}" for odd in _oddities(found, result["threads"])]
    if "stopped" in result:
        lines.append(f"* {result['stopped']}")
    return "\n".join(lines)


def _oddities_of_gpu(found: Json, result: Json) -> list[str]:
    odd = []
    if found["error"] >= result["coarse"]:
        odd.append(f"coarse, error {found['error']:.1e}")
    time, host = statistics.median(turn["median"] for turn in found["rounds"]), found["host"]
    if host > time:
        odd.append(f"the host takes {1e6 * host:.0f} us to ask for {1e6 * time:.0f} us of work")
    return odd


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
    where = f"{machine['cpu']}, {machine['cpus']} CPUs, {threads} threads"
    return (
        f"{_gpu(result) if 'gpu' in result else where}; "
        f"{machine['system']}, Python {machine['python']}, NumPy {machine['numpy']}, "
        f"Numba {machine['numba']}; {result['date']}, load {machine['load']}. "
        f"Milliseconds, median of {result['rounds']} interleaved rounds +- half the interquartile "
        f"range."
    )


def _gpu(result: Json) -> str:
    gpu = result["gpu"]
    clocks = [f"{name} {value}" for name, value in gpu["clocks"].items()]
    return (
        f"{result['precision']} on {gpu['name']}, capability {gpu['capability']}, "
        f"{gpu['l2_bytes'] / 2**20:.0f} MiB of L2 cache, driver {gpu['driver']}, "
        f"CUDA {gpu['cuda']}, PyTorch {gpu['torch']}, cuDNN {gpu['cudnn']}, "
        f"{', '.join(clocks) or 'clocks unknown'}; host "
        f"{result['machine']['cpu']}, {result['machine']['cpus']} CPUs"
    )


def heading(result: Json) -> str:
    """How to read the tables."""
    whose = (
        "the fastest engine that multiplies out every product (direct), or of all engines"
        if "gpu" not in result
        else "the fastest peer at the same precision"
    )
    text = (
        f"{origin(result, result.get('threads'))} Ratios: time of {whose}, over ours; above 1 we "
        f"are faster."
    )
    return text + _ceilings(result)


def _ceilings(result: Json) -> str:
    peak, (scale, unit), found = result.get("peak", {}), _arithmetic(result), []
    if "gflops" in peak:
        found.append(f"{scale * peak['gflops']:.0f} {unit} of {peak.get('what', 'FMAs')}")
    if "gbytes" in peak:
        found.append(f"{peak['gbytes']:.1f} GB/s of a copy, read and written")
    return f" Ceilings: {', '.join(found)}." if found else ""


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
    if "correlate2d" in result:
        parts.append(correlate.table(result["correlate2d"]))
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

"""All engines on the same layers, in alternating rounds: ``python -m benchmarks.compare``.

See the docstring of `benchmarks` for what is measured, and ``--help`` for the options.
"""

import argparse
import datetime as dt
import math
import os
import platform
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import fastconv
from benchmarks import check, correlate, peak, peers, report, startup, summary, table
from benchmarks.layers import Layer, LayerClass
from benchmarks.worker import Worker, WorkerError

RESULTS = Path(__file__).parent / "results"


def compare(
    classes: Sequence[LayerClass],
    engines: Sequence[str],
    *,
    threads: int,
    rounds: int,
    seconds: float,
) -> summary.Json:
    """Check and time every engine on every layer.

    Parameters
    ----------
    classes : sequence of LayerClass
    engines : sequence of str
        Names in `peers.PEERS`; those that are not installed are noted and left out.
    threads, rounds : int
    seconds : float
        Of one turn.

    Returns
    -------
    dict
        JSON-able; `report.markdown` makes text of it.
    """
    result: summary.Json = {
        "format": summary.FORMAT,
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "threads": threads,
        "rounds": rounds,
        "seconds": seconds,
        "engines": {},
        "classes": [],
    }
    with ExitStack() as stack:

        def start(name: str) -> Worker:
            return stack.enter_context(Worker(name, threads))

        workers = {}
        for name in engines:
            progress(f"starting {name}")
            try:
                workers[name] = start(name)
            except WorkerError as error:
                result["engines"][name] = {"missing": str(error)}
                continue
            result["engines"][name] = {
                "version": workers[name].version,
                "kind": peers.PEERS[name],
                "settings": peers.settings(name),
            }
        names = list(workers)
        for group in classes:
            entry: dict[str, Any] = {"name": group.name, "what": group.what,
                                     "mean_direct": group.mean_direct, "layers": []}  # fmt: skip
            result["classes"].append(entry)
            for layer in group.layers:
                goals = group.goals_of(layer)
                timed = _layer(layer, names, workers, start, rounds, seconds)
                if layer.whole is not None:
                    while workers:  # a whole network in every engine leaves no room for another
                        workers.popitem()[1].close()
                    _memory(layer, timed, threads)
                entry["layers"].append({**timed, "goals": goals and asdict(goals)})
    progress("")
    return result


def _layer(
    layer: Layer,
    names: Sequence[str],
    workers: dict[str, Worker],
    start: Callable[[str], Worker],
    rounds: int,
    seconds: float,
) -> summary.Json:
    """One layer on the engines `names`; those without a worker are started again."""
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        expected = Path(folder) / "expected.npy"
        progress(f"{layer.name}: float64 answer")
        np.save(expected, check.answer(layer))
        for name in names:
            progress(f"{layer.name}: preparing {name}")
            try:
                if name not in workers:  # its process ended on the last layer
                    workers[name] = start(name)
                answers = workers[name].prepare(layer, expected, seconds)
            except WorkerError as error:
                answers = {"-": str(error)}
                workers.pop(name, None)
            found[name] = {v: _outcome(name, answer) for v, answer in answers.items()}
    turns = [(n, v) for n, vs in found.items() for v, o in vs.items() if "rounds" in o]
    for i in range(rounds):
        progress(f"{layer.name}: round {i + 1} of {rounds}")
        for name, variant in in_turn(turns, i):
            if name not in workers:
                continue
            try:
                turn = workers[name].turn(variant, seconds)
                found[name][variant]["rounds"].append(asdict(turn))
            except WorkerError as error:
                found[name][variant]["failed"] = str(error)
                del workers[name]
    return {**facts(layer), "engines": found}


def in_turn(turns: list[Any], i: int) -> list[Any]:
    """Those of round `i`: each round starts with another one, so that none has the best place."""
    first = i % max(len(turns), 1)
    return turns[first:] + turns[:first]


def facts(layer: Layer) -> summary.Json:
    """What a layer is and does."""
    return {
        "name": layer.name,
        "what": layer.what,
        "network": layer.network,
        "x": layer.x,
        "out": layer.out,
        "gflop": 1e-9 * layer.flops,
        "gbyte": 1e-9 * layer.nbytes,
    }


def _memory(layer: Layer, timed: summary.Json, threads: int) -> None:
    """Add the peak memory of each engine's best variant, in processes that do nothing else.

    One process writes the model files, which another one reads: to make them takes memory, too.
    """
    for name in timed["engines"]:
        time = summary.best(timed, name)
        if time is None:
            continue
        progress(f"{layer.name}: memory of {name}")
        with tempfile.TemporaryDirectory() as folder:
            with_files = replace(layer, files=folder)
            try:
                for _ in range(2):
                    with Worker(name, threads) as worker:
                        peak_bytes = worker.peak(with_files, time.variant)
            except WorkerError:
                continue
        timed["engines"][name][time.variant]["peak_bytes"] = peak_bytes


def _outcome(engine: str, answer: float | str) -> summary.Json:
    if isinstance(answer, str):
        return {"failed": answer}
    if math.isnan(answer):  # JSON has no NaN
        return {"failed": "there are NaN in its answer"}
    limit = check.COARSE if engine == peers.OURS else check.WRONG
    return {"error": answer, "rounds": []} if answer < limit else {"error": answer}


def machine() -> summary.Json:
    """What the timings depend on."""
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    return {
        "cpu": _cpu(),
        "cpus": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": metadata.version("numba"),
        "load": load,
    }


def _cpu() -> str:
    """Model name of the CPU and the microarchitecture that LLVM sees."""
    from llvmlite import binding

    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and (line := re.search(r"model name\s*: (.*)", cpuinfo.read_text())):
        model = line[1]
    return f"{model} ({binding.get_host_cpu_name()})"


def progress(text: str) -> None:
    """One line on standard error that replaces the last one."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def folder(name: str = "") -> Path:
    """Where the results of a GPU go, or of this machine: ``results/<name>``."""
    if not name:
        found = machine()
        name = f"{found['cpu']} {found['cpus']} cpus"
    return RESULTS / re.sub(r"[^a-z0-9]+", "-", name.lower())


def add_options(parser: argparse.ArgumentParser, rounds: int) -> None:
    """Options of this command that others share; `rounds` by default."""
    usual = ",".join(name for name, kind in peers.PEERS.items() if kind != "restricted")
    parser.add_argument("--engines", default=usual,
                        help=f"names: %(default)s; {peers.AVX2} is there, too")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=rounds, help="%(default)s")
    parser.add_argument("--seconds", type=float, default=0.15, help="of a turn: %(default)s")
    parser.add_argument("--out", type=Path, help="JSON file; default below benchmarks/results")


def check_options(options: argparse.Namespace) -> None:
    """Split the names of the engines; ValueError for an option of `add_options` out of range."""
    options.engines = options.engines.split(",")
    if unknown := [name for name in options.engines if name not in peers.PEERS]:
        raise ValueError(f"no engine is named {unknown}; there are {', '.join(peers.PEERS)}")
    if options.rounds < 1:
        raise ValueError(f"--rounds must be at least 1, got {options.rounds}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 1 where fastconv itself gave a wrong answer or none."""
    where = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    where.add_argument("--device", choices=("cpu", "cuda"), default="cpu",
                       help="%(default)s; options of a GPU: --device cuda --help")  # fmt: skip
    chosen, rest = where.parse_known_args(arguments)
    if chosen.device == "cuda":
        from benchmarks.gpu import main as on_gpu

        return on_gpu.main(rest)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare", description=__doc__, parents=[where]
    )
    parser.add_argument(
        "--layers",
        default="acceptance",
        help="acceptance (all with goals), all, network:NAME, or names of classes and layers: "
        "%(default)s",
    )
    parser.add_argument("--threads", type=int, default=fastconv.get_num_threads(),
                        help="of every engine: %(default)s")  # fmt: skip
    parser.add_argument("--layers-only", action="store_true",
                        help="without start-up, SciPy and the machine's ceilings")  # fmt: skip
    add_options(parser, rounds=11)
    options = parser.parse_args(arguments)
    try:
        check_options(options)
        classes = table.select(options.layers)
        if options.threads < 1:
            raise ValueError(f"--threads must be at least 1, got {options.threads}")
    except ValueError as error:
        parser.error(str(error))
    how = {"threads": options.threads, "rounds": options.rounds, "seconds": options.seconds}
    result = compare(classes, options.engines, **how)
    if not options.layers_only:
        progress("ceilings of the machine")
        result["peak"] = peak.measure(options.threads)
        progress("start-up")
        result["startup"] = startup.measure()
        progress("correlate2d beside SciPy")
        result["correlate2d"] = correlate.measure(options.threads)
        progress("")
    path = options.out or folder() / f"threads{options.threads}.json"
    report.publish(result, path)
    return int(peers.OURS in options.engines and not right(result))


def right(result: summary.Json) -> bool:
    """Whether fastconv has a time on every layer; says which have none."""
    wrong = [layer["name"] for layer in summary.layers(result)
             if summary.best(layer, peers.OURS) is None]  # fmt: skip
    if wrong:
        print(f"fastconv gave no right answer on {', '.join(wrong)}", file=sys.stderr)
    return not wrong


if __name__ == "__main__":
    sys.exit(main())

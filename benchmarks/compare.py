"""All engines on the same layers, in alternating rounds: ``python -m benchmarks.compare``.

See the docstring of `benchmarks` for what is measured, and ``--help`` for the options.
"""

import argparse
import datetime as dt
import json
import math
import os
import platform
import re
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import fastconv
from benchmarks import check, layers, peers, report, startup
from benchmarks.layers import Layer
from benchmarks.worker import Worker, WorkerError

RESULTS = Path(__file__).parent / "results"
FORMAT = 1  # of the JSON file


def compare(
    table: Sequence[Layer], engines: Sequence[str], *, threads: int, rounds: int, seconds: float
) -> report.Json:
    """Check and time every engine on every layer.

    Parameters
    ----------
    table : sequence of Layer
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
    result: report.Json = {
        "format": FORMAT,
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "threads": threads,
        "rounds": rounds,
        "seconds": seconds,
        "engines": {},
        "layers": [],
    }
    with ExitStack() as stack:
        workers = {}
        for name in engines:
            _progress(f"starting {name}")
            try:
                worker = stack.enter_context(Worker(name, threads))
            except WorkerError as error:
                result["engines"][name] = {"missing": str(error)}
                continue
            workers[name] = worker
            result["engines"][name] = {
                "version": worker.version,
                "kind": peers.PEERS[name],
                "settings": peers.settings(name),
            }
        for layer in table:
            result["layers"].append(_layer(layer, workers, rounds, seconds))
    _progress("")
    return result


def _layer(layer: Layer, workers: dict[str, Worker], rounds: int, seconds: float) -> report.Json:
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        expected = Path(folder) / "expected.npy"
        _progress(f"{layer.name}: float64 answer")
        np.save(expected, check.answer(layer))
        for name, worker in list(workers.items()):
            _progress(f"{layer.name}: preparing {name}")
            try:
                answers = worker.prepare(layer, expected, seconds)
            except WorkerError as error:
                answers = {"-": str(error)}
                del workers[name]  # its process is gone; the others go on
            found[name] = {v: _outcome(name, answer) for v, answer in answers.items()}
    turns = [(n, v) for n, vs in found.items() for v, o in vs.items() if "rounds" in o]
    for i in range(rounds):
        _progress(f"{layer.name}: round {i + 1} of {rounds}")
        start = i % max(len(turns), 1)
        for name, variant in turns[start:] + turns[:start]:
            if name not in workers:
                continue
            try:
                turn = workers[name].turn(variant, seconds)
                found[name][variant]["rounds"].append(asdict(turn))
            except WorkerError as error:
                found[name][variant]["failed"] = str(error)
                del workers[name]
    return {
        "name": layer.name,
        "what": layer.what,
        "x": layer.x,
        "out": layer.out,
        "gflop": layer.flops / 1e9,
        "goals": [asdict(goal) for goal in layer.goals],
        "engines": found,
    }


def _outcome(engine: str, answer: float | str) -> report.Json:
    if isinstance(answer, str):
        return {"failed": answer}
    if math.isnan(answer):  # JSON has no NaN
        return {"failed": "there are NaN in its answer"}
    limit = check.COARSE if engine == peers.OURS else check.WRONG
    return {"error": answer, "rounds": []} if answer < limit else {"error": answer}


def machine() -> report.Json:
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


def _progress(text: str) -> None:
    """One line on standard error that replaces the last one."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def write(result: report.Json, path: Path) -> None:
    """The JSON file, and the Markdown text beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    path.with_suffix(".md").write_text(report.markdown(result))


def default_path(result: report.Json) -> Path:
    """``results/<machine>/threads<n>.json``."""
    name = f"{result['machine']['cpu']} {result['machine']['cpus']} cpus".lower()
    return RESULTS / re.sub(r"[^a-z0-9]+", "-", name) / f"threads{result['threads']}.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 1 where fastconv itself gave a wrong answer or none."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("--layers", default="acceptance",
                        help="acceptance, all, or names: %(default)s")  # fmt: skip
    parser.add_argument("--engines", default=",".join(peers.PEERS), help="names: %(default)s")
    parser.add_argument("--threads", type=int, default=fastconv.get_num_threads(),
                        help="of every engine: %(default)s")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=11, help="%(default)s")
    parser.add_argument("--seconds", type=float, default=0.15, help="of a turn: %(default)s")
    parser.add_argument("--no-startup", action="store_true", help="leave out start-up times")
    parser.add_argument("--out", type=Path, help="JSON file; default below benchmarks/results")
    options = parser.parse_args(arguments)
    engines = options.engines.split(",")
    try:
        table = layers.select(options.layers)
        if unknown := [name for name in engines if name not in peers.PEERS]:
            raise ValueError(f"no engine is named {unknown}; there are {', '.join(peers.PEERS)}")
        if min(options.threads, options.rounds) < 1:
            raise ValueError("--threads and --rounds must be at least 1")
    except ValueError as error:
        parser.error(str(error))
    result = compare(
        table, engines, threads=options.threads, rounds=options.rounds, seconds=options.seconds
    )
    if not options.no_startup:
        _progress("start-up")
        result["startup"] = startup.measure()
        _progress("")
    print(report.markdown(result), end="")
    path = options.out or default_path(result)
    write(result, path)
    print(f"\nwritten to {path} and {path.with_suffix('.md').name}", file=sys.stderr)
    wrong = [layer["name"] for layer in result["layers"] if report.best(layer, peers.OURS) is None]
    if peers.OURS in engines and wrong:
        print(f"fastconv gave no right answer on {', '.join(wrong)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

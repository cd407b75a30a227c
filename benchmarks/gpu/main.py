"""All variants on the same layers of a GPU, in alternating rounds; see `benchmarks.gpu`."""

import argparse
import datetime as dt
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import compare, peers, report, summary, table
from benchmarks.gpu import device as gpus
from benchmarks.gpu.engines import (
    PRECISIONS,
    Engine,
    Ours,
    Precision,
    Program,
    Torch,
    UnableError,
)
from benchmarks.gpu.judge import Judge
from benchmarks.layers import Layer, LayerClass, batch
from fastconv.dtypes import ITEMSIZE

KINDS = {peers.OURS: "own", "torch": "winograd"}  # cuDNN takes that where it is faster
CACHES = 2  # how many times the L2 cache's size all buffers have
LEAST_CALLS, MOST_CALLS = 3, 200  # of a turn; more would not fit into the GPU's queue


class LostError(RuntimeError):
    """The GPU answers nothing more, as after an access to memory that there is not."""


def run(
    classes: Sequence[LayerClass], precisions: Sequence[Precision], device: Any,
    engines: Sequence[Engine], *, rounds: int, seconds: float, bounded: bool = True,
) -> dict[str, summary.Json]:  # fmt: skip
    """Check and time every engine on every layer.

    Parameters
    ----------
    classes : sequence of LayerClass
    precisions : sequence of Precision
    device : Device
    engines : sequence of Engine
    rounds : int
    seconds : float
        Of one turn, about.
    bounded : bool
        Whether our answers must keep the bounds, too.

    Returns
    -------
    dict
        Precision -> what `report.markdown` makes text of.
    """
    results = {row.name: _start(row, device, engines, rounds, seconds) for row in precisions}
    try:
        for group in classes:
            entries: dict[str, summary.Json] = {
                name: {"name": group.name, "what": group.what, "mean_direct": None, "layers": []}
                for name in results
            }
            for layer in group.layers:
                for row in precisions:
                    if row.tf32 and not layer.flops:
                        continue  # nothing is multiplied
                    one = replace(layer, dtype=row.dtype)
                    timed = _layer(one, row, device, engines, rounds, seconds, bounded)
                    entry = entries[row.name]
                    if not entry["layers"]:
                        results[row.name]["classes"].append(entry)
                    entry["layers"].append(timed)
                    device.release()
    except LostError as lost:
        for result in results.values():
            result["stopped"] = str(lost)
    compare.progress("")
    return results


def _start(
    row: Precision, device: Any, engines: Sequence[Engine], rounds: int, seconds: float
) -> summary.Json:
    """A result without layers."""
    gpu = device.describe()
    peak: dict[str, Any] = {"gbytes": 1e-9 * device.copy_rate()}
    if (known := gpus.sheet(gpu["name"])) is not None:
        peak |= {"gflops": known[row.column], "what": f"{row.units}, by the data sheet"}
    return {
        "format": summary.FORMAT,
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "machine": compare.machine(),
        "gpu": gpu,
        "precision": row.name,
        "coarse": row.limit,
        "rounds": rounds,
        "seconds": seconds,
        "peak": peak,
        "engines": {
            engine.name: {
                "version": engine.version,
                "kind": KINDS[engine.name],
                "settings": str(type(engine).__doc__).partition("\n")[0],
            }
            for engine in engines
        },
        "classes": [],
    }


def _layer(
    layer: Layer, row: Precision, device: Any, engines: Sequence[Engine], rounds: int,
    seconds: float, bounded: bool,
) -> summary.Json:  # fmt: skip
    """One layer at one precision, each variant of the engines."""
    where = f"{layer.name}, {row.name}"
    compare.progress(f"{where}: float64 answer")
    judge = Judge(layer, row.limit, bounded)
    nbytes = ITEMSIZE[layer.dtype] * (math.prod(layer.x) + math.prod(layer.out))
    xs = [device.upload(judge.x, layer.dtype) for _ in range(buffers(nbytes, device.l2_bytes))]
    device.allow_tf32(row.tf32)
    found: dict[str, dict[str, Any]] = {engine.name: {} for engine in engines}
    turns: list[tuple[str, str, Turns]] = []
    for engine in engines:
        for variant in engine.variants(layer, row):
            compare.progress(f"{where}: preparing {engine.name} ({variant})")
            try:
                program = engine.build(layer, variant, xs)
                turn = Turns(program, device, seconds, len(xs))
                outcome = _verified(engine.name, program, judge, turn)
            except UnableError:
                continue
            except Exception as error:  # noqa: BLE001 - whatever stops a variant, others go on
                outcome = {"failed": _line(error)}
                _check(device, f"{where}, {engine.name} ({variant})")
            else:
                if "rounds" in outcome:
                    turns.append((engine.name, variant, turn))
            found[engine.name][variant] = outcome
    for i in range(rounds):
        compare.progress(f"{where}: round {i + 1} of {rounds}")
        for name, variant, turn in compare.in_turn(turns, i):
            outcome = found[name][variant]
            if "failed" in outcome:
                continue
            try:
                outcome["rounds"].append(turn.take())
            except Exception as error:  # noqa: BLE001
                outcome["failed"] = _line(error)
                _check(device, f"{where}, {name} ({variant})")
    counted = next(iter(found[peers.OURS]), peers.AUTO) if peers.OURS in found else peers.AUTO
    return {**compare.facts(layer), "goals": None, "counts": counted, "buffers": len(xs),
            "engines": found}  # fmt: skip


def buffers(nbytes: int, l2_bytes: int) -> int:
    """Number of inputs and results of so many bytes, none of which is cached when it is used."""
    return max(math.ceil(CACHES * l2_bytes / nbytes), 1) + 1


class Turns:
    """Series of calls of a program that take about so many seconds."""

    def __init__(self, program: Program, device: Any, seconds: float, count: int) -> None:
        self.program, self.device = program, device
        self.seconds, self.count = seconds, count
        self.calls, self.host, self.wait = 0, 0.0, 0.0

    def warm_up(self) -> None:
        """Run in each buffer, and find out how many calls a turn has."""
        self.device.elapsed(self.program.run, self.count, 0.0)
        time, host = self.device.elapsed(self.program.run, LEAST_CALLS, 0.0)
        fitting = int(self.seconds * LEAST_CALLS / max(time, host, 1e-9))
        self.calls = min(max(fitting, LEAST_CALLS), MOST_CALLS)
        self.host = host / LEAST_CALLS  # of a call; later the host may wait for the GPU's queue
        self.wait = 1.5 * self.host * self.calls

    def take(self) -> dict[str, float]:
        """Time one turn: seconds of a call."""
        time, _ = self.device.elapsed(self.program.run, self.calls, self.wait)
        return {"median": time / self.calls, "calls": self.calls}


def _verified(name: str, program: Program, judge: Judge, turn: Turns) -> summary.Json:
    """What is noted of a program; its first answer and one after the warm-up are checked."""
    kernels = {"kernels": list(program.kernels)} if name == peers.OURS else {}
    outcome = judge.outcome(name, program.read(program.run()), program.algorithm)
    if "rounds" in outcome:
        turn.warm_up()
        later = judge.outcome(name, program.read(program.run()), program.algorithm)
        if "rounds" not in later or later["error"] > outcome["error"]:
            outcome = later
        outcome["host"] = turn.host
    return kernels | outcome


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _check(device: Any, where: str) -> None:
    """Go on only if the GPU does."""
    try:
        device.synchronize()
    except Exception as error:
        raise LostError(f"the GPU was lost in {where}: {_line(error)}") from error


def main(arguments: Sequence[str]) -> int:
    """Command line; 1 where fastconv gave a wrong answer or none, or nothing can be timed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare --device cuda", description=__doc__,
        epilog="It needs fastconv[bench-gpu] and a PyTorch for CUDA in the same environment: see "
        f"{gpus.PYTORCH}.",
    )  # fmt: skip
    parser.add_argument("--layers", default="all", help="as without --device: %(default)s")
    parser.add_argument("--precisions", default=",".join(PRECISIONS), help="%(default)s")
    parser.add_argument("--batch", type=int, default=8, help="images: %(default)s")
    parser.add_argument("--rounds", type=int, default=11, help="%(default)s")
    parser.add_argument("--seconds", type=float, default=0.05, help="of a turn: %(default)s")
    parser.add_argument("--no-bounds", action="store_true",
                        help="check errors in norm alone: the bounds of all layers take the host "
                        "many minutes")  # fmt: skip
    parser.add_argument("--out", type=Path, help="folder; default below benchmarks/results")
    options = parser.parse_args(arguments)
    try:
        groups = table.select(options.layers)
        names = options.precisions.split(",")
        if unknown := [name for name in names if name not in PRECISIONS]:
            raise ValueError(f"no precision is named {unknown}; there are {', '.join(PRECISIONS)}")
        for name in ("batch", "rounds"):
            if (value := getattr(options, name)) < 1:
                raise ValueError(f"--{name} must be at least 1, got {value}")
    except ValueError as error:
        parser.error(str(error))
    if reason := gpus.unavailable():
        print(f"benchmarks cannot use device 'cuda': {reason}", file=sys.stderr)
        return 1
    device = gpus.Device()
    classes = [replace(group, layers=_batched(group.layers, options.batch)) for group in groups]
    results = run(
        classes, [PRECISIONS[name] for name in names], device, [Ours(device), Torch(device)],
        rounds=options.rounds, seconds=options.seconds, bounded=not options.no_bounds,
    )  # fmt: skip
    good = True
    for name, result in results.items():
        folder = options.out or compare.folder(result["gpu"]["name"])
        report.publish(result, folder / f"{name}-batch{options.batch}.json")
        good &= compare.right(result) and "stopped" not in result
    return int(not good)


def _batched(layers: Sequence[Layer], n: int) -> tuple[Layer, ...]:
    """Layers of that batch; two that only differed in it are one."""
    return tuple({layer.name: layer for layer in (batch(one, n) for one in layers)}.values())

"""Time of a whole network against the size of the picture: ``python -m benchmarks.scaling``.

`Session.segment` with a limit on memory, labels included, on square pictures, each with about 1.5
times the pixels of the one before and multiples of the network's total stride as sides. What grows
faster than the pixels would show here.
"""

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import fastconv
from benchmarks import compare, networks, report
from fcn import native
from fcn.session import Session

STEP = 1.5  # pixels of a picture over those of the one before


def sizes(first: int, last: int, stride: int) -> list[int]:
    """Sides of the pictures."""
    count = round(math.log((last / first) ** 2, STEP))
    exact = [first * STEP ** (i / 2) for i in range(count)] + [last]
    return [round(side / stride) * stride for side in exact]


def measure(name: str, sides: Sequence[int], memory: str, threads: int, rounds: int) -> list[float]:
    """Seconds for each size: medians of calls, after one that makes the plans.

    Each size has a session of its own, whose weights are mapped from a file.
    """
    model = networks.NETWORKS[name].model
    channels = model.graph.channels
    pixels = np.random.default_rng(0).integers(0, 256, (sides[-1], sides[-1], channels), np.uint8)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        native.save(model, Path(folder) / "model.npz")
        for side in sides:
            compare.progress(f"{side} x {side}")
            session = Session(native.load(Path(folder) / "model.npz"), threads)
            image = np.ascontiguousarray(pixels[:side, :side])
            times = []
            for _ in range(rounds + 1):
                start = time.perf_counter()
                session.segment(image, memory=memory)
                times.append(time.perf_counter() - start)
            found.append(statistics.median(times[1:]))
    compare.progress("")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--network", choices=networks.NETWORKS, default="fcn8s")
    parser.add_argument("--first", type=int, default=256, help="side in pixels: %(default)s")
    parser.add_argument("--last", type=int, default=4096, help="side in pixels: %(default)s")
    parser.add_argument("--memory", default="2GB", help="%(default)s")
    parser.add_argument("--threads", type=int, default=fastconv.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3, help="%(default)s")
    options = parser.parse_args(arguments)
    stride = networks.NETWORKS[options.network].graph.total_stride
    sides = sizes(options.first, options.last, stride)
    found = measure(options.network, sides, options.memory, options.threads, options.rounds)
    rows = []
    for i, (side, seconds) in enumerate(zip(sides, found, strict=True)):
        more = "-"
        if i:
            exponent = math.log(seconds / found[i - 1]) / math.log((side / sides[i - 1]) ** 2)
            more = f"{STEP**exponent:.2f}"
        rows.append([str(side), f"{1e3 * seconds:.0f}", f"{1e9 * seconds / side**2:.0f}", more])
    print(
        f"{options.network}, {options.threads} threads, {options.memory}; "
        f"{compare.machine()['cpu']}"
    )
    print(report.table(["side", "ms", "ns a pixel", f"time for {STEP} times the pixels"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())

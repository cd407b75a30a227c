"""How soon a fresh process has segmented its first image: ``python -m benchmarks.startup``.

With the founding article's network at 512 x 512. Warm: the disk cache of compiled kernels is
filled. Cold: it is empty, and every kernel that the network needs is compiled.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks.worker import ROOT

REPEATS = 5
GOALS = {"import": 0.5, "warm": 0.7, "cold": 3.0}  # seconds

CHILD = """
import sys, time
start = time.perf_counter()
import fastconv
imported = time.perf_counter() - start
import numpy as np
from fcn import models
from fcn.graph import Model
from fcn.session import Session
graph = models.two_conv(21, as_printed=True)
weights = {name: np.full(shape, 0.01, "f4") for name, shape in graph.parameters().items()}
Session(Model(graph, weights)).run(np.ones((1, 512, 512, 3), "f4"))
print(imported, time.time() - float(sys.argv[1]))
"""


def fresh_process(cache: str) -> tuple[float, float]:
    """Seconds of ``import fastconv``, and from the start of the process to a first result."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, repr(time.time())],
        env={**os.environ, "NUMBA_CACHE_DIR": cache},
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    imported, first = map(float, done.stdout.split())
    return imported, first


def measure(repeats: int = REPEATS) -> dict[str, list[float]]:
    """Every time in seconds: ``import`` (warm), first result ``warm`` and ``cold``."""
    cold = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as cache:
            cold.append(fresh_process(cache)[1])
    with tempfile.TemporaryDirectory() as cache:
        fresh_process(cache)
        warm = [fresh_process(cache) for _ in range(repeats)]
    return {"import": [w[0] for w in warm], "warm": [w[1] for w in warm], "cold": cold}


def table(times: dict[str, Any]) -> str:
    """The medians as a Markdown table."""
    names = {
        "import": "import fastconv, warm cache",
        "warm": "process start to a first segmentation, warm cache",
        "cold": "process start to a first segmentation, empty cache",
    }
    rows = [
        f"| {text} | {statistics.median(times[key]):.2f} | {min(times[key]):.2f}"
        f" - {max(times[key]):.2f} | {GOALS[key]:.1f} |"
        for key, text in names.items()
    ]
    return "\n".join(["| start-up | median s | range | goal |", "|---|---|---|---|", *rows])


if __name__ == "__main__":
    print(table(measure()))

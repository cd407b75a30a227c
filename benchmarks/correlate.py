"""`fastconv.signal.correlate2d` beside SciPy's: ``python -m benchmarks.correlate``.

A large image, where ours shall be 10 times as fast at least, and small ones, where a call may cost
20 us more at most. Calls of both take turns; answers are compared before anything is timed.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import fastconv
from fastconv.signal import correlate2d

# Side of the image, side of the kernel, calls.
SIZES = ((2048, 15, 5), (64, 3, 501), (32, 3, 501), (16, 3, 501), (8, 3, 501), (3, 3, 501))
MODES = ("full", "same", "valid")


def measure(threads: int) -> list[dict[str, Any]]:
    """Median seconds of both in every case, in float32.

    Raises
    ------
    AssertionError
        When the answers differ by more than rounding.
    """
    from scipy import signal

    rng = np.random.default_rng(0)
    before = fastconv.get_num_threads()
    fastconv.set_num_threads(threads)
    rows = []
    try:
        for size, side, calls in SIZES:
            x = rng.standard_normal((size, size), dtype=np.float32)
            w = rng.standard_normal((side, side), dtype=np.float32)
            for mode in MODES:
                both = [partial(f, x, w, mode) for f in (correlate2d, signal.correlate2d)]
                # Each is a float32 sum of side^2 products of numbers around one.
                np.testing.assert_allclose(both[0](), both[1](), rtol=1e-4, atol=1e-6 * side**2)
                ours, scipy = _medians(both, calls)
                case = {"size": size, "kernel": side, "mode": mode, "threads": threads}
                rows.append({**case, "fastconv": ours, "scipy": scipy})
    finally:
        fastconv.set_num_threads(before)
    return rows


def _medians(functions: list[Callable[[], Any]], calls: int) -> list[float]:
    """Median seconds of a call of each, in turns."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(calls):
        for function, spent in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            spent.append(time.perf_counter() - start)
    return [statistics.median(spent) for spent in times]


def table(rows: list[dict[str, Any]]) -> str:
    """The medians as a Markdown table."""
    lines = [
        f"| {row['size']}^2, {row['kernel']}x{row['kernel']}, {row['mode']}"
        f" | {row['fastconv'] * 1e6:.1f} | {row['scipy'] * 1e6:.1f}"
        f" | {row['scipy'] / row['fastconv']:.2f} |"
        for row in rows
    ]
    head = "| correlate2d, float32 | fastconv us | SciPy us | SciPy / fastconv |"
    return "\n".join([head, "|---|---|---|---|", *lines])


if __name__ == "__main__":
    print(table(measure(fastconv.get_num_threads())))

"""Cost against the size of the map and the number of threads: ``python -m benchmarks.sweep``.

One 3x3 layer of 64 channels on maps of 32 x 32 to 1024 x 1024, timed as `benchmarks.compare` does.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import fastconv
from benchmarks import compare, report, summary
from benchmarks.layers import Layer, LayerClass, conv, image, step_name

SIZES = (32, 64, 128, 256, 512, 1024)


def layers(sizes: Sequence[int]) -> LayerClass:
    """The layer on square maps of these sizes."""
    steps = [conv(image(size, 64), 64) for size in sizes]
    return LayerClass(
        "sweep", "one layer", tuple(Layer(step_name(step), "sweep", (step,)) for step in steps)
    )


def sweep(
    sizes: Sequence[int], threads: Sequence[int], engines: Sequence[str], **how: Any
) -> summary.Json:
    """A comparison for each number of threads.

    Parameters
    ----------
    sizes, threads : sequence of int
    engines, **how
        As in `compare.compare`.

    Returns
    -------
    dict
        JSON-able; `report.markdown` makes text of it.
    """
    runs = [compare.compare([layers(sizes)], engines, threads=n, **how) for n in threads]
    return {"format": summary.FORMAT, "sweep": runs}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep", description=__doc__)
    most = fastconv.get_num_threads()
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="%(default)s")
    parser.add_argument("--threads", default=",".join(map(str, range(1, most + 1))),
                        help="%(default)s")  # fmt: skip
    compare.add_options(parser, rounds=5)
    options = parser.parse_args(arguments)
    try:
        compare.check_options(options)
        sizes, threads = (_numbers(text) for text in (options.sizes, options.threads))
    except ValueError as error:
        parser.error(str(error))
    how = {"rounds": options.rounds, "seconds": options.seconds}
    result = sweep(sizes, threads, options.engines, **how)
    report.publish(result, options.out or compare.folder() / "sweep.json")
    return 0


def _numbers(text: str) -> list[int]:
    """Positive integers, separated by commas."""
    parts = text.split(",")
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise ValueError(f"sizes and threads are integers of at least 1, got {text!r}")
    return [int(part) for part in parts]


if __name__ == "__main__":
    sys.exit(main())

"""Our kernels alone: ``pytest benchmarks``, see pytest-benchmark for saving and comparing runs."""

from typing import Any

import pytest

import fastconv
from benchmarks import check
from benchmarks.layers import Layer
from benchmarks.peers import AUTO, ours
from benchmarks.table import LAYERS


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def bench_layer(benchmark: Any, layer: Layer, threads: int) -> None:
    program = ours.Engine(threads).variants(layer)[AUTO]()  # packs the weights
    answer = program.read(program.run())  # compiles the kernels
    error = check.error(layer, answer, check.answer(layer))
    assert error < check.COARSE
    plans = [call for call in ours.calls(layer, threads) if isinstance(call, fastconv.Plan)]
    benchmark.extra_info["error"] = error
    benchmark.extra_info["algorithm"] = [plan.algorithm for plan in plans]
    benchmark(program.run)
    if benchmark.stats:  # not with --benchmark-disable
        benchmark.extra_info["gflops"] = 1e-9 * layer.flops / benchmark.stats["median"]

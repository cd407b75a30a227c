"""Our kernels alone: ``pytest benchmarks``, see pytest-benchmark for saving and comparing runs."""

from typing import Any

import pytest

from benchmarks import check
from benchmarks.layers import LAYERS, Layer
from benchmarks.peers import ours


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def bench_layer(benchmark: Any, layer: Layer, threads: int) -> None:
    program = ours.Engine(threads).variants(layer)["auto"]()  # packs the weights
    answer = program.read(program.run())  # compiles the kernels
    error = check.relative_error(answer, check.answer(layer))
    assert error < check.COARSE
    benchmark.extra_info["error"] = error
    benchmark.extra_info["algorithm"] = [plan.algorithm for plan in ours.plan(layer, threads)]
    benchmark(program.run)
    if benchmark.stats:  # not with --benchmark-disable
        benchmark.extra_info["gflops"] = 1e-9 * layer.flops / benchmark.stats["median"]

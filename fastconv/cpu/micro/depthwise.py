"""Depthwise convolution: vectors run over channels."""

from typing import Any

from fastconv.cpu.micro.channels import each_vector, load, store
from fastconv.cpu.simd import Emitter


def depthwise(
    kernel: Any, e: Emitter, rows: Any, tables: Any, ntaps: Any, channels: Any, w: Any,
    bias: Any, clamp: Any, targets: Any, tiles: Any,
) -> None:  # fmt: skip
    """``y[m, c] = clamp(bias[c] + sum_t x[rows[m] + taps[t], c] * w[t, c])``, `mr` pixels a tile.

    Tile i has its `mr` rows and targets, and its tap offsets at address ``tables[i]``. Kind
    "depthwise_sums" writes in working precision, for a finishing kernel.
    """
    low, high = e.load_splat(clamp), e.load_splat(e.add(clamp, e.itemsize))
    stride = e.mul(channels, e.itemsize)
    with e.loop(tiles) as i:
        taps = e.load_int(e.add(tables, e.mul(i, 8)))
        first = e.mul(i, 8 * kernel.mr)
        sources = [e.load_int(e.add(e.add(rows, first), 8 * m)) for m in range(kernel.mr)]
        outputs = [e.load_int(e.add(e.add(targets, first), 8 * m)) for m in range(kernel.mr)]

        def body(
            offset: Any, mask: Any, taps: Any = taps, sources: Any = sources, outputs: Any = outputs
        ) -> None:
            start = load(e, e.add(bias, offset), mask)
            acc = [e.variable(start) for _ in range(kernel.mr)]
            base = [e.add(source, e.stored(offset)) for source in sources]
            weights = e.add(w, offset)
            with e.loop(ntaps) as t:
                tap = e.load_int(e.add(taps, e.mul(t, 8)))
                weight = load(e, e.add(weights, e.mul(stride, t)), mask)
                for m in range(kernel.mr):
                    x = e.load_stored(e.add(base[m], tap), mask)
                    e.set(acc[m], e.fma(x, weight, e.get(acc[m])))
            for m in range(kernel.mr):
                value = e.clamp(e.get(acc[m]), low, high)
                if kernel.kind == "depthwise_sums":
                    store(e, value, e.add(outputs[m], offset), mask)
                else:
                    e.store_stored(value, e.add(outputs[m], e.stored(offset)), mask)

        each_vector(e, channels, body)

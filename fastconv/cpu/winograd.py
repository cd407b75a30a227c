"""Winograd F(m x m, r x r): for 3x3 kernels and m = 4 a quarter of the multiplications.

A dilated convolution is dh * dw dense ones on interleaved pixels; their tiles only have other
strides. A convolution of stride 2 has an algorithm of the same form (`cook_toom.algorithm`), whose
input tiles are 2 * m pixels apart; m = 3 has 40 % fewer weights than 4 for 8 % more products, and
divides the 33 x 33 outputs of a ResNet on 520 x 520 (2.37 -> 2.02 ms from 65 x 65 on Zen 5).

All work is done on blocks of `block` tiles: they are transformed to V, multiplied with the weights
U of `group` panels of output channels at once, and transformed back. Two schedules of the same
arithmetic, so of the same bits:

* fused: a task takes one block from the input to the output. U comes from the last-level cache for
  each block. For many tiles.
* phased: all tiles are transformed first; then a task is a (panels, block) pair, panel-major, so
  that U comes from memory once. For few tiles, or weights that no cache holds.

Memory keeps up because all that a product needs is fetched during the one before (`micro.gemm`):
its V and U, and in the fused schedule the next block's pixels.

Tiles are anchored to the output's origin. Bias, clamp and a 2x2 max-pool happen in the inverse
transform; border tiles go through a zero-padded patch, and the activation is never copied.

What did not help: unfused transforms for few channels; one panel at a time, which reads V again for
each; larger blocks than `BLOCK_ROWS`.
"""

import math

import numpy as np

from fastconv.cook_toom import TILES, transform_weights
from fastconv.cpu import cost, finish, host, pack
from fastconv.cpu.cost import Cost
from fastconv.cpu.direct import choose_kernel
from fastconv.cpu.job import Job, Template, scratch
from fastconv.cpu.kernels import Kernel, candidates, kernel
from fastconv.cpu.micro.gemm import UNROLL
from fastconv.cpu.simd import LANES
from fastconv.cpu.winograd_drivers import fused, phase_forward, phase_products
from fastconv.dtypes import ITEMSIZE, WORKING
from fastconv.memory import address, aligned_empty
from fastconv.spec import Conv2d
from fastconv.threads import get_num_threads
from fastconv.weights import Weights

BLOCK_ROWS = 36  # tiles in a block, at least half and at most twice as many
GROUP_COLUMNS = 64  # output channels whose products are kept at once
SHARES = 8  # tasks that are enough for threads of unequal speed
START = 3  # vectors of products that the start of a register tile takes
TILE_CYCLES = 120  # what a tile costs beside its arithmetic: to find it, and two calls
BLOCK_CYCLES = 30  # what a register tile of a product costs beside its arithmetic
# (taps, stride) -> sizes of tiles for "auto": larger ones would save another fifth of the products
# and lose a decimal of 3x3 layers, of which networks have most.
AUTOMATIC = {(3, 1): (4, 2), (3, 2): (4, 3, 2), (5, 1): (4, 2), (7, 1): (2,), (7, 2): (4,)}
STAGGER = 64  # bytes between products, so that their addresses do not share cache sets

FUSED, FORWARD, PRODUCT = Job(fused), Job(phase_forward), Job(phase_products)


def tile_counts(spec: Conv2d, m: int) -> tuple[int, int, int]:
    """Tiles in a column and in a row of one interleaved problem, and of all of them."""
    n, h, w, _ = spec.conv_out
    dh, dw = spec.dilation
    down, across = -(-h // (m * dh)), -(-w // (m * dw))
    return down, across, n * dh * dw * down * across


def choose_schedule(spec: Conv2d, tiles: int, products: int) -> tuple[str, Kernel, int, int]:
    """Schedule, matrix kernel, tiles in a block, and panels in a group.

    Fused while the transformed weights stay in the last-level cache and there are blocks enough to
    share; else blocks as tall as pays, of equal size, and groups enough to share.
    """
    dtype = WORKING[spec.dtype]
    rows = candidates("panels", dtype)
    c, k = spec.w[2:]
    tall = choose_kernel("panels", spec.dtype, k)
    weights = products * c * k * ITEMSIZE[dtype]
    block = max(min(-(-BLOCK_ROWS // tall.mr), tiles // SHARES // tall.mr), 1) * tall.mr
    if weights <= host.cache_bytes()[1] // 2 and block >= BLOCK_ROWS // 2:
        return "fused", tall, block, max(1, GROUP_COLUMNS // tall.nr)
    parts = max(1, -(-tiles // (2 * BLOCK_ROWS)))

    def register_tiles(row: Kernel) -> int:
        return -(-max(tiles, 1) // (parts * row.mr))

    def work(row: Kernel) -> float:
        # Each register tile begins anew and reads its weights anew, which takes half a row.
        each = (row.mr + 0.5) * row.vectors + START
        return register_tiles(row) * -(-k // row.nr) * each

    # Two widths, not more: each is a layout of the weights, which plans share.
    widest = max(row.nr for row in rows)
    best = min((row for row in rows if row.nr in (widest, widest // 2)), key=work)
    block = register_tiles(best) * best.mr
    panels = -(-k // best.nr)
    most = max(1, panels * parts // (2 * get_num_threads()))
    return "phased", best, block, max(1, min(GROUP_COLUMNS // best.nr, most))


class Winograd:
    """A convolution by F(m x m, r x r), planned."""

    def __init__(
        self, m: int, spec: Conv2d, w: Weights, bias: np.ndarray | None,
        slopes: np.ndarray | None,
    ) -> None:  # fmt: skip
        self.algorithm = f"winograd_f{m}"
        _, h, width, c = spec.x
        taps, k, stride = spec.w[0], spec.w[3], spec.stride[0]
        dtype = WORKING[spec.dtype]
        item, work, lanes = ITEMSIZE[spec.dtype], ITEMSIZE[dtype], LANES[dtype]
        ty, tx, tiles = tile_counts(spec, m)
        reach = stride * (m - 1) + taps
        products = reach * reach
        self.schedule, self.kernel, block, group = choose_schedule(spec, tiles, products)
        mr, nr = self.kernel.mr, self.kernel.nr
        panels = -(-k // nr)
        padded = -(-c // lanes) * lanes
        layout = m, stride, nr, padded, dtype
        self.packed = w.packed(layout, lambda array: pack_weights(array, *layout))
        self._bias = pack.bias(bias, k, 1, nr, dtype)
        finisher = finish.kernel_for(spec)
        self._clamp = pack.clamp(spec, finisher is not None, dtype)
        self._slopes = pack.slopes(spec, slopes, dtype)
        size = m // 2 if spec.pool else m
        product_v = block * padded * work + STAGGER
        product_m = block * group * nr * work + STAGGER
        patch = _page(max(products * padded, size * size * group * nr) * work)
        m_bytes = _page(patch + 8 * products + product_m * products)
        block_bytes = _page(product_v * products)
        self._private = m_bytes
        self._shared = 0
        # Fetching what the L2 holds anyway takes 5 % of narrow layers.
        far = int(math.prod(spec.x) * item > 2 * host.cache_bytes()[0])
        find = {"mr": m, "taps": taps, "stride": stride}
        common = {
            "ty_count": ty, "tx_count": tx, "tiles": tiles, "item": item, "work": work,
            "lanes": lanes, "mr": mr, "block": block, "product_v": product_v,
            "dh": spec.dilation[0], "dw": spec.dilation[1],
        }  # fmt: skip
        source = {
            "h": h, "w": width, "top": spec.pad[0][0], "left": spec.pad[1][0], "step": stride * m,
            "reach": reach, "forward": kernel("winograd_input", spec.dtype, **find).address,
            "channels": c,
        }  # fmt: skip
        target = {
            "oh": spec.out[1], "ow": spec.out[2], "cout": k, "size": size, "nr": nr,
            "gemm": self.kernel.address, "finish": finisher.address if finisher else 0,
            "product_m": product_m, "patch_bytes": patch, "weights": self.packed.ctypes.data,
            "bias": self._bias.ctypes.data, "clamp": self._clamp.ctypes.data,
            "slopes": self._slopes.ctypes.data, "products": products, "group": group,
            "panels": panels, "depth": -(-c // UNROLL) * UNROLL,
        }  # fmt: skip

        def steps(kind: str) -> list[tuple[Job, Template]]:
            inverse = kernel(kind, dtype, **find).address
            last = {**common, **target, "inverse": inverse, "scratch_bytes": self._private}
            if self.schedule == "fused":
                return [(FUSED, FUSED.pack(**source, **last, m_bytes=m_bytes, far=far))]
            share = {"block_bytes": block_bytes, "shared_bytes": self._shared}
            first = FORWARD.pack(**common, **source, **share, scratch_bytes=self._private)
            return [(FORWARD, first), (PRODUCT, PRODUCT.pack(**last, **share))]

        if self.schedule == "fused":
            self._private += block_bytes
        else:
            self._shared = -(-tiles // block) * block_bytes
        self._steps = steps("winograd_pool" if spec.pool else "winograd_output")
        # Past the caches, where whole vectors are aligned; see `run`.
        self._streaming = steps("winograd_stream") if streams(spec, finisher) else None

    def scratch_bytes(self, threads: int) -> int:
        """Scratch memory of a run."""
        return self._private * threads + self._shared

    def run(
        self, x: np.ndarray, out: np.ndarray, threads: int, add: np.ndarray | None = None
    ) -> None:
        """All arrays C-contiguous, of the plan's shapes and dtype."""
        memory = scratch(self.scratch_bytes(threads))
        source, target = address(x), address(out)
        residual = 0 if add is None else address(add)
        steps = self._streaming if self._streaming and target % 64 == 0 else self._steps
        for job, template in steps:
            job.run(template, source, target, memory, threads, residual)


def streams(spec: Conv2d, finisher: Kernel | None) -> bool:
    """Whether outputs are whole vectors that do not fit in the caches, and written just once."""
    whole = spec.w[3] % LANES[WORKING[spec.dtype]] == 0 and not spec.pool and not finisher
    return whole and host.bypasses(math.prod(spec.out) * ITEMSIZE[spec.dtype])


def pack_weights(w: np.ndarray, m: int, stride: int, nr: int, depth: int, dtype: str) -> np.ndarray:
    """w[r, r, c, k] -> U[panel][product][depth][nr]; zeros for channels that do not exist."""
    c, k = w.shape[2:]
    products = (stride * (m - 1) + w.shape[0]) ** 2
    packed = aligned_empty((-(-k // nr), products, depth, nr), dtype)
    for t, panel in enumerate(packed):  # one by one: in float64 all of fc6 takes a gigabyte
        first = pack.first_column(t, k, nr)
        panel[:, :c, :k] = transform_weights(w[..., first : first + nr], m, stride)
        panel[:, c:] = 0
        panel[:, :, k:] = 0
    return packed


def _page(nbytes: int) -> int:
    return -(-nbytes // 4096) * 4096


def supports(m: int, spec: Conv2d) -> str:
    """Why F(m x m) cannot serve `spec`; "" when it can."""
    (r, width), (stride, across) = spec.w[:2], spec.stride
    if r != width or stride != across or m not in TILES.get((r, stride), ()):
        return f"it has no tile of {m} x {m} for {r}x{width} kernels of stride {spec.stride}"
    if spec.pool and m % 2:
        return f"it cannot pool: a 2x2 window may lie in two tiles of {m} x {m}"
    if stride > 1 and spec.dilation != (1, 1):
        return "it cannot dilate and stride at once"
    if spec.pool and spec.dilation != (1, 1):
        return "it cannot pool dilated outputs, which lie in different tiles"
    if spec.groups != 1:
        return f"it needs groups=1, got {spec.groups}"
    return ""


def expected(m: int, spec: Conv2d) -> Cost | None:
    """Cost of F(m x m) for one image; None where its error is for those who ask for it."""
    taps, stride = spec.w[0], spec.stride[0]
    if m not in AUTOMATIC[taps, stride]:
        return None
    _, _, _, c = spec.x
    k, lanes, work = spec.w[3], LANES[spec.dtype], ITEMSIZE[WORKING[spec.dtype]]
    reach = stride * (m - 1) + taps
    products = reach * reach
    tiles = tile_counts(spec, m)[2] // max(spec.x[0], 1)
    schedule, tile, block, group = choose_schedule(spec, tiles, products)
    rows, panels = -(-tiles // tile.mr) * tile.mr, -(-k // tile.nr)
    depth = -(-c // UNROLL) * UNROLL
    # Both transforms are products with matrices that are half zeros and signs.
    forward = -(-c // lanes) * reach**3
    inverse = -(-k // lanes) * reach * m * (reach + m)
    # A column of a tile and its transform are in registers at once.
    spills = 2 if 2 * reach > host.vector_registers() else 1
    ideal = cost.multiplications(products * tiles * c * k, spec.dtype)
    cycles = (
        cost.multiplications(products * rows * depth * panels * tile.nr, spec.dtype) / cost.PRODUCTS
        + products * rows // tile.mr * panels * BLOCK_CYCLES
        + tiles * (spills * cost.instructions(1.2 * forward + 0.9 * inverse) + TILE_CYCLES)
    )
    weights = products * panels * tile.nr * depth * work
    blocks = -(-tiles // block)
    near, far = cost.traffic(spec, weights, blocks if schedule == "fused" else 1)
    v = products * rows * depth * work  # is written, and read for each group of panels
    passes = 2 if schedule == "fused" else 1 + -(-panels // group)
    return Cost(ideal, cycles, near + v * passes, far)

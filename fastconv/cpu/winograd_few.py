"""Winograd F(m x m, r x r) of few input channels, such as those of a picture.

With 3 channels the products are few and the transforms are most of the work, so nothing between
them goes through memory: a kernel multiplies V of one tile with the weights of a vector of output
channels and transforms the products back while they are in registers (`micro.winograd`). Direct
summation takes 1.5 to 2 times as long. It takes the 32 registers of AVX-512: with 16, half of each
tile waits in memory, and `winograd` is 1.1 to 1.7 times as fast from 3 channels on.

What did not help: weights loaded once for four tiles, whose half transformed products then go
through the first cache (2.4 -> 2.8 ms for 64 channels); panels outermost, which keeps weights in
the first cache but writes a vector of a pixel at a time (2.4 -> 2.7 ms); smaller tiles of 7x7
kernels of stride 2 (F(3x3): as slow as direct summation).
"""

import numpy as np

from fastconv.cook_toom import transform_weights
from fastconv.cpu import cost, finish, pack
from fastconv.cpu.cost import Cost
from fastconv.cpu.job import Job, OneJob, Template
from fastconv.cpu.kernels import Kernel, candidates, kernel
from fastconv.cpu.micro.winograd import FEW, FEW_TILES
from fastconv.cpu.simd import LANES
from fastconv.cpu.winograd import streams, tile_counts
from fastconv.cpu.winograd import supports as tiled
from fastconv.cpu.winograd_drivers import few
from fastconv.dtypes import ITEMSIZE, WORKING
from fastconv.memory import aligned_empty
from fastconv.spec import Conv2d
from fastconv.weights import Weights

BLOCK = 16  # tiles of a task: V of them stays in the first cache
TILE_CYCLES = 100  # what a tile costs beside its arithmetic

JOB = Job(few)


def _inverse(m: int, spec: Conv2d, kind: str) -> Kernel:
    find = {"mr": m, "taps": spec.w[0], "stride": spec.stride[0], "depth": spec.x[3]}
    return kernel(f"winograd_few_{kind}", WORKING[spec.dtype], **find)


class Few(OneJob):
    """A convolution by F(m x m, r x r), planned."""

    def __init__(
        self, m: int, spec: Conv2d, w: Weights, bias: np.ndarray | None,
        slopes: np.ndarray | None,
    ) -> None:  # fmt: skip
        self.algorithm = f"winograd_f{m}"
        _, h, width, c = spec.x
        taps, k, stride = spec.w[0], spec.w[3], spec.stride[0]
        dtype = WORKING[spec.dtype]
        work = ITEMSIZE[dtype]
        ty, tx, tiles = tile_counts(spec, m)
        reach = stride * (m - 1) + taps
        self.kernel = _inverse(m, spec, "pool" if spec.pool else "output")
        nr = LANES[dtype]
        layout = "few", m, stride, nr, dtype
        self.packed = w.packed(layout, lambda array: pack_weights(array, *layout[1:]))
        panels = len(self.packed)
        self._bias = pack.bias(bias, k, 1, nr, dtype)
        finisher = finish.kernel_for(spec)
        self._clamp = pack.clamp(spec, finisher is not None, dtype)
        self._slopes = pack.slopes(spec, slopes, dtype)
        size = m // 2 if spec.pool else m
        patch = max(reach * reach * FEW, size * size * panels * nr) * work
        forward = kernel("winograd_input", spec.dtype, mr=m, taps=taps, stride=stride, split=4)
        super().__init__(
            JOB, patch + BLOCK * reach * reach * FEW * work, patch_bytes=patch,
            forward=forward.address, inverse=self.kernel.address,
            finish=finisher.address if finisher else 0, step=stride * m, reach=reach,
            products=reach * reach, nr=nr, panels=panels, panel_u=self.packed.strides[0],
            block=BLOCK, product_v=FEW * work, tiles=tiles, ty_count=ty, tx_count=tx, h=h, w=width,
            channels=c, top=spec.pad[0][0], left=spec.pad[1][0], dh=spec.dilation[0],
            dw=spec.dilation[1], oh=spec.out[1], ow=spec.out[2], cout=k, size=size,
            weights=self.packed.ctypes.data, bias=self._bias.ctypes.data,
            clamp=self._clamp.ctypes.data, slopes=self._slopes.ctypes.data,
            item=ITEMSIZE[spec.dtype], work=work,
        )  # fmt: skip
        self._streaming: Template | None = None
        if streams(spec, finisher):
            past = _inverse(m, spec, "stream")
            self._streaming = JOB.changed(self._template, inverse=past.address)

    def _template_for(self, out: int) -> Template:
        return self._streaming if self._streaming and out % 64 == 0 else self._template


def pack_weights(w: np.ndarray, m: int, stride: int, nr: int, dtype: str) -> np.ndarray:
    """w[r, r, c, k] -> U[panel][product column][c][product row][nr]."""
    c, k = w.shape[2:]
    reach = stride * (m - 1) + w.shape[0]
    u = transform_weights(w, m, stride).reshape(reach, reach, c, k).transpose(1, 2, 0, 3)
    packed = aligned_empty((-(-k // nr), reach, c, reach, nr), dtype)
    packed[...] = 0
    for t, panel in enumerate(packed):
        first = pack.first_column(t, k, nr)
        part = u[..., first : first + nr]
        panel[..., : part.shape[3]] = part
    return packed


def supports(m: int, spec: Conv2d) -> str:
    """Why this cannot serve `spec`; "" when it can."""
    if not 0 < spec.x[3] <= FEW or m not in FEW_TILES.get((spec.w[0], spec.stride[0]), ()):
        return f"it needs 1 to {FEW} input channels"
    if not candidates("winograd_few_output", WORKING[spec.dtype]):
        return "it needs 32 vector registers"
    return tiled(m, spec)


def expected(m: int, spec: Conv2d) -> Cost:
    """Cost of F(m x m) for one image."""
    c, k, lanes = spec.x[3], spec.w[3], LANES[WORKING[spec.dtype]]
    reach = spec.stride[0] * (m - 1) + spec.w[0]
    tiles = tile_counts(spec, m)[2] // max(spec.x[0], 1)
    vectors = -(-k // lanes)
    ideal = cost.multiplications(reach * reach * tiles * c * k, spec.dtype)
    # The two loads of a product go beside others; the transforms are products with matrices half
    # of zeros.
    loads = reach * reach * c * vectors
    inverse = vectors * reach * m * (reach + m)
    transforms = 0.5 * inverse + 0.3 * reach**3
    spills = 1.4 if reach > 8 else 1.0  # then the constants of the transforms do not fit, too
    cycles = tiles * (spills * cost.instructions(1.5 * loads + transforms) + TILE_CYCLES)
    near, far = cost.traffic(spec, loads * lanes * ITEMSIZE[WORKING[spec.dtype]])
    return Cost(ideal, cycles, near, far)

"""Depthwise convolution: a thread makes one output pixel of 4 channels, or of 1."""

from numba import cuda
from numba.cuda.types import float32, int32

from fastconv.cuda.activations import clamp, curves
from fastconv.cuda.finish import clamp4
from fastconv.cuda.ptx import load1, load4, splat, store1, store4, udivmod
from fastconv.cuda.windows import inside, task


@cuda.jit(device=True)
def _times4(sums, x, w):
    return (
        sums[0] + x[0] * w[0], sums[1] + x[1] * w[1], sums[2] + x[2] * w[2], sums[3] + x[3] * w[3]
    )  # fmt: skip


def make(lanes):
    """The kernel; of 4 channels each is its own output channel, of 1 it may be several."""

    @cuda.jit(device=True)
    def one(x, at, w, channel, sums, on):
        return (sums[0] + load1(x, at, on) * load1(w, channel, on),)

    @cuda.jit(device=True)
    def four(x, at, w, channel, sums, on):
        return _times4(sums, load4(x, at, on), load4(w, channel, on))

    @cuda.jit(device=True)
    def put_one(y, add, at, sums, bias, slopes, channel, on, end):
        residual, low, high, kind, alpha = end
        v = sums[0] + load1(bias, channel, on) + load1(add, at, on & (residual != 0))
        v = clamp(v, load1(slopes, channel, on), low, high)
        store1(y, at, curves((v,), kind, alpha)[0], on)

    @cuda.jit(device=True)
    def put_four(y, add, at, sums, bias, slopes, channel, on, end):
        residual, low, high, kind, alpha = end
        more = load4(add, at, on & (residual != 0))
        v = clamp4(sums, more, load4(bias, channel, on), load4(slopes, channel, on), low, high)
        store4(y, at, curves(v, kind, alpha), on)

    advance, put = (four, put_four) if lanes == 4 else (one, put_one)

    def depthwise(x, w, bias, slopes, add, y, height, width, c, k, multiplier, oh, ow, kh, kw, down,
                  right, dh, dw, top, left, residual, low, high, kind, alpha, count):  # fmt: skip
        g, n, i, j, chunk = task(int32(udivmod(k, int32(lanes))[0]), oh, ow)
        on = g < count
        channel = int32(chunk * lanes)
        source = udivmod(channel, multiplier)[0]
        sums = splat(lanes, float32(0))
        p = int32(0)
        while p < kh:
            q = int32(0)
            while q < kw:
                row, column = int32(i * down - top + p * dh), int32(j * right - left + q * dw)
                here = on & inside(row, column, height, width)
                at = int32(((n * height + row) * width + column) * c + source)
                sums = advance(x, at, w, int32((p * kw + q) * k + channel), sums, here)
                q = int32(q + 1)
            p = int32(p + 1)
        end = residual, low, high, kind, alpha
        put(y, add, int32(g * lanes), sums, bias, slopes, channel, on, end)

    return depthwise

"""Bounds on rounding errors, for every element of a result.

``|computed - reference| <= bound`` where the operands are finite and nothing overflows; the
reference's own rounding, in float64, is part of the bound. There are two kinds.

``kind="guaranteed"`` holds for any order of summation, with or without fused multiply-add. A bound
that is broken proves a mistake; there is no tolerance to choose. The tool is Higham's lemma: a term
that passes ``t`` roundings changes by a factor ``1 + theta`` with ``|theta| <= gamma(t) = t*u /
(1 - t*u)``, where ``u`` is 2**-24 for float32 and 2**-53 for float64. So the error of a sum of
products is at most ``gamma(t)`` times the sum of their absolute values, their magnitude. A clamp
and a maximum round nothing and never enlarge an error.

``kind="probabilistic"`` says how large errors are likely to be, since roundings rarely all point in
one direction. Under a model it holds, for all elements of the array together, with a probability of
at least ``confidence``.

* Model: a rounding turns ``s`` into ``s * (1 + delta)``, ``|delta| <= u``, and ``delta`` has the
  mean zero whatever the earlier ones were. The operands are given numbers; the probability is over
  the roundings alone.
* Theorem: the error of a linear computation is the sum of all ``gain * delta * s``, where the gain
  is how the rounding reaches the result: a martingale. By Azuma's inequality it exceeds ``lambda *
  u * sqrt(sum of (gain * s)**2)`` with a probability of at most ``2 * exp(-lambda**2 / 2)``.
  ``lambda`` makes that ``(1 - confidence) / elements``, so that by Boole's inequality all elements
  together have the confidence, however they depend on each other. What is no random number, as
  underflow and the error of a coefficient like 2/3, is added as it is.
* Order: a bound needs the ``s``. They are the partial sums of fastconv's kernels, which add the
  bias, then rows, columns and channels of a direct convolution, or the channels of Winograd's
  products; in blocks of `_sums.BLOCK` channels the order is free, and fused multiply-add as well.
  Winograd's transforms go down the columns first and may add their terms in any order, pools may as
  well. The reference sums tap by tap. For another order there is only the guaranteed bound.
* Literature: with magnitudes in place of the partial sums, and so for any order, this is to first
  order theorem 3.1 of Higham and Mary: for independent ``delta`` an inner product of length ``n``
  errs by at most ``gamma~ * sum |x*w|`` with a probability of at least ``1 - 2 * n * exp(-lambda**2
  * (1 - u)**2 / 2)``, where ``gamma~ = exp(lambda * sqrt(n) * u + n * u**2 / (1 - u)) - 1``. But
  the partial sums of numbers of both signs are smaller, by about ``sqrt(n)``. Connolly, Higham and
  Mary weaken the model to the one above; Ipsen and Zhou use Azuma's inequality and partial sums.

A probabilistic bound is never above the guaranteed one. Real roundings are not random, and data can
make them conspire: adding 2**-24 to 1 again and again breaks it.

Sources: N. J. Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd edition (2002),
sections 2.1 (underflow), 3.1 and 3.4; N. J. Higham and T. Mary, *A New Approach to Probabilistic
Rounding Error Analysis* (2019); I. C. F. Ipsen and H. Zhou, *Probabilistic Error Analysis for Inner
Products* (2020); M. P. Connolly, N. J. Higham and T. Mary, *Stochastic Rounding and its
Probabilistic Backward Error Analysis* (2021).
"""

import math

import numpy as np
from numpy.typing import ArrayLike

from fastconv.bounds import _windows
from fastconv.bounds._pointwise import activation, softmax
from fastconv.bounds._rounding import (
    CONFIDENCE,
    SLACK,
    U64,
    Array,
    deviations,
    gamma,
    rounded_to,
    unit_roundoff,
)  # fmt: skip
from fastconv.bounds._sums import direct, operands, read, transposed
from fastconv.bounds._tensor import TENSOR
from fastconv.bounds._winograd import NAMES, supports, winograd
from fastconv.dtypes import WORKING
from fastconv.spec import ChannelOp, Conv2d, ConvTranspose2d, Pool2d, Resize2d

__all__ = [
    "CONFIDENCE",
    "activation",
    "channel_op",
    "conv2d",
    "conv2d_transpose",
    "gamma",
    "pool2d",
    "resize2d",
    "rounded_to",
    "supports",
    "typical",
    "unit_roundoff",
]


def conv2d(
    x: ArrayLike, w: ArrayLike, bias: ArrayLike | None, spec: Conv2d, algorithm: str = "direct", *,
    add: ArrayLike | None = None, kind: str = "guaranteed", confidence: float = CONFIDENCE,
) -> Array:  # fmt: skip
    """Bound for `fastconv.conv2d`.

    Parameters
    ----------
    x, w, bias
        The operands, NHWC and HWIO, read in the working precision.
    spec : Conv2d
        Its ``dtype`` is the working precision. Its activation is a clamp, which changes nothing;
        `activation` goes on where it is none.
    algorithm : "direct", "winograd_f2", "winograd_f3", "winograd_f4" or "winograd_f6"
        Or one of a GPU's tensor cores, "tf32", "tf32x3", "winograd_f4_tf32x3" or, of 16-bit
        operands, "tensor", "wgmma" and "wgmma_tma", for which both kinds of bounds are the
        guaranteed one.
    add : array_like, shape ``spec.conv_out``, optional
        Added after the bias.
    kind : "guaranteed" or "probabilistic"
    confidence : float
        Least probability with which a probabilistic bound holds for the whole array.

    Returns
    -------
    ndarray of float64, shape ``spec.out``

    Raises
    ------
    ValueError
        The algorithm or the kind is unknown, the algorithm cannot compute ``spec``, or a shape is
        wrong.

    Notes
    -----
    Direct: an output sums ``n = kh*kw*c/groups`` products and the bias, so no term passes more
    than ``n + 1`` roundings: ``gamma(n + 1) * (|x| * |w| + |bias|)``. Probabilistic: ``lambda * u *
    sqrt(sum of s**2)`` with the partial sums ``s``.

    Winograd: the sum of what its four steps may add, from the transform matrices and the
    transformed operands; the code of `bounds._winograd` is the derivation.
    """
    refused = supports(spec, algorithm)
    if refused:
        raise ValueError(f"bounds.conv2d: {algorithm} cannot compute this layer: {refused}")
    lam = deviations(kind, confidence, math.prod(spec.conv_out))
    if algorithm in NAMES and NAMES[algorithm][1]:
        lam = None
    images, w, b = operands(x, w, bias, spec)
    added = [None] * len(images) if add is None else read(add, spec.conv_out, spec.dtype)
    y = np.zeros(spec.conv_out)
    units, apart = _units(spec.dtype, lam)
    with np.errstate(over="ignore", invalid="ignore"):  # of squares, which are not used then
        for n, (image, more) in enumerate(zip(images, added, strict=True)):
            if row := TENSOR.get(algorithm):
                y[n] = direct(image, w, b, more, spec, None, (row.unit, U64), own=row.operands)
            elif algorithm == "direct":
                y[n] = direct(image, w, b, more, spec, lam, units)
            else:
                y[n] = winograd(image, w, b, more, spec, algorithm, lam)
                if not apart:
                    y[n] += direct(image, w, b, more, spec, None, (U64,))
            if apart:
                y[n] += direct(image, w, b, more, spec, lam, (U64,), apart=True)
    if spec.pool:  # |max(a) - max(b)| <= max |a - b|
        _, h, width, k = spec.out
        pairs = y[:, : 2 * h, : 2 * width].reshape(spec.x[0], h, 2, width, 2, k)
        y = pairs.max(axis=(2, 4), initial=0)
    return y * SLACK


def conv2d_transpose(
    x: ArrayLike, w: ArrayLike, bias: ArrayLike | None, spec: ConvTranspose2d,
    algorithm: str = "direct", *, add: ArrayLike | None = None, kind: str = "guaranteed",
    confidence: float = CONFIDENCE,
) -> Array:  # fmt: skip
    """Bound for `fastconv.conv2d_transpose`, shape ``spec.out``.

    ``gamma(n + 1) * (sum |x*w| + |bias|)`` where ``n`` counts the taps that meet in the pixel,
    times the input channels of a group. Parameters, probabilistic bound and errors are those of
    `conv2d`; ``add`` has the shape ``spec.out``.
    """
    lam = deviations(kind, confidence, math.prod(spec.out))
    images, w, b = operands(x, w, bias, spec)
    added = [None] * len(images) if add is None else read(add, spec.out, spec.dtype)
    units, apart = _units(spec.dtype, lam)
    y = np.zeros(spec.out)
    with np.errstate(over="ignore", invalid="ignore"):
        for n, (image, more) in enumerate(zip(images, added, strict=True)):
            if row := TENSOR.get(algorithm):
                y[n] = transposed(image, w, b, more, spec, None, (row.unit, U64), own=row.operands)
                continue
            y[n] = transposed(image, w, b, more, spec, lam, units)
            if apart:
                y[n] += transposed(image, w, b, more, spec, lam, (U64,), apart=True)
    return y * SLACK


def pool2d(
    x: ArrayLike, spec: Pool2d, *, kind: str = "guaranteed", confidence: float = CONFIDENCE
) -> Array:
    """Bound for `fastconv.avg_pool2d`, shape ``spec.out``; a maximum is exact.

    ``n`` pixels are added, in any order, and divided by their count, or multiplied by its rounded
    reciprocal: ``gamma(n + 1) * sum |x| / count``.
    """
    lam = deviations(kind, confidence, math.prod(spec.out))
    y = np.zeros(spec.out)
    if spec.kind == "avg":
        with np.errstate(over="ignore", invalid="ignore"):
            for n, image in enumerate(read(x, spec.x, spec.dtype)):
                y[n] = _windows.average(image, spec, lam)
    return y * SLACK


def resize2d(
    x: ArrayLike, spec: Resize2d, *, kind: str = "guaranteed", confidence: float = CONFIDENCE
) -> Array:
    """Bound for `fastconv.resize2d`, shape ``spec.out``; nearest is exact.

    Each axis is a sum of ``t`` pixels, 2 or in bicubic 4, times weights that were rounded once
    from float64: ``gamma(2 * (t + 1)) * sum |weight_i * weight_j * x|``. So few roundings are not
    likely to cancel: both kinds are the same.
    """
    deviations(kind, confidence, math.prod(spec.out))
    y = np.zeros(spec.out)
    if spec.method != "nearest":
        for n, image in enumerate(read(x, spec.x, spec.dtype)):
            y[n] = _windows.interpolation(image, spec)
    return y * SLACK


def channel_op(
    x: ArrayLike, spec: ChannelOp, *, kind: str = "guaranteed", confidence: float = CONFIDENCE
) -> Array:
    """Bound for a `ChannelOp`, shape ``spec.out``; an argmax is exact.

    The exponentials of a softmax have errors of at most 4 units in the last place.
    """
    lam = deviations(kind, confidence, math.prod(spec.out))
    if spec.kind == "argmax":
        return np.zeros(spec.out)
    return softmax(read(x, spec.x, spec.dtype), spec.dtype, lam) * SLACK


def _units(dtype: str, lam: float | None) -> tuple[tuple[float, ...], bool]:
    """Precisions that a direct sum's bound covers, and whether the reference needs its own.

    Beside float32 the reference errs so little that the order of its sums does not matter.
    """
    u = unit_roundoff(dtype)
    return ((u, U64), False) if lam is None or u > U64 else ((u,), True)


def typical(spec: Conv2d | ConvTranspose2d, algorithm: str) -> tuple[float, float]:
    """Bounds for normal random numbers, likely and guaranteed, over the size of the results.

    The largest bounds of a few outputs that sum as many products as those of `spec`, over the root
    mean square of all such outputs; bias, residual and activation are left out.

    Raises
    ------
    ValueError
        As in `conv2d`.
    """
    kh, kw, depth, _ = spec.w
    stride, dtype = 1, WORKING[spec.dtype]
    if isinstance(spec, ConvTranspose2d):  # of each phase: the taps that meet in a pixel
        (sh, sw), (dh, dw) = spec.stride, spec.dilation
        kh, kw = -(-((kh - 1) * dh + 1) // sh), -(-((kw - 1) * dw + 1) // sw)
        depth = spec.x[3] // spec.groups
    elif algorithm != "direct":
        stride = spec.stride[0]
    side = 4  # tiles of 2 x 2 or 4 x 4 outputs fit
    size = (stride * (side - 1) + kh, stride * (side - 1) + kw)
    small = Conv2d((1, *size, depth), (kh, kw, depth, 2), (stride, stride), dtype=dtype)
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal(small.x), rng.standard_normal(small.w)
    scale = math.sqrt(max(math.prod(small.w[:3]), 1))
    likely, guaranteed = (
        float(conv2d(x, w, None, small, algorithm, kind=kind).max()) / scale
        for kind in ("probabilistic", "guaranteed")
    )
    return likely, guaranteed

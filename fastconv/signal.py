"""Two-dimensional correlation and convolution of single-channel arrays, as in ``scipy.signal``.

`correlate2d` and `convolve2d` take the arguments of their namesakes and give the same answers:
result dtype, wrap-around of integers, "same" centred on `in1`, the swap of operands in "valid".
One input differs on purpose: to wrap or mirror an axis without elements is an error here, and a
crash of the process there.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastconv._signal_kernels import correlate_valid
from fastconv.threads import get_num_threads

Array = NDArray[Any]
Mode = Literal["full", "same", "valid"]
Boundary = Literal["fill", "pad", "wrap", "circular", "symm", "symmetric"]

MODES = {"full": 1, "same": 0, "valid": -1}  # the result is larger by this times kernel - 1
BOUNDARIES = {
    **dict.fromkeys(("fill", "pad"), "fill"),
    **dict.fromkeys(("wrap", "circular"), "wrap"),
    **dict.fromkeys(("symm", "symmetric"), "symm"),
}
PANEL_ELEMENTS = 2**16  # extended input held at once: it stays in L2
PARALLEL_WORK = 2**22  # multiply-adds below which starting threads costs more than it saves


def correlate2d(
    in1: ArrayLike,
    in2: ArrayLike,
    mode: Mode = "full",
    boundary: Boundary = "fill",
    fillvalue: Any = 0,
) -> Array:
    """Cross-correlation of two matrices.

    ``y[i, j] = sum_pq x[i + p - top, j + q - left] * conj(w[p, q])`` with ``x = in1`` of shape
    (h, w), ``w = in2`` of shape (kh, kw), and x extended beyond its edges by `boundary`.

    Parameters
    ----------
    in1, in2
        Matrices of integers, float32, float64, complex64, complex128 or the platform's long
        double; mixed types, strided views and lists are accepted. One of the two may be bool.
    mode
        "full": (h + kh - 1, w + kw - 1) elements, ``top, left = kh - 1, kw - 1``. "same": the
        shape of `in1`, ``top, left = (kh - 1) // 2, (kw - 1) // 2``. "valid": windows inside the
        input only, (h - kh + 1, w - kw + 1) elements, ``top = left = 0``; when `in2` is the larger
        matrix the two change places and the result is reversed in both axes.
    boundary
        What surrounds `in1`: "fill" ("pad"), `fillvalue`; "wrap" ("circular"), its periodic
        repetition; "symm" ("symmetric"), its mirror images, the edge repeated.
    fillvalue
        Scalar or array of one element that the result type can hold; used by "fill" only.

    Returns
    -------
    ndarray
        Of the promoted dtype of the two inputs, in which it is also accumulated; integers wrap
        around. Every element is summed in raster order of its window, for any number of threads.

    Raises
    ------
    ValueError
        For an input that is not a matrix, an unknown mode or boundary, a dtype without kernel
        (bool with bool, float16, object, text, dates), "valid" when neither matrix contains the
        other, "full" of two empty axes, "wrap" or "symm" of an empty axis, or a `fillvalue` that
        the result type cannot hold.
    TypeError
        For a `fillvalue` that is no number.

    Examples
    --------
    >>> image = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    >>> correlate2d(image, [[-1, 1], [2, -2]], mode="valid")
    array([[-1, -1],
           [-1, -1]])
    """
    x, w, swapped = _operands("correlate2d", in1, in2, mode, boundary)
    fill = _fill("correlate2d", fillvalue, x.dtype, boundary)
    lead_same = ((w.shape[0] - 1) // 2, (w.shape[1] - 1) // 2)
    y = _correlate("correlate2d", x, w.conj(), mode, lead_same, boundary, fill)
    return y[::-1, ::-1] if swapped else y


def convolve2d(
    in1: ArrayLike,
    in2: ArrayLike,
    mode: Mode = "full",
    boundary: Boundary = "fill",
    fillvalue: Any = 0,
) -> Array:
    """Convolution of two matrices.

    ``y[i, j] = sum_pq x[i + bottom - p, j + right - q] * w[p, q]`` with ``x = in1`` of shape
    (h, w), ``w = in2`` of shape (kh, kw), and x extended beyond its edges by `boundary`:
    `correlate2d` with the kernel reversed in both axes and not conjugated.

    Parameters, result and errors are those of `correlate2d`. "full" has ``bottom, right = 0, 0``,
    "same" ``(kh - 1) // 2, (kw - 1) // 2``, "valid" ``kh - 1, kw - 1``; when `in2` is the larger
    matrix in "valid", the two change places, which leaves a convolution as it was.

    Examples
    --------
    >>> image = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    >>> convolve2d(image, [[-1, 1], [2, -2]], mode="valid")
    array([[1, 1],
           [1, 1]])
    """
    x, w, _ = _operands("convolve2d", in1, in2, mode, boundary)
    fill = _fill("convolve2d", fillvalue, x.dtype, boundary)
    lead_same = (w.shape[0] // 2, w.shape[1] // 2)
    return _correlate("convolve2d", x, w[::-1, ::-1], mode, lead_same, boundary, fill)


def extension(size: int, lead: int, length: int, boundary: str) -> NDArray[np.intp]:
    """Which element stands at each place of an extended axis.

    The axis of `size` elements is continued on both sides by `boundary`; the map has `length`
    entries and its entry `lead` is element 0. With size = 3, lead = 4, length = 11:

        wrap   2  0  1  2  0  1  2  0  1  2  0
        symm   2  2  1  0  0  1  2  2  1  0  0
    """
    place = np.arange(-lead, length - lead)
    if boundary == "wrap":
        return place % size
    place %= 2 * size
    return np.minimum(place, 2 * size - 1 - place)


def filled(x: Array, rows: slice, lead: tuple[int, int], columns: int, fill: Array) -> Array:
    """Some rows of `x` in the middle of `fill`, which goes on for ever; its (0, 0) is at `lead`."""
    y = np.full((rows.stop - rows.start, columns), fill)
    first, last = max(rows.start - lead[0], 0), min(rows.stop - lead[0], x.shape[0])
    if first < last:
        top = first + lead[0] - rows.start
        y[top : top + last - first, lead[1] : lead[1] + x.shape[1]] = x[first:last]
    return y


def _operands(
    op: str, in1: ArrayLike, in2: ArrayLike, mode: str, boundary: str
) -> tuple[Array, Array, bool]:
    """Both matrices in the result's dtype, the larger first in "valid"; whether they changed."""
    x, w = np.asarray(in1), np.asarray(in2)
    if x.ndim != 2 or w.ndim != 2:
        raise ValueError(f"{op} inputs must both be 2-D arrays, got {x.ndim}-D and {w.ndim}-D")
    if mode not in MODES:
        raise ValueError(f"{op}: mode must be one of {', '.join(MODES)}, got {mode!r}")
    if boundary not in BOUNDARIES:
        raise ValueError(f"{op}: boundary must be one of {', '.join(BOUNDARIES)}, got {boundary!r}")
    swap = mode == "valid" and not _contains(x.shape, w.shape)
    if swap and not _contains(w.shape, x.shape):
        raise ValueError(
            f"{op}: in mode 'valid' one input must be at least as large as the other in both axes, "
            f"got {x.shape} and {w.shape}; use mode 'same' or 'full'"
        )
    dtype = _result_dtype(op, x.dtype, w.dtype)
    x, w = x.astype(dtype, copy=False), w.astype(dtype, copy=False)
    return (w, x, True) if swap else (x, w, False)


def _contains(larger: tuple[int, ...], smaller: tuple[int, ...]) -> bool:
    return all(a >= b for a, b in zip(larger, smaller, strict=True))


def _result_dtype(op: str, first: np.dtype[Any], second: np.dtype[Any]) -> np.dtype[Any]:
    if first.kind in "buifc" and second.kind in "buifc":
        dtype = np.promote_types(first, second)
        if dtype.kind != "b" and dtype != np.float16:
            return dtype
    raise ValueError(
        f"{op} is not available for {first} with {second}: convert one of them to an integer, "
        "float32, float64 or complex type"
    )


def _fill(op: str, fillvalue: Any, dtype: np.dtype[Any], boundary: str) -> Array:
    """`fillvalue` as an array of one element of `dtype`; zero where `boundary` needs none."""
    if BOUNDARIES[boundary] != "fill" or (type(fillvalue) is int and fillvalue == 0):
        return np.zeros((), dtype)
    refusal = f"{op}: fillvalue {fillvalue!r} cannot be cast to the result's dtype {dtype}"
    if isinstance(fillvalue, np.ndarray) and not np.can_cast(fillvalue.dtype, dtype, "safe"):
        raise ValueError(f"{refusal} safely; pass a scalar instead of an array")
    try:
        value = np.asarray(fillvalue, dtype)
    except (TypeError, ValueError, OverflowError) as error:
        numeric = fillvalue is None or isinstance(fillvalue, complex)
        kind = TypeError if isinstance(error, TypeError) and not numeric else ValueError
        raise kind(f"{refusal}: {error}") from error
    if value.size != 1:
        raise ValueError(f"{op}: fillvalue must be one value, got an array of shape {value.shape}")
    return value.reshape(())


def _correlate(
    op: str,
    x: Array,
    w: Array,
    mode: str,
    lead_same: tuple[int, int],
    boundary: str,
    fill: Array,
) -> Array:
    """Slide `w` over the extended `x`, panel of rows by panel, several panels at a time."""
    lead = {"full": (w.shape[0] - 1, w.shape[1] - 1), "same": lead_same, "valid": (0, 0)}[mode]
    oh, ow = (n + MODES[mode] * (k - 1) for n, k in zip(x.shape, w.shape, strict=True))
    if oh < 0 or ow < 0:
        raise ValueError(f"{op}: mode 'full' of two empty axes, shapes {x.shape} and {w.shape}")
    if oh * ow * w.size == 0:
        return np.zeros((oh, ow), x.dtype)
    kh, kw = w.shape
    extended = (oh + kh - 1, ow + kw - 1)
    how = BOUNDARIES[boundary]
    if x.size == 0 and how != "fill":
        raise ValueError(f"{op}: boundary {boundary!r} cannot extend an empty input, {x.shape}")
    accumulate = _kernel(x.dtype)
    x, w = _aligned(x), _aligned(w)
    y = np.empty((oh, ow), x.dtype)
    height = max(kh, PANEL_ELEMENTS // extended[1])
    maps = () if how == "fill" else tuple(map(extension, x.shape, lead, extended, (how, how)))

    def panel(first: int) -> None:
        last = min(first + height, oh)
        inside = slice(first, last + kh - 1)
        if extended == x.shape:
            below = x[inside]
        elif how == "fill":
            below = filled(x, inside, lead, extended[1], fill)
        else:
            rows, columns = maps
            below = x.take(rows[inside], axis=0).take(columns, axis=1)
        accumulate(below, w, y[first:last])

    panels = range(0, oh, height)
    threads = min(get_num_threads(), len(panels)) if y.size * w.size > PARALLEL_WORK else 1
    if threads == 1:
        for first in panels:
            panel(first)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(panel, panels))  # the list raises what a panel raised
    return y


def _aligned(x: Array) -> Array:
    """C-contiguous and aligned; `numpy.require` takes 6 us to find that it already is."""
    return x if x.flags.carray else np.require(x, requirements=["C", "ALIGNED"])


def _kernel(dtype: np.dtype[Any]) -> Callable[[Array, Array, Array], None]:
    """Compiled, except for a long double wider than float64, which only NumPy knows."""
    wide = dtype.itemsize > (16 if dtype.kind == "c" else 8)
    return _correlate_valid_wide if wide else correlate_valid


@np.errstate(all="ignore")  # as silent as compiled code on infinities
def _correlate_valid_wide(x: Array, w: Array, y: Array) -> None:
    y[...] = 0
    rows, columns = y.shape
    for p, q in np.ndindex(*w.shape):
        y += w[p, q] * x[p : p + rows, q : q + columns]

"""Resizing, and what the channels of each pixel give: arrays in, arrays out."""

from typing import Any

import numpy as np

from fastconv import shapes
from fastconv.arrays import as_format, nhwc, out_view, remembered
from fastconv.dtypes import label_dtype
from fastconv.plan import backend, run_windows
from fastconv.spec import ChannelOp, Resize2d

__all__ = ["argmax", "resize2d", "softmax"]


@remembered
def _resize(
    shape: Any,
    dtype: Any,
    size: Any,
    method: str,
    coordinates: str,
    rows: Any,
    above: int,
    height: int | None,
    labels: bool,
    device: str,
) -> tuple[Any, tuple[int, ...], np.dtype[Any]]:
    """What runs a resize, and the shape and dtype of its result."""
    op = "resize2d"
    rows = None if rows is None else shapes.pair(rows, "rows", op, 0)
    size = shapes.pair(size, "size", op)
    spec = Resize2d(shape, size, method, coordinates, dtype.name, rows, above, height)
    module = backend(device, op)
    if not labels:
        return module.plan_windows(spec), spec.out, dtype
    ChannelOp(shape, "argmax", dtype.name)  # says what is wrong without channels
    return module.plan_windows(spec, labels=True), spec.out[:3], label_dtype(shape[3])


@remembered
def _channels(
    shape: Any, dtype: Any, kind: Any, label: np.dtype[Any] | None, device: str
) -> tuple[Any, tuple[int, ...], np.dtype[Any]]:
    """What runs an argmax or a softmax, and the shape and dtype of its result."""
    spec = ChannelOp(shape, kind, dtype.name)
    module = backend(device, kind)
    if kind == "softmax":
        return module.plan_channels(spec), spec.out, dtype
    label = label or label_dtype(shape[3])
    return module.plan_channels(spec, label.itemsize), spec.out, label


def resize2d(
    x: Any, size: Any, *, method: str = "bilinear", coordinates: str = "half_pixel",
    rows: tuple[int, int] | None = None, above: int = 0, height: int | None = None,
    argmax: bool = False, data_format: str = "NHWC", device: str = "cpu",
    num_threads: int | None = None, out: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Interpolate images to another height and width, without anti-aliasing.

    Output pixel i lies at ``s = (i + 0.5) * h / oh - 0.5`` ("half_pixel": TensorFlow 2, Keras,
    PyTorch, Pillow), ``s = i * h / oh`` ("asymmetric": TensorFlow 1) or
    ``s = i * (h - 1) / (oh - 1)`` ("align_corners").

    Parameters
    ----------
    x : (n, h, w, c), any dtype of `conv2d`
    size : (height, width)
    method : "bilinear", "nearest" or "bicubic"
        "nearest" takes pixel ``floor(s + 0.5)``, ``floor(s)`` and ``round(s)`` of the three kinds
        of coordinates. "bicubic" is Keys's kernel: with "half_pixel" a = -0.5 and weights that add
        up to one at the border (TensorFlow 2, Pillow), else a = -0.75 and a repeated border
        (TensorFlow 1, PyTorch).
    coordinates : "half_pixel", "asymmetric" or "align_corners"
    rows : (low, high), optional
        Make only the rows ``low <= i < high`` of the result, with the bits of the whole.
    above, height : int, optional
        `x` is a part of an image of `height` rows: those from `above` on.
    argmax : bool
        Give the largest channel of each pixel, as `argmax` does: the resized numbers, by far the
        largest tensor of a segmentation network, are never kept.
    data_format, device, num_threads, out
        As in `conv2d`.

    Returns
    -------
    (n, height, width, c) ndarray, dtype of `x`; with `argmax` labels (n, height, width)

    Raises
    ------
    ValueError, TypeError
        Wrong shape, dtype, method or coordinates, or no pixels.
    """
    op = "resize2d"
    image = nhwc(x, data_format, op)
    executor, shape, dtype = _resize(image.shape, image.dtype, size, method, coordinates, rows,
                                     above, height, argmax, device)  # fmt: skip
    if argmax:
        return run_windows(executor, image, shape, dtype, num_threads, out, op)
    y = run_windows(executor, image, shape, dtype, num_threads, out_view(out, data_format), op)
    return as_format(y, data_format, out)


def argmax(
    x: Any, *, data_format: str = "NHWC", device: str = "cpu", num_threads: int | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Channel with the largest number of each pixel: logits to labels.

    Parameters
    ----------
    x : (n, h, w, c), any dtype of `conv2d`
    data_format, device, num_threads
        As in `conv2d`.
    out : ndarray (n, h, w) of an integer type, optional
        Where the labels go.

    Returns
    -------
    (n, h, w) ndarray, uint8 (int32 beyond 256 channels)
        The first of equal channels; a NaN counts as the largest number, as in NumPy.

    Raises
    ------
    ValueError, TypeError
        Wrong shape or dtype, or no channels.
    """
    op = "argmax"
    image = nhwc(x, data_format, op)
    wanted = out.dtype if isinstance(out, np.ndarray) else None
    wide = wanted if wanted is not None and wanted in (np.int32, np.int64) else None
    executor, shape, dtype = _channels(image.shape, image.dtype, op, wide, device)
    return run_windows(executor, image, shape, dtype, num_threads, out, op)


def softmax(
    x: Any, *, data_format: str = "NHWC", device: str = "cpu", num_threads: int | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """``exp(x) / sum(exp(x))`` over the channels of each pixel.

    Parameters
    ----------
    x : (n, h, w, c), any dtype of `conv2d`
    data_format, device, num_threads, out
        As in `conv2d`.

    Returns
    -------
    ndarray, shape and dtype of `x`
        All NaN for a pixel with a NaN or plus infinity.

    Raises
    ------
    ValueError, TypeError
        Wrong shape or dtype, or no channels.
    """
    op = "softmax"
    image = nhwc(x, data_format, op)
    executor, shape, dtype = _channels(image.shape, image.dtype, op, None, device)
    y = run_windows(executor, image, shape, dtype, num_threads, out_view(out, data_format), op)
    return as_format(y, data_format, out)

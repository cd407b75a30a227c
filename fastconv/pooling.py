"""Pooling: arrays in, arrays out."""

from typing import Any

import numpy as np

from fastconv import shapes
from fastconv.arrays import as_format, check_array, nhwc, out_view, remembered
from fastconv.plan import backend, run_windows
from fastconv.spec import Pool2d

__all__ = [
    "avg_pool2d",
    "global_avg_pool2d",
    "global_max_pool2d",
    "max_pool2d",
    "max_unpool2d",
]


@remembered
def _pool(
    shape: Any, dtype: Any, kind: Any, size: Any, stride: Any, padding: Any, dilation: Any,
    ceil_mode: bool, count_include_pad: bool, device: str, indices: bool,
) -> tuple[Any, tuple[int, ...]]:  # fmt: skip
    """What runs a pool, and the shape of its result."""
    op = f"{kind}_pool2d"
    size = shapes.pair(size, "size", op)
    stride = size if stride is None else shapes.pair(stride, "stride", op)
    dilation = shapes.pair(dilation, "dilation", op)
    pad = shapes.resolve_padding(padding, shape[1:3], size, stride, dilation, op)
    try:
        oh, ow = (
            shapes.conv_out(*axis, ceil_mode)
            for axis in zip(shape[1:3], size, stride, pad, dilation, strict=True)
        )
    except ValueError as error:
        raise ValueError(f"{op}: {error}") from None
    spec = Pool2d(
        shape, kind, size, stride, pad, dilation, (oh, ow), count_include_pad, dtype.name
    )  # fmt: skip
    module = backend(device, op)
    plan = module.plan_windows_argmax if indices else module.plan_windows
    return plan(spec), spec.out


def max_pool2d(
    x: Any, size: Any, *, stride: Any = None, padding: Any = "valid", dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False, data_format: str = "NHWC",
    device: str = "cpu", num_threads: int | None = None, out: np.ndarray | None = None,
) -> Any:  # fmt: skip
    """Largest value of each window, channel by channel.

    Parameters
    ----------
    x : (n, h, w, c), any dtype of `conv2d`
    size : int or (vertical, horizontal)
    stride : int or (vertical, horizontal), optional
        Default: `size`.
    padding : as in `conv2d`
        Padding never wins; a NaN in the window does.
    dilation : int or (vertical, horizontal)
    ceil_mode : bool
        Add a last window that reaches past the end, as PyTorch and ONNX do.
    return_indices : bool
        Also return where each maximum is (the first of equals).
    data_format, device, num_threads, out
        As in `conv2d`.

    Returns
    -------
    y : (n, oh, ow, c) ndarray, dtype of `x`
    indices : int64 ndarray of the same shape, if asked for
        Position in the flattened NHWC image, ``(row * w + column) * c + channel``, as
        TensorFlow's ``max_pool_with_argmax``, whatever `data_format` is.

    Raises
    ------
    ValueError, TypeError
        As in `conv2d`; also when a window holds only padding.
    """
    image = nhwc(x, data_format, "max_pool2d")
    executor, shape = _pool(image.shape, image.dtype, "max", size, stride, padding, dilation,
                            ceil_mode, False, device, return_indices)  # fmt: skip
    indices = np.empty(shape, np.int64) if return_indices else None
    y = run_windows(executor, image, shape, image.dtype, num_threads, out_view(out, data_format),
                    "max_pool2d", indices)  # fmt: skip
    y = as_format(y, data_format, out)
    return y if indices is None else (y, as_format(indices, data_format, None))


def avg_pool2d(
    x: Any, size: Any, *, stride: Any = None, padding: Any = "valid", dilation: Any = 1,
    ceil_mode: bool = False, count_include_pad: bool = False, data_format: str = "NHWC",
    device: str = "cpu", num_threads: int | None = None, out: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Mean of each window, channel by channel.

    Parameters
    ----------
    x, size, stride, padding, dilation, ceil_mode, data_format, device, num_threads, out
        As in `max_pool2d`.
    count_include_pad : bool
        Count padded pixels as zeros instead of leaving them out of the mean (TensorFlow leaves
        them out).

    Returns
    -------
    (n, oh, ow, c) ndarray, dtype of `x`

    Raises
    ------
    ValueError, TypeError
        As in `max_pool2d`.
    """
    image = nhwc(x, data_format, "avg_pool2d")
    executor, shape = _pool(image.shape, image.dtype, "avg", size, stride, padding, dilation,
                            ceil_mode, count_include_pad, device, False)  # fmt: skip
    y = run_windows(executor, image, shape, image.dtype, num_threads, out_view(out, data_format),
                    "avg_pool2d")  # fmt: skip
    return as_format(y, data_format, out)


@remembered
def _whole(shape: tuple[int, ...], dtype: np.dtype[Any], kind: str, device: str) -> Any:
    return _pool(shape, dtype, kind, shape[1:3], None, "valid", 1, False, False, device, False)


def _global_pool(kind: Any, x: Any, data_format: str, device: str, threads: Any) -> np.ndarray:
    op = f"global_{kind}_pool2d"
    image = nhwc(x, data_format, op)
    if 0 in image.shape[1:3]:
        raise ValueError(f"{op}: no pixels to pool in x of shape {image.shape}")
    executor, shape = _whole(image.shape, image.dtype, kind, device)
    y = run_windows(executor, image, shape, image.dtype, threads, None, op)
    return y.reshape(shape[0], shape[3])


def global_avg_pool2d(
    x: Any, *, data_format: str = "NHWC", device: str = "cpu", num_threads: int | None = None
) -> np.ndarray:
    """Mean of each channel: (n, h, w, c) -> (n, c).

    Raises
    ------
    ValueError, TypeError
        Not four axes, an unsupported dtype, or no pixels.
    """
    return _global_pool("avg", x, data_format, device, num_threads)


def global_max_pool2d(
    x: Any, *, data_format: str = "NHWC", device: str = "cpu", num_threads: int | None = None
) -> np.ndarray:
    """Largest value of each channel: (n, h, w, c) -> (n, c).

    Raises
    ------
    ValueError, TypeError
        Not four axes, an unsupported dtype, or no pixels.
    """
    return _global_pool("max", x, data_format, device, num_threads)


def max_unpool2d(
    x: Any, indices: Any, size: Any, *, device: str = "cpu", num_threads: int | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Put pooled values back where `max_pool2d` found them; zeros elsewhere.

    Parameters
    ----------
    x : (n, h, w, c), any dtype of `conv2d`
    indices : (n, h, w, c) integers
        As `max_pool2d` returns them, for an image of height and width `size`.
    size : (height, width)
    device, num_threads, out
        As in `conv2d`.

    Returns
    -------
    (n, height, width, c) ndarray, dtype of `x`
        Where windows overlapped and share a maximum, the last one counts.

    Raises
    ------
    ValueError, TypeError
        As in `conv2d`; also when shapes differ, or an index lies outside the image.
    """
    op = "max_unpool2d"
    values = check_array(x, "x", op)
    where = np.asarray(indices)
    height, width = shapes.pair(size, "size", op, 0)
    if where.shape != values.shape or where.dtype.kind not in "iu":
        raise ValueError(
            f"{op}: indices must be integers of the shape of x, {values.shape}, "
            f"got {where.dtype.name} of shape {where.shape}"
        )
    n, h, _, c = values.shape
    limit = height * width * c
    rows = where.reshape(n * h, -1) if where.size else np.zeros((n * h, 1), np.int64)
    lowest, highest = rows.min(axis=1), rows.max(axis=1)
    if where.size and (lowest.min() < 0 or highest.max() >= limit):
        raise ValueError(
            f"{op}: indices go from {lowest.min()} to {highest.max()} but an image of "
            f"{height} x {width} x {c} has {limit} positions; was `size` the pooled image's?"
        )
    tables = (np.ascontiguousarray(table, np.int64) for table in (where, lowest, highest))
    executor = backend(device, op).plan_unpool(*tables)
    shape = n, height, width, c
    return run_windows(executor, values, shape, values.dtype, num_threads, out, op)

"""The public operations: arrays in, arrays out."""

from typing import Any

import numpy as np

from fastconv import plan as planning
from fastconv import shapes
from fastconv.plan import backend, check_array, into
from fastconv.spec import Pool2d, Resize2d
from fastconv.threads import check_num_threads, get_num_threads

FORMATS = ("NHWC", "NCHW")


def _nhwc(x: Any, data_format: str, op: str) -> np.ndarray:
    """A view of `x` with its axes in (n, h, w, c) order."""
    if data_format not in FORMATS:
        raise ValueError(f"{op}: unknown data_format {data_format!r}; use 'NHWC' or 'NCHW'")
    array = check_array(x, "x", op)
    return array if data_format == "NHWC" else array.transpose(0, 2, 3, 1)


def _as_format(y: np.ndarray, data_format: str, out: np.ndarray | None) -> np.ndarray:
    """An NHWC result in the caller's format."""
    if data_format == "NHWC" or out is not None:
        return y if out is None else out
    return np.ascontiguousarray(y.transpose(0, 3, 1, 2))


def _out_view(out: Any, data_format: str) -> Any:
    return out.transpose(0, 2, 3, 1) if data_format == "NCHW" and np.ndim(out) == 4 else out


def conv2d(
    x: Any, w: Any, bias: Any = None, *, stride: Any = 1, padding: Any = "valid",
    dilation: Any = 1, groups: int = 1, activation: str | None = None, data_format: str = "NHWC",
    algorithm: str = "auto", device: str = "cpu", num_threads: int | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Convolve a batch of images with a bank of kernels.

    As in every deep-learning library this is cross-correlation: the kernel is not flipped::

        y[n, i, j, k] = act(bias[k] + sum over p, q, c of x[n, row, column, c] * w[p, q, c, k])
        row, column = i * stride + p * dilation - top, j * stride + q * dilation - left

    with zeros outside of `x`. A plan (`plan_conv2d`) packs the weights once for many calls.

    Parameters
    ----------
    x : (n, h, w, c) float32 or float64
        Images. Any strides; copied first when not C-contiguous.
    w : (kh, kw, c / groups, k), dtype of `x`
        Kernels.
    bias : (k,), dtype of `x`, optional
    stride, dilation : int or (vertical, horizontal)
    padding : "valid", "same", "same_lower", int, (ph, pw) or ((top, bottom), (left, right))
        "same" is TensorFlow's rule (the odd pixel goes after), "same_lower" ONNX's.
    groups : int
        Output channels of a group see the ``c / groups`` input channels of that group only.
    activation : None, "relu" or "relu6"
        Applied in registers. NaN stays NaN.
    data_format : "NHWC" or "NCHW"
        Of `x`, `out` and the result; "NCHW" costs two copies.
    algorithm : "auto", "direct", "winograd_f4", "winograd_f2" or "winograd_f6"
        "direct" keeps NaN and infinity local. Winograd F(m x m, 3x3), for 3x3 kernels of stride 1,
        does 4, 2.25 (f2) or 5 (f6) times fewer products and spreads a NaN over the m x m outputs of
        each tile that reads it. Its error is about twice that of direct summation, less than that
        (f2), or about eight times as large (f6); `fastconv.bounds` bounds all of them. "auto"
        chooses between "winograd_f4" and "direct".
    device : "cpu"
    num_threads : int, optional
        Default: `get_num_threads`. The result has the same bits for any number.
    out : ndarray, optional
        Where the result goes; must not share memory with `x`.

    Returns
    -------
    (n, oh, ow, k) ndarray, dtype of `x`

    Raises
    ------
    ValueError
        Shapes, strides or padding do not fit together.
    TypeError
        An unsupported or mixed dtype.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    >>> w = np.ones((3, 3, 1, 1), np.float32)
    >>> conv2d(x, w)[0, :, :, 0]
    array([[45., 54.],
           [81., 90.]], dtype=float32)
    """
    image = _nhwc(x, data_format, "conv2d")
    check_array(w, "w", "conv2d", dtype=image.dtype.name)
    plan = planning.plan_conv2d(
        image.shape, w, bias, stride=stride, padding=padding, dilation=dilation, groups=groups,
        activation=activation, algorithm=algorithm, device=device, num_threads=num_threads,
    )  # fmt: skip
    return _as_format(plan(image, _out_view(out, data_format)), data_format, out)


def conv2d_transpose(
    x: Any, w: Any, bias: Any = None, *, stride: Any = 1, padding: Any = "valid",
    output_padding: Any = None, output_shape: Any = None, dilation: Any = 1, groups: int = 1,
    activation: str | None = None, data_format: str = "NHWC", device: str = "cpu",
    num_threads: int | None = None, out: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Transposed convolution ("deconvolution"): the adjoint of `conv2d` with the same weights.

    Every input adds a scaled copy of the kernel to the full result, which is then cropped::

        full[n, row, column, k] += x[n, i, j, c] * w[p, q, k, c]    for all i, j, p, q, c
        row, column = i * stride + p * dilation, j * stride + q * dilation
        y[n, i, j, k] = act(bias[k] + full[n, i + top, j + left, k])

    Parameters
    ----------
    x : (n, h, w, c) float32 or float64
    w : (kh, kw, k / groups, c), dtype of `x`
        Keras's layout: (height, width, out, in).
    bias : (k,), dtype of `x`, optional
    stride, dilation : int or (vertical, horizontal)
    padding : as in `conv2d`
        Of the convolution that this is the adjoint of: it crops. "same" gives ``size * stride``,
        "valid" the full result.
    output_padding : int or (vertical, horizontal), optional
        Extra rows and columns after the end, as in Keras.
    output_shape : (height, width), optional
        Instead of `output_padding`: several sizes convolve to the same one.
    groups, activation, data_format, device, num_threads, out
        As in `conv2d`.

    Returns
    -------
    (n, oh, ow, k) ndarray, dtype of `x`

    Raises
    ------
    ValueError
        Shapes do not fit together, or `output_shape` cannot come from this input.
    TypeError
        An unsupported or mixed dtype.
    """
    image = _nhwc(x, data_format, "conv2d_transpose")
    check_array(w, "w", "conv2d_transpose", dtype=image.dtype.name)
    plan = planning.plan_conv2d_transpose(
        image.shape, w, bias, stride=stride, padding=padding, output_padding=output_padding,
        output_shape=output_shape, dilation=dilation, groups=groups, activation=activation,
        device=device, num_threads=num_threads,
    )  # fmt: skip
    return _as_format(plan(image, _out_view(out, data_format)), data_format, out)


def depthwise_conv2d(
    x: Any, w: Any, bias: Any = None, *, stride: Any = 1, padding: Any = "valid",
    dilation: Any = 1, activation: str | None = None, data_format: str = "NHWC",
    device: str = "cpu", num_threads: int | None = None, out: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Convolve each channel with kernels of its own.

    Output channel ``c * multiplier + m`` is input channel c convolved with ``w[:, :, c, m]``.

    Parameters
    ----------
    x : (n, h, w, c) float32 or float64
    w : (kh, kw, c, multiplier), dtype of `x`
    bias : (c * multiplier,), dtype of `x`, optional
    stride, padding, dilation, activation, data_format, device, num_threads, out
        As in `conv2d`.

    Returns
    -------
    (n, oh, ow, c * multiplier) ndarray, dtype of `x`

    Raises
    ------
    ValueError, TypeError
        As in `conv2d`.
    """
    op = "depthwise_conv2d"
    image = _nhwc(x, data_format, op)
    weights = check_array(w, "w", op, dtype=image.dtype.name)
    kh, kw, channels, multiplier = weights.shape
    if channels != image.shape[3]:
        raise ValueError(
            f"{op}: input has {image.shape[3]} channels (shape {image.shape}) but the weights "
            f"have {channels} (axis 2 of {weights.shape})"
        )
    return conv2d(
        x, weights.reshape(kh, kw, 1, channels * multiplier), bias, stride=stride,
        padding=padding, dilation=dilation, groups=max(channels, 1), activation=activation,
        data_format=data_format, algorithm="direct", device=device, num_threads=num_threads,
        out=out,
    )  # fmt: skip


def _windows(
    spec: Pool2d | Resize2d, x: np.ndarray, device: str, num_threads: int | None,
    out: np.ndarray | None, op: str, indices: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    threads = get_num_threads() if num_threads is None else check_num_threads(num_threads, op)
    module = backend(device, op)

    def run(image: np.ndarray, target: np.ndarray) -> None:
        executor = module.plan_windows(spec, indices is not None)
        busy = threads if executor.work >= 1 << 16 else 1
        executor.run(image, target, busy, indices)

    return into(out, spec.out, x, op, run)


def _pool_spec(
    kind: Any, x: np.ndarray, size: Any, stride: Any, padding: Any, dilation: Any,
    ceil_mode: bool, count_include_pad: bool,
) -> Pool2d:  # fmt: skip
    op = f"{kind}_pool2d"
    size = shapes.pair(size, "size", op)
    stride = size if stride is None else shapes.pair(stride, "stride", op)
    dilation = shapes.pair(dilation, "dilation", op)
    pad = shapes.resolve_padding(padding, x.shape[1:3], size, stride, dilation, op)
    try:
        oh, ow = (
            shapes.conv_out(*axis, ceil_mode)
            for axis in zip(x.shape[1:3], size, stride, pad, dilation, strict=True)
        )
    except ValueError as error:
        raise ValueError(f"{op}: {error}") from None
    return Pool2d(
        x.shape, kind, size, stride, pad, dilation, (oh, ow), count_include_pad, x.dtype.name
    )


def max_pool2d(
    x: Any, size: Any, *, stride: Any = None, padding: Any = "valid", dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False, data_format: str = "NHWC",
    device: str = "cpu", num_threads: int | None = None, out: np.ndarray | None = None,
) -> Any:  # fmt: skip
    """Largest value of each window, channel by channel.

    Parameters
    ----------
    x : (n, h, w, c) float32 or float64
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
    image = _nhwc(x, data_format, "max_pool2d")
    spec = _pool_spec("max", image, size, stride, padding, dilation, ceil_mode, False)
    indices = np.empty(spec.out, np.int64) if return_indices else None
    target = _out_view(out, data_format)
    y = _as_format(
        _windows(spec, image, device, num_threads, target, "max_pool2d", indices),
        data_format, out,
    )  # fmt: skip
    return y if indices is None else (y, _as_format(indices, data_format, None))


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
    image = _nhwc(x, data_format, "avg_pool2d")
    spec = _pool_spec("avg", image, size, stride, padding, dilation, ceil_mode, count_include_pad)
    target = _out_view(out, data_format)
    y = _windows(spec, image, device, num_threads, target, "avg_pool2d")
    return _as_format(y, data_format, out)


def _global_pool(kind: Any, x: Any, data_format: str, device: str, threads: Any) -> np.ndarray:
    op = f"global_{kind}_pool2d"
    image = _nhwc(x, data_format, op)
    if 0 in image.shape[1:3]:
        raise ValueError(f"{op}: no pixels to pool in x of shape {image.shape}")
    size = image.shape[1:3]
    spec = Pool2d(image.shape, kind, size, size, dtype=image.dtype.name)
    return _windows(spec, image, device, threads, None, op)[:, 0, 0, :]


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


def max_unpool2d(x: Any, indices: Any, size: Any) -> np.ndarray:
    """Put pooled values back where `max_pool2d` found them; zeros elsewhere.

    Parameters
    ----------
    x : (n, h, w, c) float32 or float64
    indices : (n, h, w, c) integers
        As `max_pool2d` returns them, for an image of height and width `size`.
    size : (height, width)

    Returns
    -------
    (n, height, width, c) ndarray, dtype of `x`
        Where windows overlapped and share a maximum, the last one counts.

    Raises
    ------
    ValueError
        Shapes differ, or an index lies outside the image.
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
    n, _, _, c = values.shape
    limit = height * width * c
    if where.size and (where.min() < 0 or where.max() >= limit):
        raise ValueError(
            f"{op}: indices go from {where.min()} to {where.max()} but an image of "
            f"{height} x {width} x {c} has {limit} positions; was `size` the pooled image's?"
        )
    y = np.zeros((n, limit), values.dtype)
    np.put_along_axis(y, where.reshape(n, -1), values.reshape(n, -1), axis=1)
    return y.reshape(n, height, width, c)


def resize2d(
    x: Any, size: Any, *, method: str = "bilinear", coordinates: str = "half_pixel",
    data_format: str = "NHWC", device: str = "cpu", num_threads: int | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Interpolate images to another height and width, without anti-aliasing.

    Output pixel i lies at ``s = (i + 0.5) * h / oh - 0.5`` ("half_pixel": TensorFlow 2, Keras,
    PyTorch, Pillow), ``s = i * h / oh`` ("asymmetric": TensorFlow 1) or
    ``s = i * (h - 1) / (oh - 1)`` ("align_corners").

    Parameters
    ----------
    x : (n, h, w, c) float32 or float64
    size : (height, width)
    method : "bilinear", "nearest" or "bicubic"
        "nearest" takes pixel ``floor(s + 0.5)``, ``floor(s)`` and ``round(s)`` of the three kinds
        of coordinates. "bicubic" is Keys's kernel: with "half_pixel" a = -0.5 and weights that add
        up to one at the border (TensorFlow 2, Pillow), else a = -0.75 and a repeated border
        (TensorFlow 1, PyTorch).
    coordinates : "half_pixel", "asymmetric" or "align_corners"
    data_format, device, num_threads, out
        As in `conv2d`.

    Returns
    -------
    (n, height, width, c) ndarray, dtype of `x`

    Raises
    ------
    ValueError, TypeError
        Wrong shape, dtype, method or coordinates, or no pixels.
    """
    op = "resize2d"
    image = _nhwc(x, data_format, op)
    spec = Resize2d(
        image.shape, shapes.pair(size, "size", op), method, coordinates, image.dtype.name
    )
    y = _windows(spec, image, device, num_threads, _out_view(out, data_format), op)
    return _as_format(y, data_format, out)

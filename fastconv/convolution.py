"""Convolution, transposed and depthwise: arrays in, arrays out."""

from typing import Any

import numpy as np

from fastconv import plan as planning
from fastconv.arrays import as_format, check_array, nhwc, out_view

__all__ = ["conv2d", "conv2d_transpose", "depthwise_conv2d"]


def conv2d(
    x: Any, w: Any, bias: Any = None, *, stride: Any = 1, padding: Any = "valid",
    dilation: Any = 1, groups: int = 1, add: Any = None, activation: str | None = None,
    alpha: Any = None, data_format: str = "NHWC", algorithm: str = "auto", device: str = "cpu",
    num_threads: int | None = None, out: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Convolve a batch of images with a bank of kernels.

    As in every deep-learning library this is cross-correlation: the kernel is not flipped::

        sums[n, i, j, k] = bias[k] + sum over p, q, c of x[n, row, column, c] * w[p, q, c, k]
        row, column = i * stride + p * dilation - top, j * stride + q * dilation - left
        y = act(sums + add)

    with zeros outside of `x`. A plan (`plan_conv2d`) packs the weights once for many calls.

    Parameters
    ----------
    x : (n, h, w, c) float32, float64, float16 or bfloat16
        Images. Any strides; copied first when not C-contiguous. Sums of 16-bit numbers are made in
        float32 and rounded once; arrays of bfloat16 come from the package ml_dtypes.
    w : (kh, kw, c / groups, k), dtype of `x`
        Kernels.
    bias : (k,), dtype of `x`, optional
    stride, dilation : int or (vertical, horizontal)
    padding : "valid", "same", "same_lower", int, (ph, pw) or ((top, bottom), (left, right))
        "same" is TensorFlow's rule (the odd pixel goes after), "same_lower" ONNX's.
    groups : int
        Output channels of a group see the ``c / groups`` input channels of that group only.
    add : (n, oh, ow, k), dtype of `x`, optional
        Residual.
    activation : None or str
        "relu", "relu6", "leaky_relu" (slope `alpha` below zero, default 0.01), "prelu", "elu"
        (`alpha` default 1), "sigmoid", "tanh", "hard_sigmoid", "hard_swish", "silu", "gelu" (exact)
        or "gelu_tanh". NaN stays NaN. Their errors are a few units in the last place.
    alpha : float, or (k,) for "prelu", optional
        Parameter of the activation.
    data_format : "NHWC" or "NCHW"
        Of `x`, `add`, `out` and the result; "NCHW" costs two copies.
    algorithm : "auto", "direct", "winograd_f4", "winograd_f3", "winograd_f2" or "winograd_f6"
        "direct" keeps NaN and infinity local. Winograd F(m x m) makes m x m outputs at once with
        fewer products, and spreads a NaN over those of each tile that reads it. For 3x3 kernels of
        stride 1 F(4x4) does 4 times fewer, F(2x2) 2.25 and F(6x6) 5 times; their errors are about
        twice that of direct summation, less than that, and about eight times as large. There are
        F(4x4) and F(2x2) for 3x3 kernels of stride 2 and for 5x5 ones, F(3x3) for 3x3 ones of
        stride 2, F(2x2) for 7x7 and F(4x4) for 7x7 of stride 2; for 5x5 and 7x7 the larger errs
        four to eight times as much as direct summation. `fastconv.bounds` bounds all their errors.
        "auto" takes what is expected to be fastest, but never "winograd_f6".
    device : "cpu", "cuda" or "cuda:1"
        Where it is computed. Arrays on that GPU (of any library with ``__cuda_array_interface__``
        or DLPack) give one there, on the caller's stream, and nothing waits for it; NumPy arrays
        are copied there and back. A GPU has "direct", "winograd_f2",
        "winograd_f4" and, on its tensor cores, "tf32x3" (errors near those of float32, but an
        infinity becomes NaN), "winograd_f4_tf32x3" with such products, "tf32" and, for 16-bit
        images, "tensor" or, on capability 9.0 alone, "wgmma" and "wgmma_tma"; "auto" never takes
        "tf32" and "wgmma_tma".
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
    image = nhwc(x, data_format, "conv2d")
    check_array(w, "w", "conv2d", dtype=image.dtype.name)
    plan = planning.plan_conv2d(
        image.shape, w, bias, stride=stride, padding=padding, dilation=dilation, groups=groups,
        activation=activation, alpha=alpha, add=add is not None, algorithm=algorithm, device=device,
        num_threads=num_threads,
    )  # fmt: skip
    residual = None if add is None else nhwc(add, data_format, "conv2d", "add")
    y = plan(image, residual, out=out_view(out, data_format))
    return as_format(y, data_format, out)


def conv2d_transpose(
    x: Any, w: Any, bias: Any = None, *, stride: Any = 1, padding: Any = "valid",
    output_padding: Any = None, output_shape: Any = None, dilation: Any = 1, groups: int = 1,
    add: Any = None, activation: str | None = None, alpha: Any = None, data_format: str = "NHWC",
    device: str = "cpu", num_threads: int | None = None, out: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Transposed convolution ("deconvolution"): the adjoint of `conv2d` with the same weights.

    Every input adds a scaled copy of the kernel to the full result, which is then cropped::

        full[n, row, column, k] += x[n, i, j, c] * w[p, q, k, c]    for all i, j, p, q, c
        row, column = i * stride + p * dilation, j * stride + q * dilation
        y[n, i, j, k] = act(bias[k] + full[n, i + top, j + left, k] + add[n, i, j, k])

    Parameters
    ----------
    x : (n, h, w, c), any dtype of `conv2d`
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
    groups, add, activation, alpha, data_format, device, num_threads, out
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
    image = nhwc(x, data_format, "conv2d_transpose")
    check_array(w, "w", "conv2d_transpose", dtype=image.dtype.name)
    plan = planning.plan_conv2d_transpose(
        image.shape, w, bias, stride=stride, padding=padding, output_padding=output_padding,
        output_shape=output_shape, dilation=dilation, groups=groups, activation=activation,
        alpha=alpha, add=add is not None, device=device, num_threads=num_threads,
    )  # fmt: skip
    residual = None if add is None else nhwc(add, data_format, "conv2d_transpose", "add")
    y = plan(image, residual, out=out_view(out, data_format))
    return as_format(y, data_format, out)


def depthwise_conv2d(
    x: Any, w: Any, bias: Any = None, *, stride: Any = 1, padding: Any = "valid",
    dilation: Any = 1, add: Any = None, activation: str | None = None, alpha: Any = None,
    data_format: str = "NHWC", device: str = "cpu", num_threads: int | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Convolve each channel with kernels of its own.

    Output channel ``c * multiplier + m`` is input channel c convolved with ``w[:, :, c, m]``.

    Parameters
    ----------
    x : (n, h, w, c), any dtype of `conv2d`
    w : (kh, kw, c, multiplier), dtype of `x`
    bias : (c * multiplier,), dtype of `x`, optional
    stride, padding, dilation, add, activation, alpha, data_format, device, num_threads, out
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
    image = nhwc(x, data_format, op)
    weights = check_array(w, "w", op, dtype=image.dtype.name)
    kh, kw, channels, multiplier = weights.shape
    if channels != image.shape[3]:
        raise ValueError(
            f"{op}: input has {image.shape[3]} channels (shape {image.shape}) but the weights "
            f"have {channels} (axis 2 of {weights.shape})"
        )
    return conv2d(
        x, weights.reshape(kh, kw, 1, channels * multiplier), bias, stride=stride,
        padding=padding, dilation=dilation, groups=max(channels, 1), add=add,
        activation=activation, alpha=alpha, data_format=data_format, algorithm="direct",
        device=device, num_threads=num_threads, out=out,
    )  # fmt: skip

"""Arrays as they come from the caller: checked, in native byte order, and where results go."""

import functools
import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from fastconv.gpu import GpuArray
from fastconv.gpu import into as into_gpu
from fastconv.memory import aligned_empty
from fastconv.spec import check_dtype

__all__ = ["as_format", "check_array", "check_vector", "into", "nhwc", "out_view", "remembered"]

FORMATS = ("NHWC", "NCHW")
COMMON = frozenset(map(np.dtype, (np.float32, np.float64, np.float16)))  # their names are slow
REMEMBERED = 256
SMALL = 1 << 12  # numbers


def check_array(x: Any, name: str, op: str, ndim: int = 4, dtype: str | None = None) -> np.ndarray:
    """`x` as an array of a supported dtype in native byte order, or an error.

    Images on a GPU stay there.
    """
    array = x if type(x) is np.ndarray else _converted(x, name, op)
    if array.ndim != ndim:
        axes = " (n, h, w, c)" if name == "x" else ""
        hint = "; add a batch axis with x[None]" if name == "x" and array.ndim == 3 else ""
        raise ValueError(f"{op}: {name} must have {ndim} axes{axes}, got {array.shape}{hint}")
    if dtype is None:
        if array.dtype in COMMON:
            return array
        check_dtype(op, array.dtype.name)
    elif array.dtype.name != dtype:
        raise TypeError(
            f"{op}: {name} is {array.dtype.name} but {dtype} is needed; "
            f"convert with {name}.astype({dtype!r})"
        )
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _converted(x: Any, name: str, op: str) -> np.ndarray:
    array = GpuArray.find(x, name, op)
    if array is None:
        return np.asarray(x)
    if name not in ("x", "add"):
        raise TypeError(f"{op}: {name} must be on the host; give a NumPy array")
    return cast(np.ndarray, array)  # as far as the rest of this package uses one


def check_vector(x: Any, name: str, op: str, length: int, dtype: str) -> np.ndarray:
    """`x` as a C-contiguous array of one number for each output channel."""
    array = np.ascontiguousarray(check_array(x, name, op, ndim=1, dtype=dtype))
    if len(array) != length:
        raise ValueError(
            f"{op}: {name} has {len(array)} numbers but the weights make {length} output channels"
        )
    return array


def into(
    out: np.ndarray | None, shape: tuple[int, ...], dtype: np.dtype[Any], inputs: list[np.ndarray],
    op: str, run: Callable[..., None], gpu: Any = None,
) -> np.ndarray:  # fmt: skip
    """Run ``run(*inputs, target)`` on C-contiguous arrays; `target` is `out` where that can be.

    Arrays may be on `gpu`, if there is one.
    """
    # Lists, not generators: a call takes 4 us in all.
    if [x for x in inputs if isinstance(x, GpuArray)]:
        on_gpu: np.ndarray = into_gpu(out, shape, dtype, inputs, op, run, gpu)
        return on_gpu
    if out is not None:
        if not isinstance(out, np.ndarray):
            raise TypeError(f"{op}: out must be a NumPy array, got {type(out).__name__}")
        if out.shape != shape or out.dtype != dtype:
            raise ValueError(
                f"{op}: out must be {dtype.name} of shape {shape}, got {out.dtype.name} of "
                f"shape {out.shape}"
            )
        if not out.flags.writeable or [x for x in inputs if np.may_share_memory(out, x)]:
            raise ValueError(f"{op}: out must be writeable and must not share memory with inputs")
    target = out if out is not None and out.flags.c_contiguous else _new(shape, dtype)
    if target.size:
        run(*[x if x.flags.c_contiguous else np.ascontiguousarray(x) for x in inputs], target)
    if out is not None and target is not out:
        out[...] = target
    return target if out is None else out


def _new(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """Memory for a result. A few cache lines that are split cost less than to align them."""
    return np.empty(shape, dtype) if math.prod(shape) < SMALL else aligned_empty(shape, dtype)


def nhwc(x: Any, data_format: str, op: str, name: str = "x") -> np.ndarray:
    """A view of `x` with its axes in (n, h, w, c) order."""
    if data_format not in FORMATS:
        raise ValueError(f"{op}: unknown data_format {data_format!r}; use 'NHWC' or 'NCHW'")
    array = check_array(x, name, op)
    if data_format == "NHWC":
        return array
    if isinstance(array, GpuArray):
        raise ValueError(f"{op}: arrays on a GPU must be NHWC; transpose {name} there")
    return array.transpose(0, 2, 3, 1)


def as_format(y: np.ndarray, data_format: str, out: np.ndarray | None) -> np.ndarray:
    """An NHWC result in the caller's format."""
    if data_format == "NHWC" or out is not None:
        return y if out is None else out
    return np.ascontiguousarray(y.transpose(0, 3, 1, 2))


def out_view(out: Any, data_format: str) -> Any:
    """An array in the caller's format as an NHWC view."""
    return out.transpose(0, 2, 3, 1) if data_format == "NCHW" and np.ndim(out) == 4 else out


def remembered(make: Callable[..., Any]) -> Callable[..., Any]:
    """`make(shape, dtype, *options)`, which is called once for the same arguments.

    Operations without weights are planned in each call; this makes that cost a microsecond. The
    options are compared as they are written, so that 2 and 2.0, of which one is wrong, differ.
    """
    known: dict[Any, Any] = {}

    @functools.wraps(make)
    def find(shape: tuple[int, ...], dtype: np.dtype[Any], *options: Any) -> Any:
        key = shape, dtype, repr(options)
        if key not in known:
            if len(known) >= REMEMBERED:
                known.clear()
            known[key] = make(shape, dtype, *options)
        return known[key]

    find.cache_clear = known.clear  # type: ignore[attr-defined]
    return find

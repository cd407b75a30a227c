"""Plans: everything that depends on weights, shapes and machine, done once for many runs."""

import importlib
from typing import Any

import numpy as np

from fastconv import shapes
from fastconv.memory import aligned_empty
from fastconv.spec import Conv2d, ConvTranspose2d, check_dtype
from fastconv.threads import check_num_threads, get_num_threads

DEVICES = {"cpu": "fastconv.cpu"}  # imported when first asked for: Numba takes 0.3 s
SERIAL_FLOPS = 1_000_000  # about 10 us: less is not worth a second thread


def backend(device: str, op: str) -> Any:
    """Give the module of a device."""
    if device not in DEVICES:
        known = ", ".join(map(repr, DEVICES))
        raise ValueError(f"{op}: unknown device {device!r}; use {known}")
    return importlib.import_module(DEVICES[device])


class Plan:
    """A planned convolution: packed weights and a chosen kernel for one input shape.

    Call it: ``y = plan(x)``, or ``plan(x, out=y)`` to reuse memory. A plan never changes, so
    Python threads may share it. ``print(plan)`` tells what was chosen and why.

    Attributes
    ----------
    spec : Conv2d or ConvTranspose2d
        What is computed.
    algorithm : str
        "direct", "winograd_f4", "winograd_f2" or "winograd_f6".
    kernel : str
        Name of the micro-kernel that does the multiplications.
    reason : str
        Why this algorithm.
    num_threads : int or None
        Most threads of a call; None for `get_num_threads` at the time of the call.
    """

    def __init__(
        self, spec: Conv2d | ConvTranspose2d, executor: Any, reason: str, num_threads: int | None
    ) -> None:
        self.spec = spec
        self.algorithm: str = executor.algorithm
        self.kernel: str = executor.kernel.name
        self.reason = reason
        self.num_threads = num_threads
        self._executor = executor
        self._op = "conv2d" if isinstance(spec, Conv2d) else "conv2d_transpose"
        self._out_shape = spec.out
        self._serial = spec.flops < SERIAL_FLOPS

    @property
    def packed_bytes(self) -> int:
        """Memory of the packed weights."""
        return int(self._executor.packed.nbytes)

    @property
    def scratch_bytes(self) -> int:
        """Memory that a call borrows; it is kept for the next one."""
        return int(self._executor.scratch_bytes(self._threads()))

    def _threads(self) -> int:
        return 1 if self._serial else self.num_threads or get_num_threads()

    def __call__(self, x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Run on `x` of the planned shape and dtype.

        Parameters
        ----------
        x : ndarray, shape ``spec.x``
            Copied first when it is not C-contiguous.
        out : ndarray, shape ``spec.out``, optional
            Where the result goes; must not share memory with `x`.

        Returns
        -------
        ndarray
            `out`, or a new array.

        Raises
        ------
        ValueError, TypeError
            Wrong shape or dtype.
        """
        op = self._op
        x = check_array(x, "x", op, dtype=self.spec.dtype)
        if x.shape != self.spec.x:
            raise ValueError(f"{op}: this plan is for x of shape {self.spec.x}, got {x.shape}")
        return into(out, self._out_shape, x, op, self._run)

    def _run(self, x: np.ndarray, target: np.ndarray) -> None:
        self._executor.run(x, target, self._threads())

    def __str__(self) -> str:
        spec = self.spec
        extras = [spec.activation or "", "pool 2x2" if getattr(spec, "pool", False) else ""]
        lines = [
            f"{self._op} {spec.x} * {spec.w} -> {spec.out} {spec.dtype}",
            f"  stride {spec.stride}, padding {spec.pad}, dilation {spec.dilation}, "
            f"groups {spec.groups}" + "".join(f", {e}" for e in extras if e),
            f"  algorithm  {self.algorithm} ({self.reason})",
            f"  kernel     {self.kernel}, up to {self._threads()} threads",
            f"  work       {spec.flops / 1e9:.3f} GFLOP as a direct convolution",
            f"  memory     {self.packed_bytes / 1e6:.2f} MB of packed weights, "
            f"{self.scratch_bytes / 1e6:.2f} MB of scratch",
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Plan {self.algorithm} {self.spec.x} -> {self.spec.out}>"


def check_array(x: Any, name: str, op: str, ndim: int = 4, dtype: str | None = None) -> np.ndarray:
    """`x` as an array of a supported dtype in native byte order, or an error."""
    array = np.asarray(x)
    if array.ndim != ndim:
        axes = " (n, h, w, c)" if name == "x" else ""
        hint = "; add a batch axis with x[None]" if name == "x" and array.ndim == 3 else ""
        raise ValueError(f"{op}: {name} must have {ndim} axes{axes}, got {array.shape}{hint}")
    if dtype is None:
        check_dtype(op, array.dtype.name)
    elif array.dtype.name != dtype:
        raise TypeError(
            f"{op}: {name} is {array.dtype.name} but {dtype} is needed; "
            f"convert with {name}.astype(np.{dtype})"
        )
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def into(
    out: np.ndarray | None, shape: tuple[int, ...], x: np.ndarray, op: str, run: Any
) -> np.ndarray:
    """Run ``run(x, target)`` on C-contiguous arrays; `target` is `out` where that can be."""
    if out is not None:
        if not isinstance(out, np.ndarray):
            raise TypeError(f"{op}: out must be a NumPy array, got {type(out).__name__}")
        if out.shape != shape or out.dtype != x.dtype:
            raise ValueError(
                f"{op}: out must be {x.dtype.name} of shape {shape}, got {out.dtype.name} of "
                f"shape {out.shape}"
            )
        if not out.flags.writeable or np.may_share_memory(out, x):
            raise ValueError(f"{op}: out must be writeable and must not share memory with x")
    target = out if out is not None and out.flags.c_contiguous else aligned_empty(shape, x.dtype)
    if target.size:
        run(np.ascontiguousarray(x), target)
    if out is not None and target is not out:
        out[...] = target
    return target if out is None else out


def _four(shape: Any, op: str) -> tuple[int, int, int, int]:
    if len(shape) != 4:
        raise ValueError(f"{op}: x must have 4 axes (n, h, w, c), got shape {tuple(shape)}")
    n, h, w, c = shape
    return n, h, w, c


def check_weights(w: Any, bias: Any, outputs: Any, dtype: str, op: str) -> tuple[Any, Any]:
    """Weights and bias as C-contiguous arrays of `dtype`; `outputs(w)` is the bias's length."""
    w = check_array(w, "w", op, dtype=dtype)
    if bias is not None:
        bias = np.ascontiguousarray(check_array(bias, "bias", op, ndim=1, dtype=dtype))
        if len(bias) != outputs(w):
            raise ValueError(
                f"{op}: bias has {len(bias)} numbers but the weights of shape {w.shape} make "
                f"{outputs(w)} output channels"
            )
    return np.ascontiguousarray(w), bias


def plan_conv2d(
    x_shape: tuple[int, int, int, int], w: Any, bias: Any = None, *, stride: Any = 1,
    padding: Any = "valid", dilation: Any = 1, groups: int = 1, activation: str | None = None,
    pool: bool = False, algorithm: str = "auto", device: str = "cpu",
    num_threads: int | None = None,
) -> Plan:  # fmt: skip
    """Plan a convolution for inputs of one shape.

    Parameters
    ----------
    x_shape : (n, h, w, c)
        Shape of the inputs; their dtype is that of `w`.
    w, bias, stride, padding, dilation, groups, activation, algorithm, device, num_threads
        As in `conv2d`. The weights are copied: later changes to `w` have no effect.
    pool : bool
        Follow the activation by a 2x2 max-pool of stride 2 (padding "valid"), in registers: the
        full-size map is never written.

    Returns
    -------
    Plan
        ``plan(x, out=None)`` gives ``(n, oh, ow, k)``.

    Raises
    ------
    ValueError, TypeError
        The arguments do not fit together; the message names the operation and the values.
    """
    op = "conv2d"
    dtype = check_array(w, "w", op).dtype.name
    w, bias = check_weights(w, bias, lambda w: w.shape[3], dtype, op)
    if not isinstance(groups, int) or groups < 1:
        raise ValueError(f"{op}: groups must be an integer >= 1, got {groups!r}")
    n, h, width, c = _four(x_shape, op)
    stride, dilation = (
        shapes.pair(v, n, op) for v, n in ((stride, "stride"), (dilation, "dilation"))
    )
    pad = shapes.resolve_padding(padding, (h, width), w.shape[:2], stride, dilation, op)
    spec = Conv2d(
        (n, h, width, c), w.shape, stride, pad, dilation, groups, activation, bool(pool), dtype
    )
    module = backend(device, op)
    if algorithm not in module.NAMES:
        known = ", ".join(map(repr, module.NAMES))
        raise ValueError(f"{op}: unknown algorithm {algorithm!r}; use {known}")
    threads = None if num_threads is None else check_num_threads(num_threads, op)
    executor, reason = module.plan_conv2d(spec, w, bias, algorithm)
    return Plan(spec, executor, reason, threads)


def plan_conv2d_transpose(
    x_shape: tuple[int, int, int, int], w: Any, bias: Any = None, *, stride: Any = 1,
    padding: Any = "valid", output_padding: Any = None, output_shape: Any = None,
    dilation: Any = 1, groups: int = 1, activation: str | None = None, device: str = "cpu",
    num_threads: int | None = None,
) -> Plan:  # fmt: skip
    """Plan a transposed convolution for inputs of one shape.

    Parameters
    ----------
    x_shape : (n, h, w, c)
        Shape of the inputs; their dtype is that of `w`.
    w, bias, stride, padding, output_padding, output_shape, dilation, groups, activation, device,
    num_threads
        As in `conv2d_transpose`. The weights are copied.

    Returns
    -------
    Plan
        ``plan(x, out=None)`` gives ``(n, oh, ow, k)``.

    Raises
    ------
    ValueError, TypeError
        The arguments do not fit together; the message names the operation and the values.
    """
    op = "conv2d_transpose"
    dtype = check_array(w, "w", op).dtype.name
    if not isinstance(groups, int) or groups < 1:
        raise ValueError(f"{op}: groups must be an integer >= 1, got {groups!r}")
    w, bias = check_weights(w, bias, lambda w: w.shape[2] * groups, dtype, op)
    n, h, width, c = _four(x_shape, op)
    stride, dilation = (
        shapes.pair(v, n, op) for v, n in ((stride, "stride"), (dilation, "dilation"))
    )
    pad, out_hw = shapes.resolve_transpose_padding(
        padding, (h, width), w.shape[:2], stride, dilation, op, output_padding, output_shape
    )
    spec = ConvTranspose2d(
        (n, h, width, c), w.shape, stride, pad, out_hw, dilation, groups, activation, dtype
    )
    threads = None if num_threads is None else check_num_threads(num_threads, op)
    executor, reason = backend(device, op).plan_conv2d_transpose(spec, w, bias)
    return Plan(spec, executor, reason, threads)

"""Plans: everything that depends on weights, shapes and machine, done once for many runs."""

import importlib
from typing import Any

import numpy as np

from fastconv import shapes
from fastconv.arrays import check_array, check_vector, into
from fastconv.dtypes import label_dtype
from fastconv.spec import Conv2d, ConvTranspose2d
from fastconv.threads import check_num_threads, get_num_threads
from fastconv.weights import Weights

DEVICES = {"cpu": "fastconv.cpu"}  # imported when first asked for: Numba takes 0.3 s
SERIAL_FLOPS = 1_000_000  # about 10 us: less is not worth a second thread
SERIAL_WORK = 1 << 16  # numbers read: likewise


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
        "direct", or "winograd_f4" and its like.
    kernel : str
        Name of the micro-kernel that does the multiplications.
    reason : str
        Why this algorithm.
    num_threads : int or None
        Most threads of a call; None for `get_num_threads` at the time of the call.
    shape, dtype
        Of the result.
    """

    def __init__(
        self, spec: Conv2d | ConvTranspose2d, choice: Any, num_threads: int | None,
        shape: tuple[int, ...], dtype: np.dtype[Any], x_dtype: np.dtype[Any],
    ) -> None:  # fmt: skip
        self.spec = spec
        self.algorithm: str = choice.executor.algorithm
        self.kernel: str = choice.executor.kernel.name
        self.reason: str = choice.reason
        self.num_threads = num_threads
        self.shape = shape
        self.dtype = dtype
        self._x_dtype = x_dtype
        self._choice = choice
        self._executor = choice.executor
        self._op = "conv2d" if isinstance(spec, Conv2d) else "conv2d_transpose"
        self._serial = spec.flops < SERIAL_FLOPS
        self._add_shape = spec.conv_out if isinstance(spec, Conv2d) else spec.out

    @property
    def packed_bytes(self) -> int:
        """Memory of the packed weights."""
        return int(self._executor.packed.nbytes)

    @property
    def scratch_bytes(self) -> int:
        """Memory that a call borrows; it is kept for the next one."""
        return int(self._executor.scratch_bytes(self._threads()))

    @property
    def expected_seconds(self) -> float | None:
        """What the cost model expects of a call, at the speed of this core; None if unknown."""
        times = self._choice.time(self._threads(), self.spec.x[0])
        return None if times is None else float(times[0])

    @property
    def roofline_seconds(self) -> float | None:
        """What this algorithm's multiplications alone, or its bytes from memory, would take."""
        times = self._choice.time(self._threads(), self.spec.x[0])
        return None if times is None else float(times[1])

    @property
    def bytes_moved(self) -> float | None:
        """Bytes that a call takes from the last-level cache or beyond, by the cost model."""
        cost = self._choice.cost
        return None if cost is None else float(cost.near * self.spec.x[0])

    @property
    def typical_error(self) -> tuple[float, float]:
        """Bounds on the relative error for normal random numbers: likely, and guaranteed.

        Each is the largest of a tile's bounds (`fastconv.bounds`) over the root mean square of its
        results; activation and residual are left out.
        """
        bounds = importlib.import_module("fastconv.bounds")
        likely, guaranteed = bounds.typical(self.spec, self.algorithm)
        return float(likely), float(guaranteed)

    def _threads(self) -> int:
        return 1 if self._serial else self.num_threads or get_num_threads()

    def __call__(
        self, x: np.ndarray, add: np.ndarray | None = None, *, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Run on `x` of the planned shape and dtype.

        Parameters
        ----------
        x : ndarray, shape ``spec.x``
            Copied first when it is not C-contiguous.
        add : ndarray, shape of the convolution's result, optional
            Residual, if the plan was made for one.
        out : ndarray, shape ``plan.shape``, optional
            Where the result goes; must not share memory with `x` or `add`.

        Returns
        -------
        ndarray
            `out`, or a new array.

        Raises
        ------
        ValueError, TypeError
            Wrong shape or dtype, or a residual where none was planned, or none where one was.
        """
        op = self._op
        inputs = [self._input(x, "x", self.spec.x)]
        if (add is None) == self.spec.add:
            planned = "one; give it" if self.spec.add else "none; plan with add=True"
            raise ValueError(f"{op}: this plan adds a residual: {planned}")
        if add is not None:
            inputs.append(self._input(add, "add", self._add_shape))
        return into(out, self.shape, self.dtype, inputs, op, self._run)

    def _input(self, x: Any, name: str, shape: tuple[int, ...]) -> np.ndarray:
        if type(x) is np.ndarray and x.dtype == self._x_dtype and x.shape == shape:
            return x
        array = check_array(x, name, self._op, dtype=self.spec.dtype)
        if array.shape != shape:
            raise ValueError(
                f"{self._op}: this plan is for {name} of shape {shape}, got {array.shape}"
            )
        return array

    def _run(self, x: np.ndarray, *rest: np.ndarray) -> None:
        *add, target = rest
        self._executor.run(x, target, self._threads(), *add)

    def __str__(self) -> str:
        spec = self.spec
        extras = [
            "residual" if spec.add else "",
            spec.activation or "",
            "pool 2x2" if getattr(spec, "pool", False) else "",
            "argmax" if len(self.shape) == 3 else "",
        ]
        lines = [
            f"{self._op} {spec.x} * {spec.w} -> {self.shape} {self.dtype.name}",
            f"  stride {spec.stride}, padding {spec.pad}, dilation {spec.dilation}, "
            f"groups {spec.groups}" + "".join(f", {e}" for e in extras if e),
            f"  algorithm  {self.algorithm} ({self.reason})",
            f"  kernel     {self.kernel}, up to {self._threads()} threads",
            f"  work       {spec.flops / 1e9:.3f} GFLOP as a direct convolution",
            *self._expectations(),
            f"  memory     {self.packed_bytes / 1e6:.2f} MB of packed weights, "
            f"{self.scratch_bytes / 1e6:.2f} MB of scratch",
        ]
        return "\n".join(lines)

    def _expectations(self) -> list[str]:
        lines = []
        if times := self._choice.time(self._threads(), self.spec.x[0]):
            seconds, roofline = times
            lines.append(
                f"  expected   {1e3 * seconds:.3g} ms, {100 * roofline / seconds:.0f} % of the "
                f"roofline of this algorithm"
            )
        if self.spec.flops:
            likely, guaranteed = self.typical_error
            lines.append(
                f"  error      of normal data likely below {likely:.1e}, certainly below "
                f"{guaranteed:.1e}, relative to their size"
            )
        return lines

    def __repr__(self) -> str:
        return f"<Plan {self.algorithm} {self.spec.x} -> {self.shape}>"


def _four(shape: Any, op: str) -> tuple[int, int, int, int]:
    if len(shape) != 4:
        raise ValueError(f"{op}: x must have 4 axes (n, h, w, c), got shape {tuple(shape)}")
    n, h, w, c = shape
    return n, h, w, c


def _weights(w: Any, bias: Any, groups: Any, axis: int, op: str) -> tuple[Weights, Any, int]:
    """Weights, the bias as an array of their dtype, and the number of output channels."""
    w = w if isinstance(w, Weights) else Weights(check_array(w, "w", op))
    if not isinstance(groups, int) or groups < 1:
        raise ValueError(f"{op}: groups must be an integer >= 1, got {groups!r}")
    outputs = w.shape[axis] * (groups if axis == 2 else 1)
    if bias is not None:
        bias = check_vector(bias, "bias", op, outputs, w.dtype.name)
    return w, bias, outputs


def _slopes(activation: Any, alpha: Any, outputs: int, dtype: str, op: str) -> tuple[Any, Any]:
    """The parameter of an activation: a number for the spec, or the slopes of "prelu"."""
    if activation != "prelu":
        return alpha, None
    if alpha is None:
        raise ValueError(f"{op}: activation 'prelu' needs alpha, one slope for each output channel")
    return None, check_vector(alpha, "alpha", op, outputs, dtype)


def plan_conv2d(
    x_shape: tuple[int, int, int, int], w: Any, bias: Any = None, *, stride: Any = 1,
    padding: Any = "valid", dilation: Any = 1, groups: int = 1, activation: str | None = None,
    alpha: Any = None, add: bool = False, pool: bool = False, algorithm: str = "auto",
    device: str = "cpu", num_threads: int | None = None,
) -> Plan:  # fmt: skip
    """Plan a convolution for inputs of one shape.

    Parameters
    ----------
    x_shape : (n, h, w, c)
        Shape of the inputs; their dtype is that of `w`.
    w, bias, stride, padding, dilation, groups, activation, alpha, algorithm, device, num_threads
        As in `conv2d`. The weights are copied: later changes to `w` have no effect. Give `Weights`
        to share the copy with plans for other shapes.
    add : bool
        The plan is called with a residual: ``plan(x, add)``.
    pool : bool
        Follow the activation by a 2x2 max-pool of stride 2 (padding "valid"), in registers: the
        full-size map is never written (unless there is a residual, or an activation that falls
        somewhere).

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
    w, bias, outputs = _weights(w, bias, groups, 3, op)
    alpha, slopes = _slopes(activation, alpha, outputs, w.dtype.name, op)
    spec = _conv2d(
        x_shape, w.shape, stride, padding, dilation, groups, activation, alpha, add, pool,
        w.dtype.name,
    )  # fmt: skip
    module = backend(device, op)
    if algorithm not in module.NAMES:
        known = ", ".join(map(repr, module.NAMES))
        raise ValueError(f"{op}: unknown algorithm {algorithm!r}; use {known}")
    threads = None if num_threads is None else check_num_threads(num_threads, op)
    choice = module.plan_conv2d(spec, w, bias, slopes, algorithm)
    return Plan(spec, choice, threads, spec.out, w.dtype, w.dtype)


def choose_algorithm(
    x_shape: tuple[int, int, int, int], w_shape: tuple[int, int, int, int], *, stride: Any = 1,
    padding: Any = "valid", dilation: Any = 1, groups: int = 1, activation: str | None = None,
    alpha: float | None = None, add: bool = False, pool: bool = False, dtype: str = "float32",
    device: str = "cpu",
) -> str:  # fmt: skip
    """The algorithm that ``algorithm="auto"`` takes, found without any weights.

    A part of an image has the bits of the whole if both are planned with this algorithm.

    Parameters
    ----------
    x_shape : (n, h, w, c)
    w_shape : (kh, kw, c / groups, k)
    stride, padding, dilation, groups, activation, alpha, add, pool, device
        As in `plan_conv2d`; `alpha` is a number.
    dtype : str

    Returns
    -------
    str
        "direct", or "winograd_f4" and its like.

    Raises
    ------
    ValueError, TypeError
        The arguments do not fit together.
    """
    spec = _conv2d(
        x_shape, tuple(w_shape), stride, padding, dilation, groups, activation, alpha, add, pool,
        dtype,
    )  # fmt: skip
    name: str = backend(device, "conv2d").choose_conv2d(spec)
    return name


def _conv2d(
    x_shape: Any, w_shape: Any, stride: Any, padding: Any, dilation: Any, groups: int,
    activation: str | None, alpha: float | None, add: bool, pool: bool, dtype: str,
) -> Conv2d:  # fmt: skip
    op = "conv2d"
    n, h, width, c = _four(x_shape, op)
    stride, dilation = (
        shapes.pair(v, n, op) for v, n in ((stride, "stride"), (dilation, "dilation"))
    )
    pad = shapes.resolve_padding(padding, (h, width), w_shape[:2], stride, dilation, op)
    return Conv2d(
        (n, h, width, c), w_shape, stride, pad, dilation, groups, activation, alpha, bool(add),
        bool(pool), dtype,
    )  # fmt: skip


def plan_conv2d_transpose(
    x_shape: tuple[int, int, int, int], w: Any, bias: Any = None, *, stride: Any = 1,
    padding: Any = "valid", output_padding: Any = None, output_shape: Any = None,
    dilation: Any = 1, groups: int = 1, activation: str | None = None, alpha: Any = None,
    add: bool = False, argmax: bool = False, device: str = "cpu", num_threads: int | None = None,
) -> Plan:  # fmt: skip
    """Plan a transposed convolution for inputs of one shape.

    Parameters
    ----------
    x_shape : (n, h, w, c)
        Shape of the inputs; their dtype is that of `w`.
    w, bias, stride, padding, output_padding, output_shape, dilation, groups, activation, alpha,
    device, num_threads
        As in `conv2d_transpose`. The weights are copied, or shared as in `plan_conv2d`.
    add : bool
        The plan is called with a residual: ``plan(x, add)``.
    argmax : bool
        Give the channel with the largest number of each pixel, as `fastconv.argmax` does, and do
        not keep the numbers.

    Returns
    -------
    Plan
        ``plan(x, out=None)`` gives ``(n, oh, ow, k)``, or with `argmax` labels ``(n, oh, ow)``.

    Raises
    ------
    ValueError, TypeError
        The arguments do not fit together; the message names the operation and the values.
    """
    op = "conv2d_transpose"
    w, bias, outputs = _weights(w, bias, groups, 2, op)
    alpha, slopes = _slopes(activation, alpha, outputs, w.dtype.name, op)
    n, h, width, c = _four(x_shape, op)
    stride, dilation = (
        shapes.pair(v, n, op) for v, n in ((stride, "stride"), (dilation, "dilation"))
    )
    pad, out_hw = shapes.resolve_transpose_padding(
        padding, (h, width), w.shape[:2], stride, dilation, op, output_padding, output_shape
    )
    spec = ConvTranspose2d(
        (n, h, width, c), w.shape, stride, pad, out_hw, dilation, groups, activation, alpha,
        bool(add), w.dtype.name,
    )  # fmt: skip
    threads = None if num_threads is None else check_num_threads(num_threads, op)
    module = backend(device, op)
    if argmax and not outputs:
        raise ValueError(f"{op}: argmax needs output channels, the weights make none ({w.shape})")
    choice = module.plan_conv2d_transpose(spec, w, bias, slopes, bool(argmax))
    if argmax:
        labels = label_dtype(outputs)
        return Plan(spec, choice, threads, spec.out[:3], labels, w.dtype)
    return Plan(spec, choice, threads, spec.out, w.dtype, w.dtype)


def run_windows(
    executor: Any, x: np.ndarray, shape: tuple[int, ...], dtype: np.dtype[Any],
    num_threads: int | None, out: np.ndarray | None, op: str, indices: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Run an operation without weights: into `out` or a new array of `shape` and `dtype`."""
    threads = get_num_threads() if num_threads is None else check_num_threads(num_threads, op)
    busy = threads if executor.work >= SERIAL_WORK else 1

    def run(image: np.ndarray, target: np.ndarray) -> None:
        if indices is None:
            executor.run(image, target, busy)
        else:
            executor.run(image, target, indices, busy)

    return into(out, shape, dtype, [x], op, run)

"""What a program is made of: one call for each group of nodes and band of rows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import fastconv
from fastconv import shapes
from fcn import gpu_ops, native, rows
from fcn.fusion import Group
from fcn.graph import Node, Shape
from fcn.ops import CLAMPS, ELEMENTWISE, transposed
from fcn.rows import Band

__all__ = ["Packed", "Step", "compile_band", "compile_step", "gives_labels", "kernel_bytes"]

Array = npt.NDArray[np.float32]
FLOAT = np.dtype(np.float32)
SHARED = 1 << 20  # numbers whose copy is worth starting threads, which take 0.1 ms
Packed = dict[str, fastconv.Weights]  # name of the node -> its kernel, for all plans of a session


@dataclass(frozen=True)
class Step:
    """One call of a program: reads rows of the tensors `inputs` and makes rows of that of `node`.

    Attributes
    ----------
    group : Group
        What it computes.
    band : Band
        For which rows of the result.
    shape : (n, rows, w, c)
        Shape of these rows; (n, rows, w) of labels.
    dtype : dtype
        Of the result.
    call : function of (*inputs, out=)
        A `fastconv.Plan` where it is a convolution.
    """

    group: Group
    band: Band
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    call: Callable[..., object]

    @property
    def node(self) -> Node:
        """The node whose tensor is the result."""
        return self.group.last

    @property
    def inputs(self) -> tuple[str, ...]:
        """The tensors that it reads."""
        return self.group.inputs

    @property
    def plan(self) -> fastconv.Plan | None:
        """The plan behind a convolution; None for what has no weights."""
        return self.call if isinstance(self.call, fastconv.Plan) else None

    @property
    def way(self) -> str:
        """What computes it: an algorithm, or the operation."""
        then = self.group.then
        parts = [self.node.op if self.plan is None else self.plan.algorithm]
        parts += ["pool 2x2" if then.op == "max_pool2d" else then.op] if then else []
        parts += ["argmax"] if len(self.shape) == 3 else []
        return ", ".join(parts)

    def __call__(self, *inputs: Array) -> Array:
        """The result in a new array, from the whole of what `node` reads."""
        out = fastconv.aligned_empty(self.shape, self.dtype)
        self.run(inputs[: len(self.inputs)], out)
        return out

    def run(self, inputs: Sequence[Array], out: npt.NDArray[Any]) -> None:
        """Fill `out`; of each whole input the rows that are wanted are taken."""
        parts = zip(inputs, self.band.reads, strict=True)
        self.call(*(_rows(x, *read) for x, read in parts), out=out)


def compile_step(
    group: Group,
    known: Mapping[str, Shape],
    weights: Mapping[str, Array],
    packed: Packed,
    *,
    algorithm: str = "auto",
    num_threads: int | None = None,
    device: str = "cpu",
    labels: bool = False,
) -> Step:
    """A step for all rows; arguments as for `compile_band`."""
    height = known[group.last.name][1]
    whole = rows.band(group, known, 0, height) if device == "cpu" else rows.whole(group, known)
    return compile_band(
        group, known, weights, packed, whole, algorithm=algorithm, num_threads=num_threads,
        device=device, labels=labels,
    )  # fmt: skip


def compile_band(
    group: Group,
    known: Mapping[str, Shape],
    weights: Mapping[str, Array],
    packed: Packed,
    band: Band,
    *,
    algorithm: str = "auto",
    num_threads: int | None = None,
    device: str = "cpu",
    labels: bool = False,
) -> Step:
    """Plan one group of nodes for some rows of its result.

    Parameters
    ----------
    group : Group
    known : mapping of tensor name to shape
        Of the whole image, as `Graph.shapes` gives it.
    weights : mapping
        As `Model.weights`.
    packed : dict
        What steps share: the kernels of nodes, with all that has been packed of them.
    band : Band
        As `fcn.rows.band` gives it.
    algorithm : {"auto", "direct", "winograd_f4", "winograd_f3", "winograd_f2", "winograd_f6"}
    num_threads : int or None
    device : str
    labels : bool
        Give the channel with the largest number of each pixel; see `gives_labels`.

    Returns
    -------
    Step
    """
    node, (n, _, w, c) = group.node, known[group.node.inputs[0]]
    x = n, band.reads[0][1] - band.reads[0][0], w, c
    _, _, across, channels = known[group.last.name]
    high = band.rows[1] - band.rows[0]
    out: tuple[int, ...] = (n, high, across) if labels else (n, high, across, channels)
    where: dict[str, Any] = {"num_threads": num_threads, "device": device}
    attrs = node.attrs
    if attrs.get("activation") == "prelu":
        attrs = {**attrs, "alpha": weights[f"{node.name}/slopes"]}
    call: Callable[..., object]
    if node.rule.kernel is not None:
        if node.name not in packed:
            packed[node.name] = fastconv.Weights(_kernel(node, weights))
        kernel, bias = packed[node.name], weights.get(f"{node.name}/bias")
        if node.op == "conv2d_transpose":
            cropped = _cropped(group, known, band)
            call = fastconv.plan_conv2d_transpose(
                x, kernel, bias, argmax=labels, **cropped, **where
            )
        else:
            keys = ("stride", "dilation", "activation", "alpha")
            options = {key: attrs[key] for key in keys} | where
            options["groups"] = attrs.get("groups", c)  # of a depthwise one as many as channels
            if group.then is not None and group.then.op == "add":
                options |= {"add": True, "activation": group.then.attrs["activation"]}
            elif group.then is not None:
                options |= {"pool": True}
            if node.op == "conv2d":
                options["algorithm"] = algorithm
            padding = _padding(node, known, band)
            call = fastconv.plan_conv2d(x, kernel, bias, padding=padding, **options)
        native.release(kernel.array)  # it is packed now
    elif node.op == "activation":  # of a depthwise convolution that changes nothing
        ones = np.ones((1, 1, 1, c), np.float32)
        call = fastconv.plan_conv2d(x, ones, groups=c, **where, **attrs)
    elif device != "cpu" and node.op in gpu_ops.OPS:
        call = functools.partial(gpu_ops.OPS[node.op], node, device)
    elif node.op in ELEMENTWISE:
        call = functools.partial(_together, node.op, **node.attrs)
    elif node.op in POOLS:
        size, stride = node.attrs["size"], node.attrs["stride"]
        how = {"size": size, "stride": stride, "padding": _padding(node, known, band)}
        call = functools.partial(POOLS[node.op], **how, **where)
    elif node.op in rows.RESIZES:
        call = functools.partial(
            fastconv.resize2d, size=known[node.name][1:3], rows=band.rows, argmax=labels,
            above=band.reads[0][0], height=known[node.inputs[0]][1],
            method=node.attrs.get("method", "bilinear"), **where,
        )  # fmt: skip
    elif node.op in THREADED:
        call = functools.partial(THREADED[node.op], **where, **node.attrs)
    elif node.op == "concat":
        call = functools.partial(_concat, num_threads=num_threads)
    else:
        move = _place if device == "cpu" else functools.partial(gpu_ops.place, device=device)
        call = functools.partial(move, top=band.pad[0], left=_left(node))
    return Step(group, band, out, fastconv.label_dtype(channels) if labels else FLOAT, call)


def _rows(x: Array, low: int, high: int) -> Array:
    """Some rows of an array; if it is on a GPU, all are wanted."""
    return x if (low, high) == (0, x.shape[1]) else x[:, low:high]


def gives_labels(group: Group, known: Mapping[str, Shape]) -> bool:
    """Whether a step can give the channel with the largest number instead of all of them."""
    several = known[group.last.name][3] > 1  # of one channel the largest says nothing
    return several and group.node.op in ("conv2d_transpose", *rows.RESIZES)


def kernel_bytes(group: Group, weights: Mapping[str, Array]) -> int:
    """Size of the kernel of a group.

    Where the largest is packed first, nothing else takes memory while it is there twice.
    """
    kernel = weights.get(f"{group.node.name}/kernel")
    return 0 if kernel is None else kernel.nbytes


def _kernel(node: Node, weights: Mapping[str, Array]) -> Array:
    kernel = weights[f"{node.name}/kernel"]
    if node.op == "depthwise_conv2d":  # as many groups as channels
        return kernel.reshape(*node.attrs["kernel"], 1, -1)
    return kernel


def _padding(node: Node, known: Mapping[str, Shape], band: Band) -> shapes.Pad:
    """That of the band above and below, and that of the whole at the sides."""
    attrs, hw = node.attrs, known[node.inputs[0]][1:3]
    window = tuple(attrs["kernel" if "kernel" in attrs else "size"])
    how = window, tuple(attrs["stride"]), tuple(attrs.get("dilation", (1, 1)))
    (_, across), name = known[node.name][1:3], node.op
    left, right = shapes.resolve_padding(attrs["padding"], hw, *how, name)[1]
    reached = (across - 1) * how[1][1] + (window[1] - 1) * how[2][1] + 1
    return band.pad, (left, max(right, reached - left - hw[1]))  # where windows are rounded up


def _cropped(group: Group, known: Mapping[str, Shape], band: Band) -> dict[str, Any]:
    """Options of a transposed convolution, and what is left of its full result."""
    node, attrs = group.node, group.node.attrs
    kernel, stride, dilation = (tuple(attrs[key]) for key in ("kernel", "stride", "dilation"))
    hw = known[node.inputs[0]][1:3]
    pads, _ = transposed(attrs, hw)
    left = pads[1][0] + (group.then.attrs["offset"][1] if group.then else 0)
    width = known[group.last.name][2]
    right = (hw[1] - 1) * stride[1] + (kernel[1] - 1) * dilation[1] + 1 - left - width
    crop = [(before, max(after, 0)) for before, after in (band.pad, (left, right))]
    size = band.rows[1] - band.rows[0], width
    options = {"stride": stride, "dilation": dilation, "groups": attrs["groups"]}
    return {**options, "padding": crop, "output_shape": size}


def _left(node: Node) -> int:
    """Columns of zeros on the left; negative where columns are left out."""
    if node.op == "crop":
        return -int(node.attrs["offset"][1])
    left = int(node.attrs["sides"][1][0])
    return left if node.op == "pad2d" else -left


def _global(pool: Callable[..., Array], x: Array, *, out: Array, **where: Any) -> None:
    out[:, 0, 0, :] = pool(x, **where)


def _together(op: str, *inputs: Array, out: Array, activation: str | None = None) -> None:
    """From left to right, as Keras does."""
    ufunc = UFUNCS[op]
    ufunc(inputs[0], inputs[1], out=out)
    for more in inputs[2:]:
        ufunc(out, more, out=out)
    if op == "average":
        np.divide(out, np.float32(len(inputs)), out=out)
    if activation is not None:
        np.clip(out, *CLAMPS[activation], out=out)


def _concat(*inputs: Array, num_threads: int | None, out: Array) -> None:
    """Side by side; a large result by as many threads, since NumPy copies without Python's lock."""
    threads = num_threads or fastconv.get_num_threads() if out.size >= SHARED else 1
    height = max(-(-out.shape[1] // threads), 1)

    def part(low: int) -> None:
        rows = slice(low, low + height)
        np.concatenate([x[:, rows] for x in inputs], axis=-1, out=out[:, rows])

    if threads == 1:
        return part(0)
    with ThreadPoolExecutor(threads) as pool:  # of this call, so that a fork finds no dead threads
        list(pool.map(part, range(0, out.shape[1], height)))
    return None


def _place(x: Array, *, top: int, left: int, out: Array) -> None:
    """Pixels of `x` in `out`, some columns further right or left, and zeros around them."""
    cut, left = max(-left, 0), max(left, 0)
    width = min(x.shape[2] - cut, out.shape[2] - left)
    if x[:, :, :width].shape != out.shape:
        out[...] = 0
    out[:, top : top + x.shape[1], left : left + width] = x[:, :, cut : cut + width]


POOLS: dict[str, Callable[..., object]] = {
    "max_pool2d": fastconv.max_pool2d,
    "avg_pool2d": fastconv.avg_pool2d,
}
THREADED: dict[str, Callable[..., object]] = {
    "global_max_pool2d": functools.partial(_global, fastconv.global_max_pool2d),
    "global_avg_pool2d": functools.partial(_global, fastconv.global_avg_pool2d),
    "softmax": fastconv.softmax,
}
UFUNCS = {
    "add": np.add,
    "average": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "maximum": np.maximum,
    "minimum": np.minimum,
}

"""Networks of `fcn.models` whose layers are timed."""

from collections.abc import Iterator

from benchmarks.layers import Layer, LayerClass, Shape, Step, step_name
from fastconv import shapes
from fastconv.spec import Conv2d, ConvTranspose2d, Pool2d
from fcn import models
from fcn.graph import Graph, Node

# name -> graph and the input that it is timed with
NETWORKS: dict[str, tuple[Graph, Shape]] = {
    "article": (models.two_conv(21, as_printed=True), (1, 512, 512, 3)),
    "fcn8s": (models.fcn8s(21), (1, 500, 500, 3)),
}


def specs(graph: Graph, x: Shape) -> dict[Step, list[str]]:
    """Distinct convolutions, transposed convolutions and pools of a network, none fused.

    Parameters
    ----------
    graph : Graph
    x : (n, h, w, c)
        Shape of the input.

    Returns
    -------
    dict
        Spec -> the names of the nodes that it describes, in order of evaluation.

    Raises
    ------
    ValueError
        If `x` does not fit; see `Graph.shapes`.
    """
    found: dict[Step, list[str]] = {}
    for node, spec in _specs(graph, x):
        found.setdefault(spec, []).append(node.name)
    return found


def _specs(graph: Graph, x: Shape) -> Iterator[tuple[Node, Step]]:
    tensors, weights = graph.shapes(x), graph.parameters()
    for node in graph.nodes:
        if node.op not in ("conv2d", "conv2d_transpose", "max_pool2d"):
            continue
        source, out, attrs = tensors[node.inputs[0]], tensors[node.name], node.attrs
        stride, dilation = (tuple(attrs.get(key, (1, 1))) for key in ("stride", "dilation"))
        window = tuple(attrs["size"] if node.op == "max_pool2d" else attrs["kernel"])
        how = attrs["padding"], source[1:3], window, stride, dilation, node.where
        if node.op == "max_pool2d":
            yield node, Pool2d(source, "max", window, stride, shapes.resolve_padding(*how))
            continue
        _, _, inner, last = weights[f"{node.name}/kernel"]
        w = (*window, inner, last)
        if node.op == "conv2d":
            pad, groups = shapes.resolve_padding(*how), source[3] // inner
            yield node, Conv2d(source, w, stride, pad, dilation, groups, attrs["activation"])
        else:
            pad, out_hw = shapes.resolve_transpose_padding(*how)
            groups = out[3] // inner
            yield node, ConvTranspose2d(source, w, stride, pad, out_hw, groups=groups)


def layer_class(name: str) -> LayerClass:
    """All distinct layers of a network in `NETWORKS`, as a class without goals."""
    graph, x = NETWORKS[name]
    layers = [
        Layer(step_name(spec), ", ".join(nodes), (spec,), network=name)
        for spec, nodes in specs(graph, x).items()
    ]
    what = f"layers of {graph.name} on {' x '.join(map(str, x[1:]))}"
    return LayerClass(f"network:{name}", what, tuple(layers))

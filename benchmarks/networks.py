"""Networks of `fcn.models` that are timed, as a whole and layer by layer."""

from benchmarks.graphs import Network
from benchmarks.layers import Layer, LayerClass, Step, step_name
from fcn import models

NETWORKS = {
    "article": Network(models.two_conv(21, as_printed=True), (1, 512, 512, 3)),
    "fcn8s": Network(models.fcn8s(21), (1, 500, 500, 3)),
    "unet": Network(models.unet(21), (1, 512, 512, 3)),
    "fcn_resnet50": Network(models.fcn_resnet50(21), (1, 520, 520, 3)),
}


def specs(network: Network) -> dict[Step, list[str]]:
    """Distinct layers of a network, none fused -> the nodes that they describe, in order."""
    found: dict[Step, list[str]] = {}
    for node, spec in network.specs():
        if spec is not None:
            found.setdefault(spec, []).append(node.name)
    return found


def layer_class(name: str) -> LayerClass:
    """All distinct layers of a network in `NETWORKS`, as a class without goals."""
    network = NETWORKS[name]
    layers = [
        Layer(step_name(spec), ", ".join(nodes), (spec,), network=name)
        for spec, nodes in specs(network).items()
    ]
    size = " x ".join(map(str, network.x[1:]))
    what = f"layers of {network.graph.name} on {size}"
    return LayerClass(f"network:{name}", what, tuple(layers))

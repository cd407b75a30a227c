"""The networks as PyTorch's users know them, written once more in PyTorch, against our graphs.

Only the names of the weights are shared: strides, padding, dilation, crops and interpolation are
those of torchvision's modules and of the published Caffe networks.
"""

import numpy as np
import pytest

from fcn import models, parity
from fcn.graph import Model
from fcn.session import Session
from tests.fcn.networks import NARROW


class Layers:
    """Functions of PyTorch with the weights of a model, in NCHW."""

    def __init__(self, torch, model, dtype):
        self.torch, self.f, self.graph = torch, torch.nn.functional, model.graph
        self.weights = {n: torch.tensor(w).to(dtype) for n, w in model.weights.items()}

    def conv(self, name, x, **options):
        kernel = self.weights[f"{name}/kernel"]
        order = (2, 3, 0, 1) if options.get("groups", 1) > 1 else (3, 2, 0, 1)
        return self.f.conv2d(x, kernel.permute(order), self.weights.get(f"{name}/bias"), **options)

    def up(self, name, x, stride):
        kernel = self.weights[f"{name}/kernel"].permute(3, 2, 0, 1)
        bias = self.weights.get(f"{name}/bias")
        return self.f.conv_transpose2d(x, kernel, bias, stride=stride)

    def resize(self, x, like):
        size = like.shape[2:]
        return self.f.interpolate(x, size=size, mode="bilinear", align_corners=False)


def fcn8s_caffe(layers, x):
    f, image, maps = layers.f, x, {}
    for block, count in enumerate((2, 2, 3, 3, 3), 1):
        for i in range(1, count + 1):
            name = f"conv{block}_{i}"
            x = f.relu(layers.conv(name, x, padding=100 if name == "conv1_1" else 1))
        x = maps[block] = f.max_pool2d(x, 2, stride=2, ceil_mode=True)
    x = layers.conv("score_fr", f.relu(layers.conv("fc7", f.relu(layers.conv("fc6", x)))))
    for pool, name, offset in ((4, "upscore2", 5), (3, "upscore_pool4", 9)):
        x = layers.up(name, x, 2)
        skip = layers.conv(f"score_pool{pool}", maps[pool])
        x = x + skip[:, :, offset : offset + x.shape[2], offset : offset + x.shape[3]]
    h, w = image.shape[2:]
    return layers.up("upscore8", x, 8)[:, :, 31 : 31 + h, 31 : 31 + w]


def unet(layers, x):
    f, skips = layers.f, []
    for level in (1, 2, 3):
        for i in (1, 2):
            x = f.relu(layers.conv(f"conv{level}_{i}", x, padding=1))
        if level < 3:
            skips.append(x)
            x = f.max_pool2d(x, 2)
    for level in (2, 1):
        x = layers.torch.cat([skips.pop(), layers.up(f"up{level}", x, 2)], dim=1)
        for i in (1, 2):
            x = f.relu(layers.conv(f"merge{level}_{i}", x, padding=1))
    return layers.conv("score", x)


def fcn_resnet50(layers, x):
    f, image = layers.f, x
    x = f.relu(layers.conv("backbone.conv1", x, stride=2, padding=3))
    x = f.max_pool2d(x, kernel_size=3, stride=2, padding=1)
    dilation = 1
    for layer, count in enumerate((3, 4, 6, 3), 1):
        for i in range(count):
            block, shortcut = f"backbone.layer{layer}.{i}", x
            stride = 2 if (layer, i) == (2, 0) else 1
            y = f.relu(layers.conv(f"{block}.conv1", x))
            y = f.relu(layers.conv(
                f"{block}.conv2", y, stride=stride, padding=dilation, dilation=dilation
            ))  # fmt: skip
            if i == 0:
                shortcut = layers.conv(f"{block}.downsample.0", x, stride=stride)
                dilation *= 2 if layer > 2 else 1  # what replaces the stride of layers 3 and 4
            x = f.relu(layers.conv(f"{block}.conv3", y) + shortcut)
    x = f.relu(layers.conv("classifier.0", x, padding=1))
    return layers.resize(layers.conv("classifier.4", x), image)


def fcn_mobilenet(layers, x):
    f, image = layers.f, x
    x = f.relu6(layers.conv("features.0.0", x, stride=2, padding=1))
    for i in range(1, 18):
        block, y, inner = f"features.{i}", x, 0
        if i > 1:
            y, inner = f.relu6(layers.conv(f"{block}.conv.0.0", x)), 1
        y = f.relu6(layers.conv(
            f"{block}.conv.{inner}.0", y, stride=2 if i in (2, 4, 7, 14) else 1, padding=1,
            groups=y.shape[1],
        ))  # fmt: skip
        y = layers.conv(f"{block}.conv.{inner + 1}", y)
        x = x + y if x.shape == y.shape else y
    x = f.relu6(layers.conv("features.18.0", x))
    return layers.resize(layers.conv("score", x), image)


@pytest.mark.parametrize("hw", [(64, 48), (45, 70)], ids=str)
@pytest.mark.parametrize(
    "network", [fcn8s_caffe, unet, fcn_resnet50, fcn_mobilenet], ids=lambda n: n.__name__
)
def test_same_results_as_pytorch(network, hw):
    torch = pytest.importorskip("torch")
    graph = NARROW[network.__name__]
    hw = (44, 72) if network is unet and hw == (45, 70) else hw
    rng = np.random.default_rng(1)
    weights = models.initialise(graph, 0)
    for name in weights:
        if name.endswith("/bias"):
            weights[name] = rng.normal(0, 0.1, weights[name].shape).astype(np.float32)
    model = Model(graph, weights)
    x = rng.random((2, *hw, 3), np.float32)
    runs = []
    for dtype in (torch.float32, torch.float64):
        image = torch.tensor(x).to(dtype).permute(0, 3, 1, 2)
        runs.append(network(Layers(torch, model, dtype), image).permute(0, 2, 3, 1).numpy())
    whole = parity.end_to_end(Session(model).run(x), *runs)
    assert whole.accurate, whole
    assert whole.differing == 0

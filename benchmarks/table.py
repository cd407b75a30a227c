"""The rows: all layers that are timed, by class, and what the project promises of each class."""

from dataclasses import replace

from benchmarks import networks
from benchmarks.layers import (
    Goals,
    Layer,
    LayerClass,
    Step,
    conv,
    depthwise,
    global_pool,
    image,
    pool,
    step_name,
    transpose,
)
from fastconv.spec import ChannelOp, Resize2d


def _row(what: str, step: Step, network: str = "", goals: Goals | None = None) -> Layer:
    return Layer(step_name(step), what, (step,), network, goals=goals)


def _whole(what: str, name: str, goals: Goals) -> Layer:
    return Layer(name, what, (networks.NETWORKS[name],), name, goals=goals)


CLASSES = (
    LayerClass("3x3_large", "3x3 on large maps", (
        _row("VGG16 conv1_2", conv(image(500, 64), 64), "fcn8s"),
        _row("VGG16 conv2_2", conv(image(250, 128), 128), "fcn8s"),
        _row("article's conv2", conv(image(256, 64), 128), "article"),
        _row("a batch of 8", conv(image(128, 64, n=8), 128)),
    ), Goals(direct=3.4, all=1.5)),
    LayerClass("3x3_256", "3x3 at a quarter of the image", (
        _row("VGG16 conv3_2", conv(image(125, 256), 256), "fcn8s"),
    ), Goals(direct=3.3, all=1.25)),
    LayerClass("3x3_deep", "3x3 of many channels", (
        _row("VGG16 conv4_2", conv(image(63, 512), 512), "fcn8s"),
        _row("VGG16 conv5_1", conv(image(32, 512), 512), "fcn8s"),
    ), Goals(direct=3.3, all=1.2)),
    LayerClass("3x3_small", "3x3 on small maps or of few channels", (
        _row("VGG16 conv5 at 224", conv(image(14, 512), 512)),
        _row("ResNet conv4 at 224", conv(image(14, 256), 256)),
        _row("VGG16 conv4 at 112", conv(image(28, 256), 256)),
        _row("ResNet conv3 at 224", conv(image(28, 128), 128)),
        _row("narrow U-Net", conv(image(256, 16), 16)),
        _row("narrow U-Net", conv(image(128, 32), 32)),
        _row("narrow U-Net", conv(image(128, 48), 48)),
        _row("odd sizes", conv(image(125, 24), 24)),
    ), Goals(direct=2.2, all=1.2)),
    LayerClass("dilated", "3x3 whose taps lie 2 and 4 pixels apart", (
        _row("dilated ResNet, DeepLab", conv(image(63, 256), 256, dilation=2)),
        _row("dilated ResNet, DeepLab", conv(image(63, 256), 256, dilation=4)),
        _row("dilated ResNet, DeepLab", conv(image(63, 512), 512, dilation=2)),
        _row("dilated ResNet, DeepLab", conv(image(63, 512), 512, dilation=4)),
    ), Goals(direct=2.5, all=2.0)),
    LayerClass("3x3_s2", "down-sampling 3x3 of stride 2", (
        _row("ResNet50 at 520", conv(image(130, 128), 128, stride=2, pad=1)),
        _row("ResNet50 at 224", conv(image(56, 128), 128, stride=2, pad=1)),
        _row("ResNet50 at 520", conv(image(65, 256), 256, stride=2, pad=1)),
        _row("ResNet50 at 520", conv(image(33, 512), 512, stride=2, pad=1)),
    ), Goals(direct=1.2, all=1.1)),
    LayerClass("stem", "7x7 of stride 2 on an image", (
        _row("ResNet50 at 520", conv(image(520, 3), 64, 7, stride=2, pad=3)),
    ), Goals(direct=1.2, all=1.1)),
    LayerClass("first", "3x3 on an image", (
        _row("VGG16 conv1_1", conv(image(500, 3), 64), "fcn8s"),
        _row("article's conv1", conv(image(512, 3), 64), "article"),
        _row("conv1 and pool1", conv(image(512, 3), 64, pool=True), "article"),
        _row("gray U-Net", conv(image(512, 1), 64)),
        _row("four bands", conv(image(512, 4), 32)),
    ), Goals(direct=1.3, all=1.2)),
    LayerClass("5x5", "larger kernels of stride 1", (
        _row("64 channels", conv(image(128, 64), 64, 5)),
        _row("widening", conv(image(256, 32), 64, 5)),
    ), Goals(direct=1.8, all=1.3)),
    LayerClass("fc6", "VGG16's first classifier as a convolution", (
        _row("FCN-8s fc6", conv(image(16, 512), 4096, 7), "fcn8s"),
    ), Goals(direct=2.8, all=1.5)),
    LayerClass("1x1", "a matrix product over the pixels", (
        _row("ResNet50, widening", conv(image(130, 64), 256, 1)),
        _row("ResNet50, narrowing", conv(image(130, 256), 64, 1)),
        _row("pointwise", conv(image(128, 256), 256, 1)),
        _row("FCN-8s fc7", conv(image(16, 4096), 4096, 1), "fcn8s"),
    ), Goals(direct=0.95, all=0.95), mean_direct=1.0),
    LayerClass("transposed", "upsampling by transposed convolution", (
        _row("article's upsampling", transpose(image(128, 128), 21, 2, 2), "article",
             Goals(direct=1.4, all=1.3)),
        _row("FCN-16s upscore2", transpose(image(34, 21), 21, 4, 2),
             goals=Goals(direct=1.3, all=1.3)),
        _row("FCN-8s upscore8", transpose(image(63, 21), 21, 16, 8, "same"), "fcn8s",
             Goals(direct=1.4, all=1.3)),
        _row("FCN-32s upscore", transpose(image(16, 21), 21, 64, 32, "same"),
             goals=Goals(direct=2.8, all=1.3)),
    )),
    LayerClass("depthwise", "every channel by itself", (
        _row("MobileNet at 256", depthwise(image(128, 128))),
        _row("MobileNetV1 at 224", depthwise(image(112, 32))),
        _row("MobileNetV2 at 224", depthwise(image(112, 96), stride=2)),
        _row("MobileNetV2 at 448", depthwise(image(28, 384))),
        _row("MobileNetV1 at 448", depthwise(image(28, 512), stride=2)),
        _row("MobileNetV3 at 224", depthwise(image(28, 120), 5)),
    ), Goals(direct=1.5, all=1.2)),
    LayerClass("pools", "maxima and means", (
        _row("VGG16 pool1", pool(image(500, 64), "max", 2, 2), "fcn8s"),
        _row("ResNet50 at 520", pool(image(260, 64), "max", 3, 2, pad=1)),
        _row("DenseNet transition", pool(image(128, 128), "avg", 2, 2)),
        _row("ResNet50 at 520", global_pool(image(17, 2048))),
    ), Goals(direct=1.3, all=1.2)),
    LayerClass("resize", "bilinear upsampling", (
        _row("logits to the image's size", Resize2d(image(63, 21), (504, 504))),
    ), Goals(direct=1.5, all=1.5)),
    LayerClass("argmax", "labels from scores", (
        _row("labels of 21 classes", ChannelOp(image(500, 21), "argmax")),
    ), Goals(direct=1.5, all=1.5)),
    LayerClass("networks", "whole networks", (
        _whole("the founding article's", "article", Goals(direct=3.0, all=2.4)),
        _whole("FCN-8s on VGG16", "fcn8s", Goals(direct=1.5, all=1.5)),
        _whole("U-Net with 64 to 1024 channels", "unet", Goals(direct=1.6, all=1.6)),
        _whole("torchvision's FCN on ResNet-50", "fcn_resnet50", Goals(direct=1.3, all=1.3)),
    )),
    LayerClass("others", "nothing is promised", (
        _row("conv2 and pool2", conv(image(256, 64), 128, pool=True), "article"),
        _row("to full resolution", transpose(image(128, 128), 21, 4, 4)),
        _row("probabilities of 21 classes", ChannelOp(image(500, 21), "softmax")),
    )),
)  # fmt: skip
LAYERS = tuple(layer for group in CLASSES for layer in group.layers)


def select(names: str) -> tuple[LayerClass, ...]:
    """Classes with those of their layers that a comma-separated list names.

    Parameters
    ----------
    names : str
        "all", "acceptance" (all that have goals), names of classes and of layers, and
        "network:NAME" for all distinct layers of one of `networks.NETWORKS`.

    Raises
    ------
    ValueError
        For a name that is none of these.
    """
    wanted = names.split(",")
    of_networks = {f"network:{name}": name for name in networks.NETWORKS}
    known = ["all", "acceptance", *(group.name for group in CLASSES), *of_networks]
    rows = [layer.name for layer in LAYERS]
    if unknown := [name for name in wanted if name not in known and name not in rows]:
        raise ValueError(
            f"no layer is named {', '.join(map(repr, unknown))}; "
            f"there are {', '.join(known)} and the layers {', '.join(rows)}"
        )
    found = []
    for group in CLASSES:
        layers = tuple(
            layer
            for layer in group.layers
            if {"all", group.name, layer.name}.intersection(wanted)
            or ("acceptance" in wanted and group.goals_of(layer))
        )
        if layers:
            found.append(replace(group, layers=layers))
    found += [networks.layer_class(of_networks[name]) for name in wanted if name in of_networks]
    return tuple(found)

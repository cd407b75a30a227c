"""The published networks as graphs: parameters and sizes as literals, geometry by derivation."""

from fractions import Fraction

import pytest

from fcn import models
from fcn.graph import Graph
from tests.fcn.networks import NARROW


def sizes(graph, hw):
    """Height, width and channels of each node's result."""
    shapes = graph.shapes((1, *hw, graph.channels))
    return {node.name: shapes[node.name][1:] for node in graph.nodes}


def names(graph, op):
    return [node.name for node in graph.nodes if node.op == op]


def test_every_architecture_has_a_narrow_variant_here():
    found = {graph.name.removesuffix("_caffe") for graph in NARROW.values()}
    assert found == {*models.ARCHITECTURES, "two_conv_as_printed"}


@pytest.mark.parametrize("graph", NARROW.values(), ids=NARROW)
def test_json_gives_every_architecture_back(graph):
    assert Graph.from_json(graph.to_json()) == graph


ANY_SIZE = [(1, 1), (1, 40), (2, 3), (33, 31), (64, 96), (127, 129), (375, 500)]


@pytest.mark.parametrize("hw", ANY_SIZE, ids=str)
@pytest.mark.parametrize("name", [n for n in NARROW if n.startswith("fcn")])
def test_fcns_give_any_image_its_size(name, hw):
    graph = NARROW[name]
    assert sizes(graph, hw)[graph.output] == (*hw, 3)


# --- the article's network ---------------------------------------------------------------------


def test_two_conv_gives_the_size_of_the_image():
    graph = models.two_conv(21)
    assert sizes(graph, (512, 512)) == {
        "conv1": (512, 512, 64),
        "pool1": (256, 256, 64),
        "conv2": (256, 256, 128),
        "pool2": (128, 128, 128),
        "upsample": (512, 512, 21),
    }
    assert graph.total_stride == 4
    # 3*3*3*64 + 64, 3*3*64*128 + 128, 4*4*21*128 + 21
    assert graph.parameter_count == 1792 + 73856 + 43029


def test_two_conv_as_printed_gives_half_of_it():
    graph = models.two_conv(21, as_printed=True)
    assert sizes(graph, (512, 512))["upsample"] == (256, 256, 21)
    assert graph.node("upsample").attrs["kernel"] == [2, 2]
    assert graph.parameter_count == 1792 + 73856 + 10773


def test_two_conv_drops_remainders_as_keras_does():
    assert sizes(models.two_conv(2, channels=1), (67, 5)) == {
        "conv1": (67, 5, 64),
        "pool1": (33, 2, 64),
        "conv2": (33, 2, 128),
        "pool2": (16, 1, 128),
        "upsample": (64, 4, 2),
    }


# --- FCN on VGG16 ------------------------------------------------------------------------------

VGG16 = (
    "conv1_1 conv1_2 pool1 conv2_1 conv2_2 pool2 conv3_1 conv3_2 conv3_3 pool3 "
    "conv4_1 conv4_2 conv4_3 pool4 conv5_1 conv5_2 conv5_3 pool5 fc6 fc7 score_fr "
)
# The Caffe names are those of the published voc-fcn32s, voc-fcn16s and voc-fcn8s.
LAYERS = {
    ("fcn32s", False): "upscore score",
    ("fcn32s", True): "upscore score",
    ("fcn16s", False): "upscore2 score_pool4 upscore2c fuse_pool4 upscore16 score",
    ("fcn16s", True): "upscore2 score_pool4 score_pool4c fuse_pool4 upscore16 score",
    ("fcn8s", False): "upscore2 score_pool4 upscore2c fuse_pool4 upscore_pool4 score_pool3 "
    "upscore_pool4c fuse_pool3 upscore8 score",
    ("fcn8s", True): "upscore2 score_pool4 score_pool4c fuse_pool4 upscore_pool4 score_pool3 "
    "score_pool3c fuse_pool3 upscore8 score",
}


@pytest.mark.parametrize("name, caffe", LAYERS)
def test_fcns_have_the_authors_layers(name, caffe):
    graph = models.ARCHITECTURES[name](21, caffe=caffe)
    assert " ".join(node.name for node in graph.nodes) == VGG16 + LAYERS[name, caffe]
    assert graph.name == name + caffe * "_caffe"
    assert graph.total_stride == 32


@pytest.mark.parametrize("caffe", [False, True])
def test_fcns_have_the_authors_number_of_parameters(caffe):
    # VGG16's convolutions, fc6, fc7, score_fr
    common = 14_714_688 + 102_764_544 + 16_781_312 + 86_037
    # 21 * 21 * kernel**2 of each upscore, without bias; 513 * 21 and 257 * 21 of the skips' scores
    up = {stride: 441 * (2 * stride) ** 2 for stride in (2, 8, 16, 32)}
    assert models.fcn32s(21, caffe=caffe).parameter_count == common + up[32] == 136_152_917
    skip = 10_773 + up[2]
    assert models.fcn16s(21, caffe=caffe).parameter_count == common + skip + up[16] == 134_815_994
    skip += 5_397 + up[2]
    assert models.fcn8s(21, caffe=caffe).parameter_count == common + skip + up[8] == 134_489_759


def test_width_scales_the_fully_connected_layers_unless_they_are_given():
    assert models.fcn8s(5, width=2).node("fc7").attrs["filters"] == 128
    assert models.fcn8s(5, width=2, fc=16).node("fc7").attrs["filters"] == 16


def test_fcn8s_at_an_odd_size():
    found = sizes(models.fcn8s(5, width=4, fc=16, fc_kernel=3), (37, 53))
    assert found["pool1"] == (19, 27, 4)
    assert found["pool3"] == (5, 7, 16)
    assert found["pool4"] == (*found["score_pool4"][:2], 32) == (3, 4, 32)
    assert found["pool5"] == (2, 2, 32)
    assert found["fc7"] == (2, 2, 16)
    assert found["upscore2"] == (4, 4, 5)
    assert found["fuse_pool4"] == (3, 4, 5)
    assert found["upscore_pool4"] == (6, 8, 5)
    assert found["fuse_pool3"] == (5, 7, 5)
    assert found["upscore8"] == (40, 56, 5)
    assert found["score"] == (37, 53, 5)


def test_caffe_form_at_the_authors_size():
    """500 x 500: pools that round up are told from those that do not by pool2 on."""
    found = sizes(models.fcn8s(21, caffe=True), (500, 500))
    side = {name: shape[0] for name, shape in found.items()}
    assert side == {
        "conv1_1": 698, "conv1_2": 698, "pool1": 349, "conv2_1": 349, "conv2_2": 349,
        "pool2": 175, "conv3_1": 175, "conv3_2": 175, "conv3_3": 175, "pool3": 88,
        "conv4_1": 88, "conv4_2": 88, "conv4_3": 88, "pool4": 44, "conv5_1": 44, "conv5_2": 44,
        "conv5_3": 44, "pool5": 22, "fc6": 16, "fc7": 16, "score_fr": 16, "upscore2": 34,
        "score_pool4": 44, "score_pool4c": 34, "fuse_pool4": 34, "upscore_pool4": 70,
        "score_pool3": 88, "score_pool3c": 70, "fuse_pool3": 70, "upscore8": 568, "score": 500,
    }  # fmt: skip
    assert found["score"] == (500, 500, 21)


def centres(graph, size=64):
    """(scale, offset) of each tensor: its pixel i is centred on pixel scale * i + offset.

    A crop's own attribute is not used: what it should be is in the second dictionary.
    """
    shapes = graph.shapes((1, size, size, graph.channels))
    found, offsets = {"input": (Fraction(1), Fraction(0))}, {}
    for node in graph.nodes:
        scale, at = found[node.inputs[0]]
        a = node.attrs
        if node.op == "crop":
            assert found[node.inputs[1]][0] == scale
            offsets[node.name] = (found[node.inputs[1]][1] - at) / scale
            found[node.name] = found[node.inputs[1]]
        elif node.op == "add":
            assert found[node.inputs[0]] == found[node.inputs[1]], node.name
            found[node.name] = scale, at
        else:
            taps, stride = (a.get("kernel") or a["size"])[0], a["stride"][0]
            rows, out = shapes[node.inputs[0]][1], shapes[node.name][1]
            middle = Fraction(taps - 1, 2)
            if node.op == "conv2d_transpose":
                cropped = (rows - 1) * stride + taps - out  # half of it at the top
                scale /= stride
                at -= scale * (middle - cropped // 2)
            else:
                before = a["padding"][0][0] if isinstance(a["padding"], list) else 0
                if a["padding"] == "same":
                    before = max((out - 1) * stride + taps - rows, 0) // 2
                at += scale * (middle - before)
                scale *= stride
            found[node.name] = scale, at
    return found, offsets


# What the published networks crop.
OFFSETS = {
    "fcn32s": {"score": 19},
    "fcn16s": {"score_pool4c": 5, "score": 27},
    "fcn8s": {"score_pool4c": 5, "score_pool3c": 9, "score": 31},
}


@pytest.mark.parametrize("name", OFFSETS)
def test_caffe_crops_are_where_receptive_fields_are_centred(name):
    graph = models.ARCHITECTURES[name](2, width=1, caffe=True)
    found, offsets = centres(graph)
    assert offsets == OFFSETS[name]
    assert {n: graph.node(n).attrs["offset"] for n in offsets} == {
        n: [offset, offset] for n, offset in OFFSETS[name].items()
    }
    assert found["score"] == (1, 0)


@pytest.mark.parametrize("fc_kernel", [1, 3, 7])
@pytest.mark.parametrize("name", OFFSETS)
def test_same_form_needs_no_offset(name, fc_kernel):
    graph = models.ARCHITECTURES[name](2, width=1, fc_kernel=fc_kernel)
    found, offsets = centres(graph)
    assert set(offsets.values()) == {0}
    assert all(graph.node(n).attrs["offset"] == [0, 0] for n in offsets)
    assert found["score"] == (1, 0)


def test_caffe_form_is_for_the_published_kernel():
    with pytest.raises(ValueError, match="fcn16s: the Caffe form needs fc_kernel=7, got 3"):
        models.fcn16s(2, fc_kernel=3, caffe=True)


# --- U-Net -------------------------------------------------------------------------------------


def test_unet_has_the_usual_number_of_parameters():
    """A common PyTorch implementation (3 channels, 1 class) counts 31,037,633.

    Each of its 3x3 convolutions has no bias, but a batch normalisation with two numbers for each
    channel, of which folding leaves one.
    """
    normalised = 2 * (64 + 128 + 256 + 512 + 1024) + 2 * (512 + 256 + 128 + 64)
    assert models.unet(1).parameter_count == 31_037_633 - normalised == 31_031_745


def test_unet_sizes():
    found = sizes(models.unet(5), (96, 64))
    assert [found[f"conv{i}_2"] for i in range(1, 6)] == [
        (96, 64, 64), (48, 32, 128), (24, 16, 256), (12, 8, 512), (6, 4, 1024)
    ]  # fmt: skip
    for level, shape in (
        (4, (12, 8, 512)),
        (3, (24, 16, 256)),
        (2, (48, 32, 128)),
        (1, (96, 64, 64)),
    ):
        assert found[f"up{level}"] == found[f"merge{level}_2"] == shape
        assert found[f"concat{level}"] == (*shape[:2], 2 * shape[2])
    assert found["score"] == (96, 64, 5)


@pytest.mark.parametrize("depth", [1, 3])
def test_unet_depth(depth):
    graph = models.unet(2, width=3, depth=depth)
    assert graph.total_stride == 2**depth
    assert len(names(graph, "concat")) == len(names(graph, "max_pool2d")) == depth
    assert graph.node(f"conv{depth + 1}_2").attrs["filters"] == 3 * 2**depth


def test_unet_names_what_it_cannot_halve():
    with pytest.raises(
        ValueError, match=r"concat4 \(concat\): .* multiples of the graph's total_s"
    ):
        models.unet(2).shapes((1, 40, 48, 3))
    with pytest.raises(ValueError, match="unet: depth is an integer >= 1, got 0"):
        models.unet(2, depth=0)


# --- residual networks -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, blocks, torchvision, folded",
    [
        ("fcn_resnet50", (3, 4, 6, 3), 35_322_218, 32_929_941),
        ("fcn_resnet101", (3, 4, 23, 3), 54_314_346, 51_895_957),
    ],
)
def test_fcn_resnets_are_torchvisions(name, blocks, torchvision, folded):
    """Its counts hold an auxiliary head, and two numbers for each channel that is normalised.

    Folding leaves one of them, the bias of the convolution. Normalised are all convolutions but
    the last: in each block filters, filters and 4 * filters, and 4 * filters of the shortcut.
    """
    graph = models.ARCHITECTURES[name](21)
    auxiliary = 9 * 1024 * 256 + 2 * 256 + 256 * 21 + 21  # without it, ResNet-50 has 32,957,013
    stages = zip(blocks, (64, 128, 256, 512), strict=True)
    normalised = 64 + sum(6 * filters * count + 4 * filters for count, filters in stages) + 512
    assert graph.parameter_count == torchvision - auxiliary - normalised == folded
    convolutions = ["backbone.conv1"]
    for layer, count in enumerate(blocks, 1):
        for i in range(count):
            block = f"backbone.layer{layer}.{i}"
            convolutions += [f"{block}.conv{j}" for j in (1, 2, 3)]
            convolutions += [f"{block}.downsample.0"] * (i == 0)
    convolutions += ["classifier.0", "classifier.4"]
    assert names(graph, "conv2d") == convolutions
    assert len(names(graph, "add")) == sum(blocks)
    assert graph.total_stride == 8


def test_fcn_resnet_sizes():
    found = sizes(models.fcn_resnet50(21), (225, 320))
    assert found["backbone.conv1"] == (113, 160, 64)
    assert found["backbone.maxpool"] == (57, 80, 64)
    assert found["backbone.layer1.2"] == (57, 80, 256)
    assert found["backbone.layer2.3"] == (29, 40, 512)
    assert found["backbone.layer3.5"] == (29, 40, 1024)
    assert found["backbone.layer4.2"] == (29, 40, 2048)
    assert found["classifier.0"] == (29, 40, 512)
    assert found["classifier.4"] == (29, 40, 21)
    assert found["out"] == (225, 320, 21)


def test_fcn_resnet_strides_and_dilates_its_middle_convolutions_only():
    """torchvision: replace_stride_with_dilation=[False, True, True]."""
    graph = models.fcn_resnet50(2, width=1)
    middle = {}
    for node in graph.nodes:
        if node.op == "conv2d":
            a = node.attrs
            assert a["padding"] == [[a["dilation"][0] * (a["kernel"][0] // 2)] * 2] * 2
            if node.name.endswith("conv2"):
                middle[node.name.removeprefix("backbone.layer")] = a["stride"][0], a["dilation"][0]
            elif node.name not in ("backbone.conv1", "backbone.layer2.0.downsample.0"):
                assert a["stride"] == a["dilation"] == [1, 1], node.name
    assert list(middle.values()) == [
        (1, 1), (1, 1), (1, 1), (2, 1), (1, 1), (1, 1), (1, 1),
        (1, 1), (1, 2), (1, 2), (1, 2), (1, 2), (1, 2), (1, 2), (1, 4), (1, 4),
    ]  # fmt: skip
    assert graph.node("backbone.layer2.0.downsample.0").attrs["stride"] == [2, 2]


@pytest.mark.parametrize("output_stride", [32, 16])
def test_fcn_mobilenet_is_torchvisions(output_stride):
    """Its mobilenet_v2 counts 3,504,872, with a classifier of 1000 and 17,056 normalised channels.

    Folding leaves one number for each of these instead of two.
    """
    graph = models.fcn_mobilenet(21, output_stride=output_stride)
    parameters = graph.parameters()
    assert sum(s[0] for n, s in parameters.items() if n.endswith("/bias")) == 17_056 + 21
    features = 3_504_872 - 1_281_000 - 17_056
    assert graph.parameter_count == features + 1280 * 21 + 21 == 2_233_717
    assert graph.total_stride == output_stride
    # blocks whose input and output can be added
    assert names(graph, "add") == [f"features.{i}" for i in (3, 5, 6, 8, 9, 10, 12, 13, 15, 16)]
    depthwise = ["features.1.conv.0.0", *(f"features.{i}.conv.1.0" for i in range(2, 18))]
    assert names(graph, "depthwise_conv2d") == depthwise
    assert names(graph, "conv2d")[:5] == [
        "features.0.0", "features.1.conv.1", "features.2.conv.0.0", "features.2.conv.2",
        "features.3.conv.0.0",
    ]  # fmt: skip
    assert names(graph, "conv2d")[-2:] == ["features.18.0", "score"]


@pytest.mark.parametrize(
    "output_stride, last, strided, dilated",
    [(32, (7, 8), {2, 4, 7, 14}, set()), (16, (14, 16), {2, 4, 7}, {15, 16, 17})],
)
def test_fcn_mobilenet_strides(output_stride, last, strided, dilated):
    graph = models.fcn_mobilenet(3, output_stride=output_stride)
    found = sizes(graph, (224, 250))
    assert found["features.0.0"] == (112, 125, 32)
    assert found["features.6"] == (28, 32, 32)
    assert found["features.13"] == (14, 16, 96)
    assert found["features.17.conv.2"] == (*last, 320)
    assert found["features.18.0"] == (*last, 1280)
    assert found["out"] == (224, 250, 3)
    for node in graph.nodes:
        if node.op == "depthwise_conv2d":
            number = int(node.name.split(".")[1])
            step, spread = 1 + (number in strided), 1 + (number in dilated)
            assert (node.attrs["stride"], node.attrs["dilation"]) == ([step] * 2, [spread] * 2)
            assert node.attrs["padding"] == [[spread, spread], [spread, spread]]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"width": 6}, "width is a positive multiple of 4, got 6"),
        ({"width": 0}, "width is a positive multiple of 4, got 0"),
        ({"output_stride": 8}, "output_stride is 16 or 32, got 8"),
    ],
)
def test_fcn_mobilenet_options(options, message):
    with pytest.raises(ValueError, match=f"fcn_mobilenet: {message}"):
        models.fcn_mobilenet(2, **options)

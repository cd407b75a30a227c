"""Tiles against the whole, bit for bit: every architecture, odd sizes, Winograd tiles."""

import numpy as np
import pytest

from fcn import large, models, tiling
from fcn.graph import INPUT, Graph, Model, Node
from fcn.session import Program, Session
from tests.fcn.networks import EVERY_OP, NARROW, conv, pool

# What resizes at its end is cut before that; `pixel_by_pixel` pools globally.
DILATED = Graph("dilated", 2, (
    conv("a", "input", 4, groups=2, padding="same", activation="prelu"),
    pool("p", "a", padding="same"),
    Node("up", "conv2d_transpose", ("p",), {"filters": 4, "kernel": 3, "stride": 2, "groups": 2,
                                            "dilation": [2, 5], "padding": "same"}),
), "up")  # fmt: skip
WHOLE = NARROW | {"dilated": DILATED}
# Receptive fields are large, so most pictures are long and narrow, and cut along one axis only.
SIZES = {
    "two_conv": (203, 317), "as_printed": (203, 317), "unet": (512, 384),
    "fcn_mobilenet": (1003, 301), "fcn_mobilenet_16": (1003, 301),
    "fcn8s_caffe": (171, 2051), "fcn_resnet101": (4099, 75),
}  # fmt: skip


def session_of(graph):
    session = Session(Model(graph, models.initialise(graph, 3)))
    return session.before_resize or session


def forced(graph):
    """Winograd wherever there is a tile, whatever the cost model says of such small layers."""
    found = {}
    for node in graph.nodes:
        if node.op == "conv2d":
            kernel, stride = tuple(node.attrs["kernel"]), tuple(node.attrs["stride"])
            tile = {((3, 3), (1, 1)): "winograd_f4", ((5, 5), (1, 1)): "winograd_f2",
                    ((7, 7), (1, 1)): "winograd_f2"}.get((kernel, stride), "direct")  # fmt: skip
            if stride == (2, 2) and kernel == (3, 3) and node.attrs["dilation"] == [1, 1]:
                tile = "winograd_f2"
            found[node.name] = tile if node.attrs["groups"] == 1 else "direct"
    return found


def assembled(session, x, wanted, algorithms=None):
    """The whole result from tiles, and how many there were."""
    cutter = large.Cutter(session, x.shape)
    if algorithms:
        cutter.algorithms = algorithms
        cutter.unit = tiling.alignment(session.model.graph, algorithms)
    while not cutter._covers(cutter.shape(wanted)):
        wanted += min(cutter.unit)
    program = cutter.program(cutter.shape(wanted))
    whole = Program(session.model, x.shape, algorithms=cutter.algorithms)
    expected = whole.run(x, whole.buffers())
    found = np.full_like(expected, np.nan)
    rows, cols = (cutter.cuts(program.shape, axis) for axis in (0, 1))
    for r in rows:
        for c in cols:
            _, h, w, _ = program.shape
            part = np.ascontiguousarray(x[:, r.start : r.start + h, c.start : c.start + w])
            y = program.run(part, program.buffers())
            found[:, r.low : r.high, c.low : c.high] = y[
                :, r.offset : r.offset + r.high - r.low, c.offset : c.offset + c.high - c.low
            ]
    return found, expected, len(rows) * len(cols)


@pytest.mark.parametrize("winograd", [False, True], ids=["auto", "winograd"])
@pytest.mark.parametrize("name", WHOLE)
def test_tiles_make_up_the_whole_bit_for_bit(name, winograd):
    session = session_of(WHOLE[name])
    graph = session.model.graph
    size = SIZES.get(name, (2051, 171))
    x = np.random.default_rng(1).normal(size=(1, *size, graph.channels)).astype(np.float32)
    chosen = forced(graph) if winograd else None
    found, expected, count = assembled(session, x, 64, chosen)
    np.testing.assert_array_equal(found, expected)
    assert count > 1


def test_what_cannot_be_cut_is_named():
    graph = EVERY_OP["pixel_by_pixel"]
    with pytest.raises(ValueError, match=r"largest \(global_max_pool2d\) cannot be cut into tiles"):
        tiling.scales(graph)
    with pytest.raises(ValueError, match=r"sum \(add\) cannot .*: what it reads has several"):
        tiling.scales(EVERY_OP["named_padding"])
    node = Node("up", "upsample2d", (INPUT,), {"factor": 3, "method": "bilinear"})
    with pytest.raises(ValueError, match=r"rounded where the factor \[3, 3\] is no power of 2"):
        tiling.scales(Graph("g", 1, (node,), "up"))


CHAIN = Graph(
    "chain", 1,
    (
        conv("a", INPUT, 1, padding="same"),
        pool("p", "a"),
        conv("b", "p", 1, padding="same"),
        Node("up", "conv2d_transpose", ("b",), {"filters": 1, "kernel": 2, "stride": 2}),
    ),
    "up",
)  # fmt: skip


def test_geometry_by_hand():
    """Two 3x3 layers, at strides 1 and 2: a border of 3 pixels on an even one, 4 on an odd one."""
    direct = dict.fromkeys("ab", "direct")
    assert tiling.alignment(CHAIN, direct) == (2, 2)
    assert tiling.alignment(CHAIN, {"a": "winograd_f4", "b": "winograd_f4"}) == (8, 8)
    assert tiling.alignment(CHAIN, {"a": "winograd_f6", "b": "direct"}) == (6, 6)
    assert tiling.tile_length(101, 200, 8) == 101
    assert tiling.tile_length(101, 40, 8) == 37  # leaves 5, as 101 does
    assert tiling.tile_length(101, 1, 8) == 13
    shapes, pixels = CHAIN.shapes((1, 20, 20, 1)), np.array([8, 9])
    low, high = tiling._reach(CHAIN, shapes, pixels, 0, direct)
    assert low.tolist() == [5, 5]
    assert high.tolist() == [13, 13]
    # of b the tile of pixels 4 to 7, which reads 3 to 8; of a 6 to 17, with whole tiles 4 to 19
    low, high = tiling._reach(CHAIN, shapes, pixels, 0, dict.fromkeys("ab", "winograd_f4"))
    assert low.tolist() == [3, 3]
    assert high.tolist() == [21, 21]
    found = tiling.cuts(CHAIN, (1, 40, 40, 1), (1, 16, 16, 1), 2, 0, direct)
    assert found[0] == tiling.Cut(0, 0, 12, 0)
    assert found[1] == tiling.Cut(8, 12, 20, 4)
    assert (found[-1].start, found[-1].high) == (24, 40)
    assert [c.low for c in found[1:]] == [c.high for c in found[:-1]]
    with pytest.raises(ValueError, match="tiles of 6 pixels are too small for chain, whose border"):
        tiling.cuts(CHAIN, (1, 40, 40, 1), (1, 6, 6, 1), 2, 0, direct)


# --- pictures -----------------------------------------------------------------------------------


def picture(h, w):
    return np.random.default_rng(2).integers(0, 256, (h, w, 3), np.uint8)


@pytest.mark.parametrize("name", ["fcn8s", "fcn_mobilenet", "as_printed", "fcn32s_caffe"])
def test_pictures_have_the_same_labels(name):
    graph = NARROW[name]
    session = Session(Model(graph, models.initialise(graph, 4), {"mean": 0.5, "std": 0.25}))
    image = picture(1551, 203)[..., : graph.channels]
    expected = session.segment(image)
    for options in ({"tile": 1200}, {"tile": 10**6}, {"memory": "8GB"}):
        labels = session.segment(image, **options)
        np.testing.assert_array_equal(labels, expected)
        assert labels.dtype == expected.dtype
        assert labels.flags.c_contiguous
    assert len(np.unique(expected)) > 1


def test_memory_limits_the_tile():
    graph = models.fcn8s(4, width=4, fc=16, fc_kernel=3)
    session = Session(Model(graph, models.initialise(graph, 4)))
    cutter = large.Cutter(session, (1, 2048, 2048, 3))
    sizes = []
    for limit in ("80MB", "120MB", "200MB"):
        program = cutter.program_within(large.nbytes(limit))
        need = 4 * graph.parameter_count + program.packed_bytes + sum(cutter._moving(program))
        assert need <= large.nbytes(limit)
        sizes.append(program.shape[1])
    assert sizes == sorted(set(sizes))
    assert sizes[-1] < 2048
    with pytest.raises(
        ValueError, match=r"smallest tiles of fcn8s take about \d+ MB, got memory=1"
    ):
        cutter.program_within(10**6)


@pytest.mark.parametrize(
    ("text", "expected"),
    [(10, 10), ("2GB", 2 * 10**9), ("1.5 MiB", 3 * 2**19), ("64kb", 64000), ("7", 7)],
)
def test_amounts_of_memory(text, expected):
    assert large.nbytes(text) == expected


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "2TB", "nan", "0"])
def test_bad_amounts_are_named(text):
    with pytest.raises(ValueError, match="memory is a number of bytes, or a text such as '2GB'"):
        large.nbytes(text)


def test_bad_pictures_are_named():
    session = Session(Model(NARROW["fcn8s"], models.initialise(NARROW["fcn8s"], 0)))
    with pytest.raises(TypeError, match="segment: the image must be a NumPy array"):
        session.segment([[1]], memory="1GB")
    with pytest.raises(ValueError, match="segment"):
        session.segment(np.zeros((0, 4, 3), np.uint8), memory="1GB")

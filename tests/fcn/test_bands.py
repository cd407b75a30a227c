"""Bands against the whole, bit for bit: every architecture, every operation, Winograd tiles."""

import itertools

import numpy as np
import pytest

from fcn import bands, models, rows
from fcn.fusion import Group
from fcn.graph import INPUT, Graph, Model, Node
from fcn.session import Session
from tests.fcn.networks import EVERY_OP, NARROW, conv, pool

WHOLE = {**NARROW, **EVERY_OP}


def session_of(graph):
    return Session(Model(graph, models.initialise(graph, 3)))


def winograd(group):
    """Wherever there is a tile, whatever the cost model says of such small layers."""
    node = group.node
    if node.op != "conv2d":
        return "direct"
    square = node.attrs["kernel"], node.attrs["stride"], node.attrs["dilation"]
    if node.attrs["groups"] > 1:
        return "direct"
    pooled = group.then is not None and group.then.op == "max_pool2d"
    match square:
        case [3, 3], [1, 1], dilation if dilation == [1, 1] or (
            dilation[0] == dilation[1] and not pooled
        ):
            return "winograd_f4"
        case ([5, 5] | [7, 7], [1, 1], [1, 1]) | ([3, 3], [2, 2], [1, 1]):
            return "winograd_f2"
    return "direct"


def assembled(session, x, height):
    """The whole result from bands, how many there were, and the schedule."""
    runner = bands.Bands(session, x.shape)
    found = np.full(runner.known[session.model.graph.output], np.nan, np.float32)
    count, done, schedule = 0, 0, runner.schedule(height)
    for low, made in runner.run(schedule, lambda a, b: x[:, a:b]):
        assert low == done
        done += made.shape[1]
        found[:, low:done] = made
        count += 1
    assert done == found.shape[1]
    return found, count, schedule


def whole(session, x, chosen):
    """Node by node, with the same algorithms."""
    tensors = {INPUT: x}
    for node in session.model.graph.nodes:
        alone = Session(session.model, algorithm=chosen.get(node.name, "direct"))
        step = alone.step(node, session.model.graph.shapes(x.shape))
        tensors[node.name] = step(*(tensors[name] for name in node.inputs))
    return tensors[session.model.graph.output]


@pytest.mark.parametrize("pixels", [1, 600])
@pytest.mark.parametrize("tiles", [False, True], ids=["auto", "winograd"])
@pytest.mark.parametrize("name", WHOLE)
def test_bands_make_up_the_whole_bit_for_bit(name, tiles, pixels, monkeypatch):
    monkeypatch.setattr(bands, "PIXELS", pixels)
    session = session_of(WHOLE[name])
    graph = session.model.graph
    _, *shape = session.prepared_shape(203, 61)
    x = np.random.default_rng(1).normal(size=(1, *shape)).astype(np.float32)
    if tiles:
        monkeypatch.setattr(bands.Bands, "_algorithm", lambda _, group: winograd(group))
        alone = map(Group, graph.nodes)
        expected = whole(session, x, {g.node.name: winograd(g) for g in alone})
    else:
        expected = session.run(x)
    found, _, schedule = assembled(session, x, 1)
    np.testing.assert_array_equal(found, expected)
    read = [task for task in schedule.tasks if task.group is None]
    assert len(read) == -(-shape[0] // graph.total_stride)


def test_few_rows_are_kept(monkeypatch):
    """No tensor of a deep network has much more than a third of its rows at once."""
    monkeypatch.setattr(bands, "PIXELS", 1)
    session = session_of(NARROW["fcn8s"])
    x = np.zeros((1, 1024, 40, 3), np.float32)
    _, count, schedule = assembled(session, x, 32)
    assert count > 20
    for name, kept in schedule.kept.items():
        assert kept <= schedule.known[name][1] / 3 + 8
    # conv1_1 reads two again, in tiles of four
    assert schedule.kept[INPUT] == 32 + 2 + 3
    assert schedule.nbytes() == 4 * sum(
        kept * schedule.known[name][2] * schedule.known[name][3]
        for name, kept in schedule.kept.items()
        if name != "score"  # the result
    )


def test_what_needs_all_rows_waits_for_them(monkeypatch):
    monkeypatch.setattr(bands, "PIXELS", 1)
    session = session_of(EVERY_OP["pixel_by_pixel"])
    x = np.random.default_rng(1).normal(size=(1, 640, 24, 3)).astype(np.float32)
    found, _, schedule = assembled(session, x, 16)
    np.testing.assert_array_equal(found, session.run(x))
    names = [task.group.last.name if task.group else INPUT for task in schedule.tasks]
    assert names.index("largest") > len(names) - names[::-1].index(INPUT) - 1
    assert schedule.kept["leaky"] == schedule.known["leaky"][1]
    assert schedule.kept[INPUT] < 100


# --- geometry by hand ----------------------------------------------------------------------------


def test_rows_of_a_strided_convolution():
    """Rows 2 and 3 of stride 2 read rows 3 to 7; at the ends there is one row of zeros."""
    node = conv("c", INPUT, 1, stride=2, padding=[[1, 1], [1, 1]])
    known = Graph("g", 1, (node,), "c").shapes((1, 11, 11, 1))
    assert known["c"][1] == 6
    band = rows.band(Group(node), known, 2, 4)
    assert (band.reads, band.pad) == (((3, 8),), (0, 0))
    assert rows.band(Group(node), known, 0, 2).pad == (1, 0)
    last = rows.band(Group(node), known, 4, 6)
    assert (last.reads, last.pad) == (((7, 11),), (0, 1))


def test_rows_of_a_convolution_with_its_pool():
    node = conv("c", INPUT, 1, dilation=2)
    group = Group(node, pool("p", "c"))
    known = Graph("g", 1, (node, group.then), "p").shapes((1, 15, 15, 1))
    assert rows.band(group, known, 1, 3).reads == ((2, 10),)
    assert rows.band(group, known, 3, 5).reads == ((6, 15),)  # one row of the result is not pooled
    assert rows.unit(group, "winograd_f4") == 4
    assert rows.unit(Group(node), "winograd_f4") == 8
    dense = Group(conv("d", INPUT, 1), group.then)
    assert [rows.unit(dense, f"winograd_f{m}") for m in (2, 4, 6)] == [1, 2, 3]
    assert rows.unit(dense, "winograd_f4_tf32x3") == 2
    assert rows.unit(dense, "direct") == rows.unit(dense, "tf32x3") == 1


def test_rows_of_an_upsampled_and_cropped_map():
    """Row y of stride 4 and kernel 8 gets rows (y + 2) // 4 - 1 and (y + 2) // 4."""
    up = Node("up", "conv2d_transpose", (INPUT,),
              {"filters": 1, "kernel": 8, "stride": 4, "padding": "same"})  # fmt: skip
    group = Group(up, Node("cut", "crop", ("up", INPUT), {"offset": [3, 0]}))
    known = {INPUT: (1, 9, 9, 1), "up": (1, 36, 36, 1), "cut": (1, 30, 30, 1)}
    band = rows.band(group, known, 0, 4)  # rows 3 to 6 of "up", 5 to 8 of all
    assert (band.reads, band.pad) == (((0, 3),), (5, 7))
    band = rows.band(group, known, 10, 11)  # row 15 of all
    assert (band.reads, band.pad) == (((2, 4),), (7, 4))


@pytest.mark.parametrize("method", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("factor", [2, 3, [5, 2]])
def test_upsampling_reads_what_it_needs(method, factor, monkeypatch):
    monkeypatch.setattr(bands, "PIXELS", 1)
    nodes = (
        conv("c", INPUT, 4, padding="same"),
        Node("up", "upsample2d", ("c",), {"factor": factor, "method": method}),
        Node("fit", "resize2d_to", ("up",), {"size": [500, 31], "method": method}),
        Node("back", "resize2d", ("fit", INPUT)),
    )
    session = session_of(Graph("g", 3, nodes, "back"))
    x = np.random.default_rng(1).normal(size=(1, 190, 23, 3)).astype(np.float32)
    found, count, schedule = assembled(session, x, 8)
    np.testing.assert_array_equal(found, session.run(x))
    assert count > 10
    for name in ("c", "up", "fit"):
        assert schedule.kept[name] < schedule.known[name][1] / 5


# --- pictures -----------------------------------------------------------------------------------


def picture(h, w):
    return np.random.default_rng(2).integers(0, 256, (h, w, 3), np.uint8)


@pytest.mark.parametrize(
    "name", ["fcn8s", "fcn_mobilenet", "as_printed", "fcn32s_caffe", "unet", "two_conv"]
)
def test_pictures_have_the_same_labels(name, monkeypatch):
    monkeypatch.setattr(bands, "PIXELS", 64)
    graph = NARROW[name]
    session = Session(Model(graph, models.initialise(graph, 4), {"mean": 0.5, "std": 0.25}))
    image = picture(351, 203)[..., : graph.channels]
    expected = session.segment(image)
    for options in ({"band": 1}, {"band": 100}, {"band": 10**6}, {"memory": "8GB"}):
        labels = session.segment(image, **options)
        np.testing.assert_array_equal(labels, expected)
        assert labels.dtype == expected.dtype
        assert labels.flags.c_contiguous
    assert len(np.unique(expected)) > 1


def test_schedules_are_made_once(monkeypatch):
    session, made = session_of(NARROW["fcn8s"]), []
    init = bands.Schedule.__init__
    monkeypatch.setattr(bands.Schedule, "__init__",
                        lambda self, *a: (made.append(1), init(self, *a))[1])  # fmt: skip
    for _ in range(3):
        session.segment(picture(100, 80), memory="1GB")
    first = len(made)
    session.segment(picture(100, 80), memory="1GB")
    assert len(made) == first
    session.segment(picture(100, 80), band=32)
    assert len(made) == first + 1


def test_bands_use_the_memory_of_the_run_before():
    session = session_of(models.fcn8s(4, width=4, fc=16, fc_kernel=3))
    session.segment(picture(100, 80), band=32)
    ((_, buffers),) = session._idle
    session.segment(picture(100, 80), band=32)
    assert [again for _, again in session._idle] == [buffers]
    session.segment(picture(100, 80), band=64)
    ((_, others),) = session._idle
    assert not {id(array) for array in buffers.values()} & {id(a) for a in others.values()}


def test_memory_limits_the_bands():
    graph = models.fcn8s(4, width=4, fc=16, fc_kernel=3)
    session = session_of(graph)
    runner = bands.Bands(session, (1, 4096, 2048, 3))
    needs, limits = [], (40e6, 60e6, 90e6)
    for limit in limits:
        schedule = runner.schedule_within(int(limit))
        needs.append(runner.nbytes(schedule))
    assert all(need <= limit for need, limit in zip(needs, limits, strict=True))
    assert all(less < more for less, more in itertools.pairwise(needs))
    assert needs[-1] > limits[-2]  # what is allowed is used
    with pytest.raises(
        ValueError, match=r"fcn8s takes about \d+ MB .* in the lowest bands, got memory=4 MB"
    ):
        runner.schedule_within(4 * 10**6, kept=3 * 10**6)


@pytest.mark.parametrize(
    ("text", "expected"),
    [(10, 10), ("2GB", 2 * 10**9), ("1.5 MiB", 3 * 2**19), ("64kb", 64000), ("7", 7)],
)
def test_amounts_of_memory(text, expected):
    assert bands.nbytes(text) == expected


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "2TB", "nan", "0"])
def test_bad_amounts_are_named(text):
    with pytest.raises(ValueError, match="memory is a number of bytes, or a text such as '2GB'"):
        bands.nbytes(text)


def test_bad_options_are_named():
    session = session_of(NARROW["fcn8s"])
    with pytest.raises(TypeError, match="segment: the image must be a NumPy array"):
        session.segment([[1]], memory="1GB")
    with pytest.raises(ValueError, match="segment"):
        session.segment(np.zeros((0, 4, 3), np.uint8), memory="1GB")
    for bad in (0, -3, 1.5):
        with pytest.raises(ValueError, match=f"segment: band is an integer >= 1, got {bad}"):
            session.segment(picture(9, 9), band=bad)

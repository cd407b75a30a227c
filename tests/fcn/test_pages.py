"""Reports as HTML: whole in themselves, with pictures that can be read, and nothing unescaped."""

import base64
import html.parser
import io
import re
from dataclasses import replace

import numpy as np
import pytest

from fcn import cli, models, pages, parity, verify_page
from fcn.graph import Graph, Model, Node
from fcn.session import Session

Image = pytest.importorskip("PIL.Image")
NAME = '<script>alert("x")</script>&'
OPEN = ("meta", "img", "br")  # elements that have no end


class Strict(html.parser.HTMLParser):
    """Keeps the elements, the text and the pictures, and wants every element closed."""

    def __init__(self, data):
        super().__init__()
        self.open, self.seen, self.text, self.images = [], [], "", []
        self.feed(data.decode())
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag == "img":
            kind, _, data = dict(attrs)["src"].partition(",")
            assert kind == "data:image/png;base64"
            with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as image:
                self.images.append(np.array(image))
        if tag not in OPEN:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def step():
    node = Node(NAME, "add", ("input", "input"))
    graph = Graph("g", 2, (node,), NAME)
    return Session(Model(graph, {})).step(node, graph.shapes((1, 40, 30, 2)))


def layer(error, where=(0, 3, 29, 1), bound=1.0):
    """A layer that is wrong in one place."""
    reference = np.ones((1, 40, 30, 2), np.float32)
    ours = reference.copy()
    ours[where] += error
    return parity.judge_layer(ours, reference, np.full(ours.shape, bound), step())


def report(*layers):
    exact = np.zeros((1, 40, 30, 2))
    exact[..., 0] = 1
    exact[0, 0, :5, 0] = 1e-3  # undecidable where an error is as large
    ours, reference = exact.copy(), exact.copy()
    ours[0, 0, :2, 1] = 2e-3  # another label; the reference is as far off, on the other side
    reference[0, 0, :2, 1] = -2e-3
    whole = parity.end_to_end(ours, reference, exact)
    return parity.Report("net", (1, 40, 30, 3), layers, whole, "Keras")


def test_what_a_layer_keeps_around_its_worst_pixel():
    found = layer(0.5)
    assert found.worst == (0, 3, 29, 1)
    assert found.corner == (0, 17)
    assert found.around.shape == (16, 13)  # cut at the top and the right
    assert found.around[3, 12] == 0.5 and found.around.sum() == 0.5


def test_the_map_of_labels_counts_as_the_figures_do():
    whole = report().whole
    counts = np.bincount(whole.map.ravel(), minlength=4)
    assert counts.tolist() == [1195, 3, 2, 0]
    assert counts[parity.UNDECIDABLE] + counts[parity.UNDECIDED] == whole.undecidable == 5
    assert counts[parity.SAME] + counts[parity.UNDECIDABLE] == whole.agreeing


def test_a_page_is_whole_and_escaped():
    fine = replace(layer(0.25), tensor="tensor<b>", kernel="k&k")
    page = verify_page.render([report(fine)])
    assert b"http" not in page and b"<script" not in page
    parsed = Strict(page)
    assert {tag for tag, _ in parsed.seen}.isdisjoint({"script", "link", "b", "iframe"})
    words = [
        NAME, "tensor<b>", "k&k", "PASS: all 1 layers", "Ours against Keras float32",
        "undecidable, same label: 3", "decidable, other label: 0", "within", "0.25",
    ]  # fmt: skip
    assert [word for word in words if word not in parsed.text] == []
    labels, heat = parsed.images[-2:]
    assert labels.shape == (40, 30, 3)
    assert len(np.unique(labels.reshape(-1, 3), axis=0)) == 3
    assert heat.shape == (16, 13, 3)
    assert heat[3, 12].tolist() == [8, 48, 107] and heat[0, 0].tolist() == [255, 255, 255]


def test_pixels_with_another_label_are_red():
    found = report()
    codes = found.whole.map.copy()
    codes[0, 20, 10] = parity.DIFFERENT
    worse = replace(found, whole=replace(found.whole, differing=1, map=codes))
    page = Strict(verify_page.render([worse]))
    assert "FAIL: 1 decidable pixels have another label" in page.text
    assert "decidable, other label: 1" in page.text
    red = (page.images[-1] == [214, 39, 40]).all(axis=-1)
    assert np.argwhere(red).tolist() == [[20, 10]]


def test_failing_layers_can_be_read():
    beyond, broken = layer(3.0), layer(np.nan, (0, 39, 0, 0))
    exact = layer(0)
    page = Strict(verify_page.render([report(layer(0.1), beyond, broken, exact)]))
    assert page.text.count("BROKEN") == 2
    assert "differs by 3 times its rounding bound at (0, 3, 29, 1)" in page.text
    assert sum(attrs.get("class") == "bad" for tag, attrs in page.seen if tag == "tr") == 2
    red, black = page.images[-2:]  # nothing is drawn of what has no error
    assert red[3, 12].tolist() == [214, 39, 40]
    assert black[12, 0].tolist() == [0, 0, 0] and black[0, 0].tolist() == [255, 255, 255]


def test_several_comparisons_on_one_page():
    page = Strict(verify_page.render([report(layer(0.1)), replace(report(), peer="Other")]))
    assert [t for t, _ in page.seen].count("table") == 2
    assert "Ours against Keras" in page.text and "Ours against Other" in page.text


def test_pictures_are_those_that_were_given():
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    parsed = Strict(pages.page("t", [pages.picture(pixels, "a < b", 3)]))
    np.testing.assert_array_equal(parsed.images[0], pixels)
    assert dict(parsed.seen)["img"] == dict(parsed.seen)["img"] | {"width": "12", "alt": "a < b"}


def test_the_command_writes_a_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(parity, "verify", lambda *_: report(layer(2.0)))
    path = tmp_path / "r.html"
    assert cli.main(["verify", "two_conv:2", "--size", "8x8", "--html", str(path)]) == 1
    assert "BROKEN" in Strict(path.read_bytes()).text
    gone = str(tmp_path / "none" / "r.html")
    assert cli.main(["verify", "two_conv:2", "--size", "8x8", "--html", gone]) == 2
    assert "choose a folder that exists" in capsys.readouterr().err


# --- profiles -----------------------------------------------------------------------------------


def test_profile_page(tmp_path, capsys):
    path = tmp_path / "p.html"
    argv = ["profile", "fcn8s:3:width=2", "--size", "40x50", "--runs", "1", "--threads", "1"]
    assert cli.main([*argv, "--html", str(path)]) == 0
    page = Strict(path.read_bytes())
    assert b"http" not in path.read_bytes().replace(b"http://www.w3.org/2000/svg", b"")
    table = [line for line in capsys.readouterr().out.splitlines() if re.search(r"\d%", line)]
    names = [line.split()[0] for line in table]
    assert names[0] == "pool1" or names[0] == "conv1_1"
    assert len(names) == len(set(names)) > 20
    assert all(name in page.text for name in names)
    assert [tag for tag, _ in page.seen].count("rect") == 2 * len(names)


def test_names_in_a_picture_are_escaped():
    node = Node(NAME, "conv2d", ("input",), {"filters": 2, "kernel": 1})
    graph = Graph(NAME, 3, (node,), NAME)
    model = Model(graph, models.initialise(graph, 0))
    measured = Session(model).profile(np.zeros((8, 8), np.uint8), 1)
    assert NAME in Strict(measured.html()).text
    assert "<script" not in measured.svg()

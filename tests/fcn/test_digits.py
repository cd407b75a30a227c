"""Scenes of digits: the same each time, from digits that no other split shows, labelled rightly."""

import sys

import numpy as np
import pytest

from fcn import digits


@pytest.fixture(scope="module")
def gallery():
    return list(digits.scenes("test", 24))


def test_splits_are_disjoint_and_complete():
    parts = [set(digits.sources(split)[0].tolist()) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [1348, 179, 270]
    assert set.union(*parts) == set(range(1797))


@pytest.mark.parametrize("split", digits.SPLITS)
def test_every_split_holds_every_digit(split):
    index, density, digit = digits.sources(split)
    assert density.shape == (len(index), 8, 8)
    assert density.dtype == np.float32
    assert (density.min(), density.max()) == (0, 1)
    assert np.bincount(digit, minlength=10).min() > len(digit) / 20


def test_sources_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    index, density, digit = digits.sources("test")
    data = load_digits()
    np.testing.assert_array_equal(density * 16, data.images[index])
    np.testing.assert_array_equal(digit, data.target[index])


@pytest.mark.parametrize("size", [(128, 128), (97, 150), (1, 1), (5, 300)], ids=str)
def test_a_scene_has_the_size_and_types_asked_for(size):
    image, labels = digits.scene("val", 3, size)
    assert (image.shape, image.dtype) == ((*size, 3), np.uint8)
    assert (labels.shape, labels.dtype) == (size, np.uint8)


def test_the_same_arguments_give_the_same_scene():
    first, again = digits.scene("test", 5), digits.scene("test", 5)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    for other in (("test", 6), ("train", 5), ("test", 5, (128, 129))):
        assert (digits.scene(*other)[1][:128, :128] != first[1]).any()


def test_scenes_are_numbered():
    got = list(digits.scenes("val", 3, (40, 50), first=2))
    assert len(got) == 3
    for i, (image, labels) in enumerate(got):
        expected = digits.scene("val", 2 + i, (40, 50))
        np.testing.assert_array_equal(image, expected[0])
        np.testing.assert_array_equal(labels, expected[1])


def test_every_class_occurs_and_paper_prevails(gallery):
    labels = np.stack([labels for _, labels in gallery])
    share = np.bincount(labels.ravel(), minlength=11) / labels.size
    assert len(share) == len(digits.CLASSES) == 11
    assert 0.55 < share[0] < 0.8
    assert share[1:].min() > 0.01


def test_ink_stands_out_from_paper(gallery):
    for image, labels in gallery:
        inks = [image[labels == k].mean(0) for k in range(1, 11) if (labels == k).sum() > 50]
        paper = image[labels == 0].mean(0)
        assert all(np.abs(ink - paper).max() > 25 for ink in inks)


def test_one_digit_is_where_its_labels_are(monkeypatch):
    """A scene of one full square of ink: labels and colour must agree with its geometry."""
    square = np.ones((1, 8, 8), np.float32)
    monkeypatch.setattr(digits, "sources", lambda _: (np.zeros(1), square, np.array([7])))
    image, labels = digits.scene("train", 1, (60, 60))
    rows, cols = np.nonzero(labels)
    assert set(labels[rows, cols]) == {8}
    spread = image[labels == 8].std(0).max(), image[labels == 0].std(0).max()
    between = np.abs(image[labels == 8].mean(0) - image[labels == 0].mean(0)).max()
    assert between > 2 * max(spread)


def test_digits_overlap(gallery):
    """Ink of one class beside ink of another, with no paper between, in many scenes."""
    touching = []
    for _, labels in gallery:
        left, right = labels[:, :-1], labels[:, 1:]
        touching.append(((left != right) & (left > 0) & (right > 0)).sum())
    assert np.mean(np.array(touching) > 10) > 0.4


def test_enlarging_keeps_the_cells_and_straight_lines():
    rng = np.random.default_rng(0)
    density = rng.integers(0, 17, (8, 8)).astype(np.float32)
    fine, step, edge = digits.enlarge(density), digits.STEPS, digits.MARGIN * digits.STEPS
    np.testing.assert_array_equal(fine[edge:-edge:step, edge:-edge:step], density)
    assert not fine[[0, -1]].any()
    assert not fine[:, [0, -1]].any()
    ramp = digits.enlarge(np.add.outer(np.arange(8), np.arange(8)).astype(np.float32))
    inner = slice(edge + step, -edge - step)  # two cells from the border the ramp has no end
    line = 1 + np.arange(6 * step - step + 1) / step
    np.testing.assert_allclose(ramp[inner, inner], np.add.outer(line, line), rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("all", 0), "unknown split 'all'; there are train, val, test"),
        (("test", -1), "index=-1"),
        (("test", 0, (0, 5)), r"size=\(0, 5\)"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        digits.scene(*arguments)


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    digits.sources.cache_clear()
    with pytest.raises(
        ImportError,
        match=r"scenes of digits needs scikit-learn: pip install "
        r"'fastconv\[demo\]'",
    ):
        digits.scene("test", 0)

"""The demonstration: pictures that match the figures, and the quality that is promised."""

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("sklearn")

from fcn import demo, digits, export, models  # noqa: E402
from fcn.graph import Model  # noqa: E402
from fcn.metrics import ConfusionMatrix  # noqa: E402
from fcn.session import Session  # noqa: E402

NAMES = {"digits_fcn8s", "digits_two_conv"}


@pytest.fixture
def untrained(monkeypatch):
    """Both models by name, with random weights, so that this file tests no training."""
    graph = models.two_conv(len(digits.CLASSES))
    made = {
        name: Model(graph, models.initialise(graph, i)) for i, name in enumerate(models.PRETRAINED)
    }
    monkeypatch.setattr(models, "pretrained", made.__getitem__)
    return made


def test_pictures_and_figures(untrained, tmp_path):
    out = tmp_path / "new" / "folder"
    results = demo.run(out, count=3)
    assert {r.name for r in results} == NAMES
    scenes = list(digits.scenes("test", 3))
    for result in results:
        session = Session(untrained[result.name])
        matrix = ConfusionMatrix(11)
        for i, (image, truth) in enumerate(scenes):
            labels = session.segment(image)
            matrix.update(truth, labels)
            with Image.open(out / f"scene_{i:02d}_{result.name}.png") as mask:
                assert mask.mode == "P"
                np.testing.assert_array_equal(np.array(mask), labels)
            with Image.open(out / f"scene_{i:02d}_{result.name}_overlay.png") as overlay:
                np.testing.assert_array_equal(np.array(overlay), export.overlay(image, labels))
        np.testing.assert_array_equal(result.matrix.counts, matrix.counts)
        assert result.milliseconds > 0
        assert result.parameters == untrained[result.name].graph.parameter_count
    for i, (image, truth) in enumerate(scenes):
        with Image.open(out / f"scene_{i:02d}.png") as picture:
            np.testing.assert_array_equal(np.array(picture), image)
        with Image.open(out / f"scene_{i:02d}_truth.png") as mask:
            np.testing.assert_array_equal(np.array(mask), truth)
    with Image.open(out / "contact_sheet.png") as sheet:
        assert sheet.size[0] > 4 * 128
        assert sheet.size[1] > 3 * 128
    assert len(list(out.iterdir())) == 3 * 6 + 1


def test_no_more_pictures_than_needed(untrained, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "PICTURES", 1)
    monkeypatch.setattr(demo, "ROWS", 1)
    results = demo.run(tmp_path, count=2)
    assert results[0].matrix.counts.sum() == 2 * 128 * 128
    assert len(list(tmp_path.iterdir())) == 6 + 1


def test_table_shows_both_models_and_every_class(untrained, tmp_path):
    results = demo.run(tmp_path, count=1)
    text = "\n".join(demo.table(results))
    assert all(name in text for name in (*NAMES, *digits.CLASSES, "mean IoU", "pixel accuracy"))
    assert f"{results[0].matrix.mean_iou:.4f}" in text
    assert f"{results[1].matrix.f1[0]:.4f}" in text
    assert len({len(line) for line in text.splitlines() if line.startswith("digits_")}) == 1


def test_progress_wraps_every_scene(untrained, tmp_path):
    seen = []

    def progress(items, caption):
        for item in items:
            seen.append(caption)
            yield item

    demo.run(tmp_path, count=2, progress=progress)
    assert seen == [name for name in models.PRETRAINED for _ in range(2)]


def test_bad_folder_and_count(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="making the folder"):
        demo.run(tmp_path / "file")
    with pytest.raises(ValueError, match="number of scenes must be at least 1, got 0"):
        demo.run(tmp_path, count=0)


def test_depth_matters_on_digits_never_seen():
    """The promise of the shipped models, on scenes composed of the test split."""
    scenes = list(digits.scenes("test", demo.SCENES))
    deep, shallow = (
        demo.evaluate(name, models.pretrained(name), scenes).matrix for name in models.PRETRAINED
    )
    assert deep.mean_iou >= 0.85
    assert deep.mean_iou > shallow.mean_iou + 0.2

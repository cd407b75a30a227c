"""The training loop: its schedule, its colours, and a short run that leaves a usable file."""

import io

import numpy as np
import pytest

from fcn import digits, native, train


def test_the_rate_rises_and_falls_once():
    rates = [train.one_cycle(done) for done in np.linspace(0, 1, 101)]
    assert rates[0] == pytest.approx(0.04)
    assert rates[10] == pytest.approx(1)
    assert rates[100] == pytest.approx(0.001)
    assert (np.diff(rates[:11]) > 0).all()
    assert (np.diff(rates[10:]) < 0).all()


def test_class_weights_are_inverse_fourth_roots():
    labels = np.repeat(np.arange(11, dtype=np.uint8), [16 * 16 * 16, *[256] * 10])
    weights = train.class_weights(labels)
    np.testing.assert_allclose(weights[1:] / weights[0], 2)
    assert weights.mean() == pytest.approx(1)


def test_recolouring_keeps_what_is_where():
    images = np.stack([image for image, _ in digits.scenes("train", 8, (20, 20))])
    mixed = train.recolour(np.random.default_rng(0), images)
    assert (mixed.shape, mixed.dtype) == (images.shape, np.uint8)
    kinds = set()
    for before, after in zip(images, mixed, strict=True):
        either = [before, 255 - before]
        match = [
            (inverted, order)
            for inverted, version in enumerate(either)
            for order in np.ndindex(3, 3, 3)
            if len(set(order)) == 3 and np.array_equal(version[..., list(order)], after)
        ]
        assert len(match) == 1
        kinds.add(match[0])
    assert len(kinds) > 3


def test_unknown_architectures_are_named(tmp_path):
    with pytest.raises(ValueError, match="unknown architecture 'vgg'"):
        train.train("vgg", tmp_path / "m.npz")


@pytest.mark.parametrize("wrong", [{"minutes": 0}, {"scenes": -1}, {"rate": 0.0}], ids=str)
def test_numbers_must_be_positive(wrong, tmp_path):
    (key,) = wrong
    with pytest.raises(ValueError, match=f"train: every number must be above 0: .*{key}="):
        train.train("fcn8s", tmp_path / "m.npz", **wrong)
    assert not list(tmp_path.iterdir())


def test_an_unwritable_folder_is_known_at_once(tmp_path):
    with pytest.raises(OSError, match=r"train: cannot write into .*none; make this folder"):
        train.train("two_conv", tmp_path / "none" / "m.npz")


@pytest.mark.slow
@pytest.mark.tensorflow
def test_a_short_run_leaves_its_best_weights(tmp_path):
    log = io.StringIO()
    model = train.train(
        "fcn8s", tmp_path / "m.npz", seed=4, minutes=0.1, scenes=32, held_out=4, stream=log
    )
    written = native.load(tmp_path / "m.npz")
    assert written.meta == model.meta
    assert model.meta["seed"] == 4
    assert "fcn train fcn8s --seed 4 --minutes 0.1" in model.meta["command"]
    assert model.meta["validation_iou"][-1] == max(model.meta["validation_iou"])
    assert "validation IoU" in log.getvalue()

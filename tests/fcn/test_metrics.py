"""Metrics against scikit-learn and against literals worked out by hand."""

import math

import numpy as np
import pytest

from fcn.metrics import ConfusionMatrix


def random_labels(seed, num_classes, shape=(3, 17, 11)):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, num_classes, shape)
    noise = rng.integers(0, num_classes, shape)
    return truth, np.where(rng.random(shape) < 0.7, truth, noise)


def test_literal_two_by_two():
    """truth 0 0 1 1 and prediction 0 1 1 1: IoU 1/2 and 2/3, F1 2/3 and 4/5."""
    matrix = ConfusionMatrix(2).update([[0, 0], [1, 1]], [[0, 1], [1, 1]])
    np.testing.assert_array_equal(matrix.counts, [[1, 1], [0, 2]])
    np.testing.assert_allclose(matrix.iou, [1 / 2, 2 / 3], rtol=1e-15)
    np.testing.assert_allclose(matrix.f1, [2 / 3, 4 / 5], rtol=1e-15)
    assert matrix.pixel_accuracy == 0.75
    assert matrix.mean_iou == pytest.approx(7 / 12, rel=1e-15)
    assert matrix.mean_f1 == pytest.approx(11 / 15, rel=1e-15)
    assert matrix.mean_accuracy == 0.75
    assert matrix.frequency_weighted_iou == pytest.approx(7 / 12, rel=1e-15)
    assert matrix.absent == 0


def test_frequency_weights_are_the_true_shares():
    """Three pixels of class 0 (IoU 2/3), one of class 1 (IoU 1/2)."""
    matrix = ConfusionMatrix(2).update([0, 0, 0, 1], [0, 0, 1, 1])
    assert matrix.frequency_weighted_iou == pytest.approx(3 / 4 * 2 / 3 + 1 / 4 * 1 / 2, rel=1e-15)


@pytest.mark.parametrize("num_classes", [2, 5, 21])
def test_against_scikit_learn(num_classes):
    oracle = pytest.importorskip("sklearn.metrics")
    truth, predicted = random_labels(num_classes, num_classes)
    matrix = ConfusionMatrix(num_classes)
    for t, p in zip(truth, predicted, strict=True):
        matrix.update(t, p)
    flat, labels = (truth.ravel(), predicted.ravel()), range(num_classes)
    np.testing.assert_array_equal(matrix.counts, oracle.confusion_matrix(*flat, labels=labels))
    jaccard = oracle.jaccard_score(*flat, labels=labels, average=None)
    np.testing.assert_allclose(matrix.iou, jaccard, rtol=1e-14)
    f1 = oracle.f1_score(*flat, labels=labels, average=None)
    np.testing.assert_allclose(matrix.f1, f1, rtol=1e-14)
    assert matrix.pixel_accuracy == pytest.approx(oracle.accuracy_score(*flat), rel=1e-14)
    balanced = oracle.balanced_accuracy_score(*flat)
    assert matrix.mean_accuracy == pytest.approx(balanced, rel=1e-14)
    weighted = oracle.jaccard_score(*flat, labels=labels, average="weighted")
    assert matrix.frequency_weighted_iou == pytest.approx(weighted, rel=1e-14)


def test_absent_classes_are_nan_and_left_out_of_means():
    matrix = ConfusionMatrix(4).update([0, 0, 2], [0, 2, 2])
    np.testing.assert_array_equal(np.isnan(matrix.iou), [False, True, False, True])
    np.testing.assert_array_equal(np.isnan(matrix.f1), [False, True, False, True])
    assert matrix.mean_iou == 0.5
    assert matrix.absent == 2


def test_class_predicted_but_never_true_scores_zero():
    matrix = ConfusionMatrix(2).update([0, 0], [0, 1])
    np.testing.assert_array_equal(matrix.iou, [0.5, 0.0])
    assert matrix.absent == 0
    assert matrix.frequency_weighted_iou == 0.5
    assert matrix.mean_accuracy == 0.5


def test_ignored_pixels_do_not_count_whatever_was_predicted():
    """The prediction under an ignored pixel may even be outside the classes."""
    truth = np.array([0, 255, 1, 255], np.uint8)
    predicted = np.array([0, 1, 1, 255], np.uint8)
    matrix = ConfusionMatrix(2).update(truth, predicted)
    np.testing.assert_array_equal(matrix.counts, [[1, 0], [0, 1]])


def test_small_label_types_do_not_overflow():
    """200 * 201 + 200 does not fit in uint8."""
    matrix = ConfusionMatrix(201).update(np.full(3, 200, np.uint8), np.full(3, 200, np.uint8))
    assert matrix.counts[200, 200] == 3 == matrix.counts.sum()


def test_empty_matrix_is_nan_everywhere():
    matrix = ConfusionMatrix(3).update(np.zeros((0, 4), int), np.zeros((0, 4), int))
    figures = (matrix.mean_iou, matrix.mean_f1, matrix.pixel_accuracy, matrix.mean_accuracy)
    assert all(math.isnan(value) for value in (*figures, matrix.frequency_weighted_iou))
    assert matrix.absent == 3


def test_sum_equals_one_matrix_over_both():
    truth, predicted = random_labels(7, 5)
    parts = [ConfusionMatrix(5).update(truth[i], predicted[i]) for i in range(3)]
    whole = ConfusionMatrix(5).update(truth, predicted)
    np.testing.assert_array_equal((parts[0] + parts[1] + parts[2]).counts, whole.counts)
    with pytest.raises(ValueError, match="5 and 6 classes"):
        _ = whole + ConfusionMatrix(6)
    with pytest.raises(TypeError):
        _ = whole + 1


@pytest.mark.parametrize(
    ("truth", "predicted", "error", "message"),
    [
        ([0, 1], [0, 1, 1], ValueError, r"truth has shape \(2,\) but predicted has \(3,\)"),
        ([0.0, 1.0], [0, 1], TypeError, "truth must hold integer labels, got dtype float64"),
        ([0, 1], [True, False], TypeError, "predicted must hold integer labels, got dtype bool"),
        ([0, 3], [0, 1], ValueError, r"truth has 1 pixels outside 0 \.\. 2 \(and 255, ignored\)"),
        ([0, 1], [0, -1], ValueError, r"predicted has 1 pixels outside 0 \.\. 2, the first is -1"),
    ],
)
def test_bad_labels_are_refused_and_nothing_is_counted(truth, predicted, error, message):
    matrix = ConfusionMatrix(3)
    with pytest.raises(error, match=message):
        matrix.update(truth, predicted)
    assert matrix.counts.sum() == 0


def test_bad_parameters():
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        ConfusionMatrix(0)
    with pytest.raises(ValueError, match="ignore_label 255 is one of the 300 classes"):
        ConfusionMatrix(300)

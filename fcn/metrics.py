"""Segmentation metrics from one confusion matrix, accumulated over a whole data set.

Ratios are taken once, at the end: the mean of per-image IoUs is a different (and noisier) number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ConfusionMatrix"]

Floats = npt.NDArray[np.float64]


class ConfusionMatrix:
    """Counts of (true class, predicted class) pairs, updated image by image.

    Parameters
    ----------
    num_classes : int
        Classes are 0 .. num_classes - 1, the background included.
    ignore_label : int or None
        Pixels whose *truth* is this label are not counted (255 is "void" in PASCAL VOC).

    Attributes
    ----------
    counts : ndarray, (num_classes, num_classes), int64
        Row: true class; column: predicted class.

    Notes
    -----
    With TP, FP and FN of a class: IoU = TP / (TP + FP + FN), the Jaccard index, and
    F1 = 2 TP / (2 TP + FP + FN), the Dice coefficient. A class that occurs neither in the truth nor
    in the prediction has no IoU: it is NaN, left out of every mean, and counted in `absent`.
    The four summary figures are those of Long, Shelhamer and Darrell (2015), section 5.
    """

    def __init__(self, num_classes: int, ignore_label: int | None = 255) -> None:
        if num_classes < 1:
            raise ValueError(f"ConfusionMatrix: num_classes must be at least 1, got {num_classes}")
        if ignore_label is not None and 0 <= ignore_label < num_classes:
            raise ValueError(
                f"ConfusionMatrix: ignore_label {ignore_label} is one of the {num_classes} classes;"
                " give a label outside them, or None to count every pixel"
            )
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        self.counts: npt.NDArray[np.int64] = np.zeros((num_classes, num_classes), np.int64)

    def update(self, truth: npt.ArrayLike, predicted: npt.ArrayLike) -> ConfusionMatrix:
        """Count the pixels of one image, or of a batch, and return self.

        Parameters
        ----------
        truth, predicted : array_like of integers, same shape
            Labels per pixel.

        Raises
        ------
        ValueError, TypeError
            For different shapes, labels that are not integers, or labels outside the classes;
            nothing is counted then.
        """
        t, p = _labels(truth, "truth"), _labels(predicted, "predicted")
        if t.shape != p.shape:
            raise ValueError(
                f"ConfusionMatrix.update: truth has shape {t.shape} but predicted has {p.shape}"
            )
        if self.ignore_label is not None:
            counted = t != self.ignore_label
            t, p = t[counted], p[counted]
        for labels, name in ((t, "truth"), (p, "predicted")):
            self._check_range(labels, name)
        pairs = t.astype(np.int64).ravel() * self.num_classes + p.astype(np.int64).ravel()
        self.counts += np.bincount(pairs, minlength=self.num_classes**2).reshape(self.counts.shape)
        return self

    def __add__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        """The matrix of both data sets together (for workers that count apart)."""
        if not isinstance(other, ConfusionMatrix):
            return NotImplemented
        if (self.num_classes, self.ignore_label) != (other.num_classes, other.ignore_label):
            raise ValueError(
                "ConfusionMatrix: cannot add matrices of "
                f"{self.num_classes} and {other.num_classes} classes "
                f"(ignore_label {self.ignore_label} and {other.ignore_label})"
            )
        total = ConfusionMatrix(self.num_classes, self.ignore_label)
        total.counts = self.counts + other.counts
        return total

    @property
    def iou(self) -> Floats:
        """(num_classes,) intersection over union; NaN for absent classes."""
        return _ratio(self._hits, self._true + self._predicted - self._hits)

    @property
    def f1(self) -> Floats:
        """(num_classes,) F1 (Dice); NaN for absent classes."""
        return _ratio(2 * self._hits, self._true + self._predicted)

    @property
    def mean_iou(self) -> float:
        """Mean IoU over the classes that occur; NaN when no pixel was counted."""
        return _mean(self.iou)

    @property
    def mean_f1(self) -> float:
        """Mean F1 over the classes that occur; NaN when no pixel was counted."""
        return _mean(self.f1)

    @property
    def pixel_accuracy(self) -> float:
        """Share of counted pixels whose label is right; NaN when no pixel was counted."""
        return float(_ratio(self._hits.sum(), self.counts.sum()))

    @property
    def mean_accuracy(self) -> float:
        """Mean of the recall of each class, over the classes that occur in the truth."""
        return _mean(_ratio(self._hits, self._true))

    @property
    def frequency_weighted_iou(self) -> float:
        """sum_k share_k * IoU_k, share_k the share of true pixels that have class k."""
        shares = _ratio(self._true, self.counts.sum())
        present = self._true > 0
        return float((shares * self.iou)[present].sum()) if present.any() else float("nan")

    @property
    def absent(self) -> int:
        """Number of classes in neither truth nor prediction (their IoU and F1 are NaN)."""
        return int(np.isnan(self.iou).sum())

    @property
    def _hits(self) -> npt.NDArray[np.int64]:
        return np.diagonal(self.counts)

    @property
    def _true(self) -> npt.NDArray[np.int64]:
        return np.asarray(self.counts.sum(axis=1))

    @property
    def _predicted(self) -> npt.NDArray[np.int64]:
        return np.asarray(self.counts.sum(axis=0))

    def _check_range(self, labels: npt.NDArray[Any], name: str) -> None:
        wrong = labels[(labels < 0) | (labels >= self.num_classes)]
        if wrong.size:
            ignored = "" if self.ignore_label is None else f" (and {self.ignore_label}, ignored)"
            allowed = f"0 .. {self.num_classes - 1}" + (ignored if name == "truth" else "")
            raise ValueError(
                f"ConfusionMatrix.update: {name} has {wrong.size} pixels outside {allowed}, "
                f"the first is {wrong[0]}"
            )


def _labels(labels: npt.ArrayLike, name: str) -> npt.NDArray[Any]:
    array = np.asarray(labels)
    if array.dtype.kind not in "ui":
        raise TypeError(
            f"ConfusionMatrix.update: {name} must hold integer labels, got dtype {array.dtype}"
        )
    return array


def _ratio(part: npt.ArrayLike, whole: npt.ArrayLike) -> Floats:
    """Element by element; 0 / 0 is NaN by intent, so it does not warn."""
    with np.errstate(invalid="ignore"):
        ratio: Floats = np.asarray(part, np.float64) / np.asarray(whole, np.float64)
    return ratio


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")

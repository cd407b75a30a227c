"""`fcn demo`: read held-out scenes of handwriting with both shipped models, without TensorFlow."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fcn import digits, export, models
from fcn.graph import Model
from fcn.metrics import ConfusionMatrix
from fcn.session import Session

__all__ = ["Result", "evaluate", "run"]

Image8 = npt.NDArray[np.uint8]
Scene = tuple[Image8, Image8]
Progress = Callable[[Sequence[Any], str], Iterable[Any]]

SCENES = 120  # measured; the figures hardly change beyond that
PICTURES = 12  # of them are written as files
ROWS = 6  # of them are on the contact sheet


@dataclass(frozen=True)
class Result:
    """One model on the scenes.

    Attributes
    ----------
    name : str
    parameters : int
    labels : list of ndarrays, (h, w), uint8
    matrix : ConfusionMatrix
        Over all scenes.
    milliseconds : float
        Median time of one scene, from picture to labels, compilation left out.
    """

    name: str
    parameters: int
    labels: list[Image8]
    matrix: ConfusionMatrix
    milliseconds: float


def evaluate(
    name: str,
    model: Model,
    scenes: Sequence[Scene],
    progress: Progress = lambda items, _: items,
) -> Result:
    """Segment scenes one by one and compare with the truth.

    Parameters
    ----------
    name : str
    model : Model
    scenes : sequence of (image, labels)
    progress : function of (items, caption)
        Wraps the loop; the default does nothing.
    """
    session = Session(model)
    session.segment(scenes[0][0])  # compiles the kernels and plans this size
    matrix = ConfusionMatrix(len(digits.CLASSES))
    labels, seconds = [], []
    for image, truth in progress(scenes, name):
        start = time.perf_counter()
        labels.append(session.segment(image))
        seconds.append(time.perf_counter() - start)
        matrix.update(truth, labels[-1])
    median = 1e3 * statistics.median(seconds)
    return Result(name, model.graph.parameter_count, labels, matrix, median)


def run(
    out: str | os.PathLike[str],
    *,
    count: int = SCENES,
    progress: Progress = lambda items, _: items,
) -> list[Result]:
    """Segment held-out scenes, write pictures, and return the figures.

    Parameters
    ----------
    out : path
        Folder for ``scene_00.png``, its truth, masks (indexed PNG) and overlays, and
        ``contact_sheet.png``. Created if needed.
    count : int
        Scenes to measure; the first few are written as pictures.
    progress : function of (items, caption)

    Returns
    -------
    list of Result
        One per shipped model.

    Raises
    ------
    OSError
        If the folder cannot be written.
    ImportError
        Without Pillow or scikit-learn (extra `demo`).
    """
    if count < 1:
        raise ValueError(f"demo: the number of scenes must be at least 1, got {count}")
    folder = export.make_folder(out)
    scenes = list(digits.scenes("test", count))
    results = [
        evaluate(name, models.pretrained(name), scenes, progress) for name in models.PRETRAINED
    ]
    for i, (image, truth) in enumerate(scenes[:PICTURES]):
        stem = f"scene_{i:02d}"
        export.save_png(image, folder / f"{stem}.png")
        export.save_mask(truth, folder / f"{stem}_truth.png")
        for result in results:
            export.save_mask(result.labels[i], folder / f"{stem}_{result.name}.png")
            overlay = export.overlay(image, result.labels[i])
            export.save_png(overlay, folder / f"{stem}_{result.name}_overlay.png")
    rows = [
        [image, export.paint(truth), *(export.paint(result.labels[i]) for result in results)]
        for i, (image, truth) in enumerate(scenes[:ROWS])
    ]
    captions = ["scene", "truth", *(result.name for result in results)]
    export.save_png(export.contact_sheet(rows, captions), folder / "contact_sheet.png")
    return results


def table(results: Sequence[Result]) -> Iterator[str]:
    """The figures as lines of text."""
    yield (
        f"{'model':<18}{'parameters':>11}{'pixel accuracy':>16}{'mean IoU':>10}{'mean F1':>9}"
        f"{'ms / scene':>12}"
    )
    for r in results:
        yield (
            f"{r.name:<18}{r.parameters:>11,}{r.matrix.pixel_accuracy:>16.4f}"
            f"{r.matrix.mean_iou:>10.4f}{r.matrix.mean_f1:>9.4f}{r.milliseconds:>12.2f}"
        )
    yield ""
    yield f"{'F1 per class':<18}" + "".join(f"{r.name:>18}" for r in results)
    for k, name in enumerate(digits.CLASSES):
        yield f"{name:<18}" + "".join(f"{r.matrix.f1[k]:>18.4f}" for r in results)

"""Train the digit models from random weights: what made the files in ``fcn/data``."""

import math
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from fcn import digits, models, native, tf_reference
from fcn.graph import Graph, Model
from fcn.metrics import ConfusionMatrix

Images = NDArray[np.uint8]
SIZE = (128, 128)
LIVES = 3  # epochs that a scene is seen before a new one replaces it
BAR = 30  # characters of the progress bar


def architecture(name: str) -> Graph:
    """The graph trained under a name: ``"fcn8s"`` (narrow, 358,000 weights) or ``"two_conv"``."""
    classes = len(digits.CLASSES)
    if name == "fcn8s":
        return models.fcn8s(classes, width=8, fc=128, fc_kernel=3)
    if name == "two_conv":
        return models.two_conv(classes)
    raise ValueError(f"unknown architecture {name!r}; there are 'fcn8s' and 'two_conv'")


def train(
    name: str,
    out: str | os.PathLike[str],
    *,
    seed: int = 0,
    minutes: float = 20.0,
    scenes: int = 2400,
    batch: int = 8,
    rate: float = 4e-3,
    patience: int = 15,
    held_out: int = 200,
    stream: TextIO | None = None,
) -> Model:
    """Train on scenes of digits and keep the weights with the best validation IoU.

    The file `out` is replaced each time the validation IoU rises, so an interrupted run leaves
    its best weights.

    Parameters
    ----------
    name : {"fcn8s", "two_conv"}
        Which architecture.
    out : path
        Model file to write.
    seed : int
        Of initial weights, order and colours. Weights still differ from run to run, as the number
        of steps depends on the machine's speed.
    minutes : float
        How long; the learning rate rises and falls once in that time.
    scenes, batch : int
        Training scenes of an epoch, and how many of them make a step. A third of the scenes is
        new in each epoch, so that none is learnt by heart.
    rate : float
        Highest learning rate.
    patience : int
        Stop when so many epochs in a row bring no better validation IoU.
    held_out : int
        Validation scenes.
    stream : text file, optional
        Where progress is printed; standard error by default.

    Returns
    -------
    Model
        The best one, as written.

    Raises
    ------
    ValueError
        For an unknown architecture or a number that is not positive.
    ImportError
        Without TensorFlow (extra `tensorflow`) or scikit-learn (extra `demo`).
    OSError
        If `out` cannot be written.
    """
    graph, stream, folder = architecture(name), stream or sys.stderr, Path(out).absolute().parent
    if min(minutes, scenes, batch, rate, patience, held_out) <= 0:
        raise ValueError(
            f"train: every number must be above 0: {minutes=}, {scenes=}, {batch=}, {rate=}, "
            f"{patience=}, {held_out=}"
        )
    if not os.access(folder, os.W_OK):
        raise OSError(f"train: cannot write into {folder}; make this folder or choose another")
    command = f"fcn train {name} --seed {seed} --minutes {minutes:g} --scenes {scenes} "
    facts = _facts(seed, command + f"--batch {batch} --rate {rate:g}")
    best = Model(graph, models.initialise(graph, seed), facts)
    begin, rng = time.monotonic(), np.random.default_rng(seed)
    validation = _compose("val", range(held_out), stream)
    images, labels = _compose("train", range(scenes), stream)
    trainer = tf_reference.Trainer(graph, best.weights, class_weights(labels))
    curve: list[float] = []
    steps, done = 0, 0.0
    while done < 1 and len(curve) - int(np.argmax([0.0, *curve])) < patience:
        for chosen in np.split(rng.permutation(scenes), range(batch, scenes, batch)):
            done = min((time.monotonic() - begin) / (60 * minutes), 1.0)
            loss = trainer.step(
                recolour(rng, images[chosen]), labels[chosen], rate * one_cycle(done)
            )
            steps += 1
            _bar(stream, done, f"step {steps}, loss {loss:.3f}, IoU {max([0.0, *curve]):.4f}")
            if done == 1:
                break
        curve.append(round(mean_iou(trainer, *validation), 4))
        print(f"\repoch {len(curve)}: validation IoU {curve[-1]:.4f}".ljust(BAR + 50), file=stream)
        if curve[-1] == max(curve):
            spent = round((time.monotonic() - begin) / 60, 1)
            news = {"validation_iou": curve.copy(), "steps": steps, "minutes": spent}
            best = Model(graph, trainer.weights(), facts | news)
            native.save(best, out)
        oldest = np.arange(scenes // LIVES) + (len(curve) - 1) % LIVES * (scenes // LIVES)
        first = scenes + (len(curve) - 1) * len(oldest)
        images[oldest], labels[oldest] = _compose(
            "train", range(first, first + len(oldest)), stream
        )
    return best


def one_cycle(done: float, warm_up: float = 0.1) -> float:
    """Factor of the learning rate when the share `done` of training is over.

    It rises from 0.04 to 1 along a cosine and falls to 0.001 along another (Smith and Topin 2018).
    """
    if done < warm_up:
        low, share = 0.04, done / warm_up
    else:
        low, share = 0.001, (1 - done) / (1 - warm_up)
    return low + (1 - low) * (1 - math.cos(math.pi * share)) / 2


def class_weights(labels: Images) -> NDArray[np.float64]:
    """Each class's share of the pixels to the power -1/4, scaled to a mean of 1.

    Full balance (power -1) would make the net paint rare classes beyond their borders.
    """
    share = np.bincount(labels.ravel(), minlength=len(digits.CLASSES)) / labels.size
    weights: NDArray[np.float64] = np.maximum(share, 1e-6) ** -0.25
    return np.asarray(weights / weights.mean())


def recolour(rng: np.random.Generator, images: Images) -> Images:
    """Scenes (n, h, w, 3) with their colour channels permuted and half of them inverted."""
    order = rng.permuted(np.tile(np.arange(3), (len(images), 1)), axis=1)
    mixed = np.take_along_axis(images, order[:, None, None, :], axis=3)
    flip = (rng.random(len(images)) < 0.5).astype(np.uint8) * 255
    return mixed ^ flip[:, None, None, None]


def mean_iou(trainer: tf_reference.Trainer, images: Images, labels: Images) -> float:
    """Mean IoU over all of the scenes together."""
    matrix = ConfusionMatrix(len(digits.CLASSES))
    for first in range(0, len(images), 50):
        part = slice(first, first + 50)
        matrix.update(labels[part], trainer.predict(images[part]))
    return matrix.mean_iou


def _facts(seed: int, command: str) -> dict[str, Any]:
    packages = {name: version(name) for name in ("tensorflow", "numpy", "scikit-learn")}
    return {
        "classes": list(digits.CLASSES),
        "input": "float32 RGB in [0, 1]",
        "command": command,
        "seed": seed,
        "versions": {"python": platform.python_version(), **packages},
    }


def _compose(split: str, numbers: range, stream: TextIO) -> tuple[Images, Images]:
    """The scenes of these numbers, stacked."""
    images = np.empty((len(numbers), *SIZE, 3), np.uint8)
    labels = np.empty((len(numbers), *SIZE), np.uint8)
    for i, number in enumerate(numbers):
        images[i], labels[i] = digits.scene(split, number, SIZE)
        if i % 20 == 0:
            _bar(stream, i / len(numbers), f"composing scenes ({split})")
    print("\r".ljust(BAR + 50), end="", file=stream)
    return images, labels


def _bar(stream: TextIO, done: float, text: str) -> None:
    full = int(done * BAR)
    line = f"\r[{'#' * full}{'.' * (BAR - full)}] {done:4.0%} {text}"
    print(line.ljust(BAR + 50), end="", file=stream, flush=True)

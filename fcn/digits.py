"""Scenes of handwriting for training and demonstration.

The digits are those of the UCI set that scikit-learn bundles: 1,797 digits by 43 writers, 8 x 8
pixels with 0 to 16 ink pixels of the original bitmap in each. A scene scatters some of them over
textured, unevenly lit paper, in sizes, slants, inks and contrasts of their own, each over those
before it. Each digit belongs to one split, so what a network reads in test scenes it never saw.

Labels: 0 is paper, ``d + 1`` is ink of the digit ``d``. A pixel is ink of the last digit whose
interpolated density at the pixel's centre is at least `INK`.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn._extras import require

CLASSES = ("paper", *(f"digit {d}" for d in range(10)))
SPLITS = {"train": 0.75, "val": 0.1, "test": 0.15}  # shares of the source digits
SMALLEST, LARGEST = 44.0, 88.0  # side of a digit's 8 x 8 box in pixels of the scene
INK = 0.4  # density from which on a pixel is ink
PIXELS_PER_DIGIT = 1500  # of the scene's area for each attempt to place a digit
MOST_HIDDEN = 0.06  # share of a digit's ink that later digits may cover

STEPS, MARGIN = 32, 2  # per cell, and cells around the digit, of the grid it is sampled on

Image = NDArray[np.uint8]
Float = NDArray[np.float32]
Points = NDArray[np.float64]


@cache
def sources(split: str) -> tuple[NDArray[np.intp], Float, NDArray[np.uint8]]:
    """The handwritten digits of one split.

    Parameters
    ----------
    split : {"train", "val", "test"}
        Which part; the parts are disjoint and together all digits.

    Returns
    -------
    index : (n,) array
        Position of each digit in scikit-learn's set.
    density : (n, 8, 8) float32 array
        Ink in [0, 1].
    digit : (n,) uint8 array
        What was written, 0 to 9.

    Raises
    ------
    ValueError
        For an unknown split.
    ImportError
        If scikit-learn is not installed.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; there are {', '.join(SPLITS)}")
    load = require("sklearn.datasets", extra="demo", purpose="composing scenes of digits")
    data = load.load_digits()
    order = np.random.default_rng(1998).permutation(len(data.target))
    edges = np.round(np.cumsum([0.0, *SPLITS.values()]) * len(order)).astype(int)
    part = list(SPLITS).index(split)
    index = np.sort(order[edges[part] : edges[part + 1]])
    return index, (data.images[index] / 16).astype(np.float32), data.target[index].astype(np.uint8)


def scene(split: str, index: int, size: tuple[int, int] = (128, 128)) -> tuple[Image, Image]:
    """One scene; the same arguments always give the same one.

    Parameters
    ----------
    split : {"train", "val", "test"}
        Whose digits it shows.
    index : int
        Number of the scene, from 0.
    size : (int, int)
        Height and width in pixels.

    Returns
    -------
    image : (h, w, 3) uint8 array
        The scene.
    labels : (h, w) uint8 array
        Class of each pixel, an index into `CLASSES`.

    Raises
    ------
    ValueError
        For an unknown split, a negative index or an empty size.
    """
    if index < 0 or min(size) < 1:
        raise ValueError(f"a scene needs an index >= 0 and a size >= 1 x 1: {index=}, {size=}")
    _, density, digit = sources(split)
    rng = np.random.default_rng([list(SPLITS).index(split), index, *size])
    dark = rng.random() < 0.25  # light ink on dark paper
    image, labels = _paper(rng, size, dark), np.zeros(size, np.uint8)
    owner = np.full(size, -1)  # which digit's ink is on top
    areas: list[int] = []
    centres: list[Points] = []
    for _ in range(max(1, rng.poisson(size[0] * size[1] / PIXELS_PER_DIGIT))):
        which = rng.integers(len(digit))
        side = np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST)))
        centre = _free_place(rng, size, side, centres)
        box, ink = _write(rng, density[which], size, side, centre)
        colour, strength = _ink(rng, dark), rng.uniform(0.9, 1.0)
        mask = ink >= INK
        left = np.bincount(owner[owner >= 0], minlength=len(areas))
        under = owner[box][mask]
        left -= np.bincount(under[under >= 0], minlength=len(areas))
        if (left < np.multiply(areas, 1 - MOST_HIDDEN)).any():
            continue  # it would bury an earlier digit
        cover = np.clip((ink - INK) * 4 + 0.5, 0, 1)[..., None] * strength
        image[box] += cover * (colour - image[box])
        labels[box][mask] = digit[which] + 1
        owner[box][mask] = len(areas)
        areas.append(int(mask.sum()))
        centres.append(centre)
    image += rng.normal(0, rng.uniform(0.0, 0.04), image.shape).astype(np.float32)
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8), labels


def scenes(
    split: str, count: int, size: tuple[int, int] = (128, 128), first: int = 0
) -> Iterator[tuple[Image, Image]]:
    """The scenes ``first ... first + count - 1`` of a split, one after the other."""
    return (scene(split, index, size) for index in range(first, first + count))


def _paper(rng: np.random.Generator, size: tuple[int, int], dark: bool) -> Float:
    """Paper (h, w, 3): a tint, light from one side, and blotches of several sizes."""
    shade = rng.uniform(0.08, 0.3) if dark else rng.uniform(0.65, 0.95)
    h, w = size
    rows, cols = np.mgrid[0:h, 0:w].astype(np.float32)
    slope = rng.uniform(-0.08, 0.08, 2)
    texture = slope[0] * (2 * rows / h - 1) + slope[1] * (2 * cols / w - 1)
    for period in (4, 16, 48):
        strength = rng.uniform(0.0, 0.05)
        knots = rng.normal(0, strength, (h // period + 2, w // period + 2))
        texture += _stretch(knots, rows[:, 0] / period, cols[0] / period)
    tint = rng.uniform(-0.06, 0.06, 3)
    return np.asarray(shade + tint + texture[..., None], np.float32)


def _ink(rng: np.random.Generator, dark: bool) -> Float:
    """A colour that stands out from the paper."""
    colour = rng.uniform(0.0, 0.5, 3) * rng.uniform(0.2, 1.0)
    return np.asarray(1 - colour if dark else colour, np.float32)


def _free_place(
    rng: np.random.Generator, size: tuple[int, int], side: float, taken: list[Points]
) -> Points:
    """Of a few random places the one farthest from all digits (Mitchell's best candidate)."""
    room = np.maximum(np.array(size) - 0.9 * side, 1)  # digits stick out a little at most
    places: Points = np.array(size) / 2 + rng.uniform(-0.5, 0.5, (6, 2)) * room
    distance = np.linalg.norm(places[:, None] - np.reshape(taken, (-1, 2)), axis=2)
    best: Points = places[np.argmax(distance.min(1, initial=np.inf))]
    return best


def _write(
    rng: np.random.Generator, density: Float, size: tuple[int, int], side: float, centre: Points
) -> tuple[tuple[slice, slice], Float]:
    """One digit's ink density in the box of the scene that it touches."""
    angle, slant = rng.normal(0, np.radians(10)), rng.normal(0, 0.1)
    stretch = np.exp(rng.normal(0, 0.08))  # height against width
    cos, sin = np.cos(angle), np.sin(angle)
    # scene pixels (row, col) per cell of the digit's grid
    forward = side / 8 * np.array([[cos, sin], [-sin, cos]]) @ [[stretch, 0], [slant, 1 / stretch]]
    reach = np.abs(forward).sum(1) * 5  # half a cell for the ink's edge, half for the wobble
    low = np.maximum(np.floor(centre - reach), 0).astype(int)
    high = np.minimum(np.ceil(centre + reach), size).astype(int)
    back = np.linalg.inv(forward)
    down, right = (np.arange(low[a], high[a]) + 0.5 - centre[a] for a in (0, 1))
    row, col = (back[a, 0] * down[:, None] + back[a, 1] * right + 3.5 for a in (0, 1))  # in cells
    (bend, sway), (start, shift) = rng.normal(0, 0.1, 2), rng.uniform(0, 2 * np.pi, 2)
    row, col = row + bend * np.sin(0.8 * col + start), col + sway * np.sin(0.8 * row + shift)
    fine = enlarge(density)
    last = len(fine) - 1
    at = [np.clip(np.round((p + MARGIN) * STEPS), 0, last).astype(np.intp) for p in (row, col)]
    return (slice(low[0], high[0]), slice(low[1], high[1])), fine[at[0], at[1]]


def enlarge(density: Float) -> Float:
    """Density at steps of 1 / `STEPS` cell, by cubic convolution with a = -0.5 (Keys 1981).

    Parameters
    ----------
    density : (8, 8) array
        Values at the centres of the cells; zero outside.

    Returns
    -------
    (n, n) float32 array
        From ``-MARGIN`` to ``7 + MARGIN`` cells, where the outermost values are zero. Equal to
        `density` at the centres and smooth between them.
    """
    rows = _keys()
    values: Float = _product(rows, density @ rows.T)
    return values


@cache
def _keys() -> Float:
    """Weight (n, 8) of each cell at each step."""
    positions = np.arange((7 + 2 * MARGIN) * STEPS + 1) / STEPS - MARGIN
    d = np.abs(positions[:, None] - np.arange(8))
    near, far = (1.5 * d - 2.5) * d * d + 1, ((-0.5 * d + 2.5) * d - 4) * d + 2
    return np.where(d < 1, near, np.where(d < 2, far, 0)).astype(np.float32)


def _stretch(knots: Points, rows: Float, cols: Float) -> Points:
    """Bilinear interpolation of knots at integer positions on the grid rows x cols."""
    hat_rows = np.maximum(1 - np.abs(rows[:, None] - np.arange(knots.shape[0])), 0)
    hat_cols = np.maximum(1 - np.abs(cols[:, None] - np.arange(knots.shape[1])), 0)
    values: Points = _product(hat_rows, knots @ hat_cols.T)
    return values


def _product(a: Any, b: Any) -> Any:
    """``a @ b`` on this thread: waking others for so small a product costs more than it saves."""
    return np.einsum("ik,kj->ij", a, b)

"""Write label maps: indexed PNG masks, overlays and contact sheets. All files appear whole or not.

Colours are those of the PASCAL VOC palette, so class 0 is black and 255 ("void") is cream.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fcn import _extras

__all__ = [
    "contact_sheet",
    "make_folder",
    "overlay",
    "paint",
    "palette",
    "png",
    "save_array",
    "save_mask",
    "save_png",
    "write_whole",
]

Image8 = npt.NDArray[np.uint8]


def palette() -> Image8:
    """(256, 3) RGB colours of PASCAL VOC, one per label.

    Bits 0, 3, 6 ... of the label become the bits of red from the highest down, bits 1, 4, 7 ...
    those of green and 2, 5 ... those of blue (``VOClabelcolormap`` of the VOC development kit).
    """
    labels = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for channel in range(3):
        for level in range(3):
            bit = labels >> (3 * level + channel) & 1
            colours[:, channel] |= (bit << (7 - level)).astype(np.uint8)
    return colours


def paint(labels: npt.ArrayLike) -> Image8:
    """Labels (h, w) as an RGB picture (h, w, 3) in the colours of `palette`."""
    painted: Image8 = palette()[_labels(labels, "paint")]
    return painted


def overlay(image: Image8, labels: npt.ArrayLike, opacity: float = 0.5) -> Image8:
    """The picture with its classes in colour; background (label 0) keeps its own pixels.

    Parameters
    ----------
    image : ndarray, (h, w) gray or (h, w, 3) RGB, uint8
    labels : array_like of integers 0 .. 255, (h, w)
    opacity : float in [0, 1]
        0 shows the picture only, 1 the colour only.

    Returns
    -------
    ndarray, (h, w, 3), uint8

    Raises
    ------
    ValueError
        If the two differ in size or the opacity is out of range.
    """
    flat = _labels(labels, "overlay")
    if image.shape[:2] != flat.shape:
        raise ValueError(f"overlay: the image is {image.shape[:2]} but its labels {flat.shape}")
    if not 0 <= opacity <= 1:
        raise ValueError(f"overlay: opacity must lie in [0, 1], got {opacity}")
    rgb = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
    mixed = np.rint((1 - opacity) * rgb + opacity * palette()[flat]).astype(np.uint8)
    return np.where(flat[..., None] == 0, rgb, mixed)


def contact_sheet(
    rows: Sequence[Sequence[Image8]], captions: Sequence[str], gap: int = 6
) -> Image8:
    """Pictures of one size in a grid on white, with a caption above each column.

    Parameters
    ----------
    rows : sequence of rows of ndarrays, each (h, w, 3) or (h, w), uint8
    captions : one string per column
    gap : int
        White pixels between neighbours and around the sheet.

    Returns
    -------
    ndarray, (H, W, 3), uint8

    Raises
    ------
    ValueError
        For no rows, pictures of different sizes, or rows that do not match the captions.
    """
    if not rows or any(len(row) != len(captions) for row in rows):
        raise ValueError(
            f"contact_sheet: {len(captions)} captions need rows of as many pictures, got rows of "
            f"{[len(row) for row in rows]}"
        )
    h, w = rows[0][0].shape[:2]
    if sizes := {p.shape[:2] for row in rows for p in row} - {(h, w)}:
        raise ValueError(f"contact_sheet: the first picture is {(h, w)} but others are {sizes}")
    image_module, draw, font = _drawing()
    title = 2 * gap + 12
    sheet = np.full(
        (title + len(rows) * (h + gap), gap + len(captions) * (w + gap), 3), 255, np.uint8
    )
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            top, left = title + i * (h + gap), gap + j * (w + gap)
            sheet[top : top + h, left : left + w] = picture.reshape(h, w, -1)
    image = image_module.fromarray(sheet)
    pen = draw.Draw(image)
    for j, caption in enumerate(captions):
        pen.text((gap + j * (w + gap), gap), caption, fill=(0, 0, 0), font=font.load_default())
    return np.array(image, np.uint8)


def save_mask(labels: npt.ArrayLike, path: str | os.PathLike[str]) -> None:
    """Write labels as an indexed PNG: pixel values are the labels, the palette only colours them.

    Parameters
    ----------
    labels : array_like of integers 0 .. 255, (h, w)
    path : str or path
        Replaced if it exists. It is written whole or left as it was.

    Raises
    ------
    ValueError, TypeError
        For labels that are not (h, w) integers in 0 .. 255.
    OSError
        If the folder cannot be written.
    """
    image_module = _drawing()[0]
    image = image_module.fromarray(_labels(labels, f"saving {path}"))
    image.putpalette(palette().ravel().tolist())
    _save(image, path)


def save_png(image: Image8, path: str | os.PathLike[str]) -> None:
    """Write an (h, w) gray or (h, w, 3) RGB uint8 picture as PNG, whole or not at all."""
    _save(_drawing()[0].fromarray(image), path)


def save_array(array: npt.NDArray[Any], path: str | os.PathLike[str]) -> None:
    """Write an array as .npy, whole or not at all."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_whole(path, buffer.getvalue())


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Create a folder with its parents; OSError that says what to do if that cannot be done."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _write_error(f"making the folder {folder}", error) from error
    return folder


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file so that a reader sees the old bytes or all the new ones, never a part.

    The bytes go to a temporary file in the same folder (a rename is atomic only within one file
    system), which then takes the place of `path`. On failure it is removed.
    """
    target = Path(path)
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    except BaseException as error:  # also Ctrl-C: the temporary file must go
        with contextlib.suppress(OSError):
            part.unlink()
        if isinstance(error, OSError):
            raise _write_error(f"writing {target}", error) from error
        raise


def png(image: Image8) -> bytes:
    """An (h, w) gray or (h, w, 3) RGB uint8 picture as the bytes of a PNG file."""
    return _encoded(_drawing()[0].fromarray(image))


def _save(image: Any, path: str | os.PathLike[str]) -> None:
    write_whole(path, _encoded(image))


def _encoded(image: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _write_error(what: str, error: OSError) -> OSError:
    reason = error.strerror or str(error)
    return type(error)(f"{what}: {reason}; choose a folder that exists and can be written")


def _labels(labels: npt.ArrayLike, what: str) -> Image8:
    """Labels as (h, w) uint8, checked, because a wrapped label would be a wrong class."""
    array = np.asarray(labels)
    if array.dtype.kind not in "ui":
        raise TypeError(f"{what}: labels must be integers, got dtype {array.dtype}")
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{what}: labels must be a non-empty (h, w) array, got {array.shape}")
    if array.min() < 0 or array.max() > 255:
        raise ValueError(
            f"{what}: an indexed image holds labels 0 .. 255, got {array.min()} .. {array.max()}"
        )
    return array.astype(np.uint8)


def _drawing() -> tuple[Any, Any, Any]:
    """Pillow's modules Image, ImageDraw and ImageFont."""
    names = ("PIL.Image", "PIL.ImageDraw", "PIL.ImageFont")
    image, draw, font = (
        _extras.require(name, extra="images", purpose="writing images") for name in names
    )
    return image, draw, font

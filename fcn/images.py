"""Read photos (PNG, JPEG) as the upright 8-bit arrays that a network sees.

Whatever the file stores, one of two arrays comes out: (h, w, 3) RGB or (h, w) gray. A file that
cannot be decoded to its last pixel is an error, never a half-filled picture.
"""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fcn import _extras

__all__ = ["EXTENSIONS", "fit", "read", "resize", "to_unit"]

Image8 = npt.NDArray[np.uint8]

EXTENSIONS = (".png", ".jpg", ".jpeg")
FORMATS = ("PNG", "JPEG")
PURPOSE = "reading images"


def read(path: str | os.PathLike[str], channels: int | None = None) -> Image8:
    """Decode one PNG or JPEG file.

    Parameters
    ----------
    path : str or path
        The file. Its content decides the format, not its extension.
    channels : 3, 1 or None
        3: RGB. 1: gray. None: gray when the file is gray, RGB otherwise.

    Returns
    -------
    ndarray, (h, w, 3) or (h, w), uint8
        Upright (EXIF orientation applied). Transparent pixels are laid over white, palettes are
        looked up, CMYK becomes RGB, 16-bit gray is scaled by 255 / 65535, and of 16-bit RGB the
        high bytes are kept. RGB becomes gray by the luma of ITU-R BT.601, 0.299 R + 0.587 G +
        0.114 B. Only the first frame of an animation is read; colour profiles are not applied.

    Raises
    ------
    ValueError
        For a file that is truncated, damaged or neither PNG nor JPEG.
    OSError
        If the file cannot be opened.
    ImportError
        Without Pillow (extra `images`).
    """
    if channels not in (None, 1, 3):
        raise ValueError(f"reading {path}: channels must be 3, 1 or None, got {channels!r}")
    image_module = _extras.require("PIL.Image", extra="images", purpose=PURPOSE)
    image_ops = _extras.require("PIL.ImageOps", extra="images", purpose=PURPOSE)
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        message = f"reading {path}: {reason}; check the path and the permissions"
        raise type(error)(message) from error
    if not data:
        raise ValueError(f"reading {path}: the file is empty; copy it again from its source")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", image_module.DecompressionBombWarning)
            with image_module.open(io.BytesIO(data), formats=FORMATS) as image:
                pixels = _decode(image_module, image_ops.exif_transpose(image))
    except image_module.UnidentifiedImageError as error:
        raise ValueError(
            f"reading {path}: this is not a PNG or JPEG file; convert it to PNG first"
        ) from error
    except image_module.DecompressionBombError as error:
        raise ValueError(f"reading {path}: {error}; scale the picture down first") from error
    except MemoryError:
        raise
    except Exception as error:  # the decoders of Pillow raise whatever a damaged byte leads to
        raise ValueError(
            f"reading {path}: the file is truncated or damaged ({error}); "
            "copy or export it again from its source"
        ) from error
    return pixels if channels is None else fit(pixels, channels)


def fit(pixels: Image8, channels: int) -> Image8:
    """Turn gray into RGB by repetition, or RGB into gray by luma; pass on what fits already.

    Parameters
    ----------
    pixels : ndarray, (h, w) or (h, w, 3), uint8
    channels : 1 or 3

    Returns
    -------
    ndarray, (h, w, 3) for 3 channels, (h, w) for 1, uint8
    """
    if channels == 3:
        return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    if pixels.ndim == 2:
        return pixels
    luma = pixels @ np.array([0.299, 0.587, 0.114])
    return np.asarray(np.rint(luma), np.uint8)


def resize(pixels: Image8, height: int, width: int) -> Image8:
    """Bilinear resize with Pillow's antialiasing; ValueError for a size below 1 x 1."""
    if height < 1 or width < 1:
        raise ValueError(f"resizing an image: the size must be at least 1x1, got {height}x{width}")
    image = _extras.require("PIL.Image", extra="images", purpose="resizing images")
    small = image.fromarray(pixels).resize((width, height), image.Resampling.BILINEAR)
    return np.array(small, np.uint8)


def to_unit(image: npt.NDArray[Any], channels: int) -> npt.NDArray[np.float32]:
    """A picture as numbers in [0, 1], with the channels that a network reads.

    Parameters
    ----------
    image : ndarray, (h, w) or (h, w, c), uint8 or float
        uint8 is divided by 255; floats are in [0, 1] already.
    channels : int
        Channels wanted. Gray is repeated; nothing else is converted.

    Returns
    -------
    ndarray, (h, w, channels), float32
        A new array.

    Raises
    ------
    TypeError
        If it is no array, or neither uint8 nor float.
    ValueError
        For a wrong rank, an empty picture, a wrong number of channels, or floats that are not
        finite or lie outside [0, 1].
    """
    if not isinstance(image, np.ndarray):
        raise TypeError(f"segment: the image must be a NumPy array, got {type(image).__name__}")
    if image.dtype != np.uint8 and image.dtype.kind != "f":
        raise TypeError(
            f"segment: the image must be uint8, or float in [0, 1]; got dtype {image.dtype}, "
            "convert it with .astype(np.uint8) or divide it by its largest possible value"
        )
    if image.ndim not in (2, 3):
        raise ValueError(f"segment: the image must be (h, w) or (h, w, c), got {image.shape}")
    if 0 in image.shape:
        raise ValueError(f"segment: the image is empty, its shape is {image.shape}")
    if image.dtype == np.uint8:
        x = image.astype(np.float32) / np.float32(255)
    else:
        x = image.astype(np.float32)
        if not (x.min() >= 0 and x.max() <= 1):  # so written that NaN fails
            raise ValueError(
                "segment: a float image must lie in [0, 1], got "
                f"{x.min():g} .. {x.max():g}; divide it by its largest possible value"
            )
    if x.ndim == 2 or (x.shape[2] == 1 and channels != 1):
        x = np.repeat(x.reshape(*x.shape[:2], 1), channels, axis=2)
    if x.shape[2] != channels:
        hint = f"; fcn.images.fit(image, {channels}) converts it" if x.shape[2] == 3 else ""
        raise ValueError(
            f"segment: the network reads {channels} channels but the image has {x.shape[2]} "
            f"(axis 2 of {image.shape}){hint}"
        )
    return x


def _decode(image_module: Any, image: Any) -> Image8:
    """The pixels of a loaded Pillow image as gray or RGB, 8 bits."""
    if image.mode.startswith("I"):  # 16-bit gray: "I;16" or, from old Pillow, "I"
        wide = np.array(image).astype(np.int64).clip(0, 65535)
        return ((wide + 128) // 257).astype(np.uint8)  # round(v * 255 / 65535), exactly
    mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = image_module.new("RGBA", image.size, (255, 255, 255, 255))
        image = image_module.alpha_composite(white, image)
    return np.array(image.convert(mode), np.uint8)

"""The element types, and what is computed in."""

from typing import Any

import numpy as np

__all__ = ["DTYPES", "ITEMSIZE", "WORKING", "label_dtype"]

# The last two are for storage: images and weights hold them, sums are made in float32, and a result
# is rounded once. NumPy knows float16; arrays of bfloat16 come from the package ml_dtypes.
DTYPES = ("float32", "float64", "float16", "bfloat16")
ITEMSIZE = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2}
WORKING = {"float32": "float32", "float64": "float64", "float16": "float32", "bfloat16": "float32"}


def label_dtype(channels: int) -> np.dtype[Any]:
    """Dtype of the labels that `argmax` gives: uint8 for up to 256 channels, else int32."""
    return np.dtype(np.uint8 if channels <= 256 else np.int32)

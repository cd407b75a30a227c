"""Kernels as PyTorch and ONNX store them, channels first, and as a graph does."""

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

__all__ = ["from_channels_first", "to_channels_first"]

Array = NDArray[Any]


def to_channels_first(op: str, kernel: Array) -> Array:
    """Our kernel as (k, c / groups, kh, kw), or (c, k / groups, kh, kw) of a transposed one."""
    if op == "depthwise_conv2d":
        kernel = kernel.reshape(*kernel.shape[:2], 1, -1)
    return kernel.transpose(3, 2, 0, 1)


def from_channels_first(op: str, kernel: Array, attrs: Mapping[str, Any]) -> Array:
    """The inverse, for a node of these attributes."""
    kernel = kernel.transpose(2, 3, 1, 0)
    if op == "depthwise_conv2d":
        kernel = kernel.reshape(*kernel.shape[:2], -1, attrs["multiplier"])
    return kernel

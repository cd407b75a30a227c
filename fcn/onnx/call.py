"""What an operator is given: its inputs and attributes, and the graph that it adds to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fcn.building import Array, Builder, Tensor

__all__ = ["Call"]


@dataclass(frozen=True)
class Call:
    """One node: what it reads, tensors or constants or None, and its attributes."""

    name: str
    inputs: Sequence[Any]
    attrs: dict[str, Any]
    builder: Builder
    opset: int

    @property
    def x(self) -> Tensor:
        """The first input, a map or a vector."""
        return self.tensor(0)

    def tensor(self, index: int) -> Tensor:
        """An input that is computed."""
        found = self.inputs[index]
        if not isinstance(found, Tensor):
            raise ValueError(f"input {index} must not be a constant")
        if found.flat:
            raise ValueError("only Gemm and MatMul read flattened maps")
        return found

    def constant(self, index: int) -> Array | None:
        """An input that is known, None where it is left out."""
        found = self.inputs[index] if index < len(self.inputs) else None
        if isinstance(found, Tensor):
            raise ValueError(f"input {index} must be a constant")
        return found

    def weights(self, index: int) -> Array:
        """An input that must be there, as float32."""
        found = self.constant(index)
        if found is None:
            raise ValueError(f"input {index} is missing")
        return found.astype(np.float32)

    def get(self, key: str, default: Any = None) -> Any:
        """An attribute."""
        return self.attrs.get(key, default)

    def option(self, key: str, index: int, default: Any = None) -> Any:
        """What older opsets have as an attribute and newer ones as an input."""
        found = self.constant(index)
        return self.get(key, default) if found is None else found.tolist()

    def insist(self, **wanted: Any) -> None:
        """ValueError unless the attributes have these values, or are not there."""
        for key, value in wanted.items():
            if self.get(key, value) != value:
                raise ValueError(f"{key}={self.attrs[key]!r} is not supported, only {value!r}")

    def window(self, size: Sequence[int]) -> dict[str, Any]:
        """Stride and padding of a window."""
        auto = self.get("auto_pad", "NOTSET")
        if auto not in ("NOTSET", "VALID", "SAME_UPPER"):
            raise ValueError(f"auto_pad={auto!r} is not supported; export explicit pads")
        top, left, bottom, right = self.get("pads", [0, 0, 0, 0])
        pads: Any = [[top, bottom], [left, right]]
        return {
            "stride": list(self.get("strides", [1] * len(size))),
            "padding": {"NOTSET": pads, "VALID": "valid", "SAME_UPPER": "same"}[auto],
        }

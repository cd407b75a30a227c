"""Weights that several plans read: each layout that kernels want is packed once."""

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from fastconv.arrays import check_array

__all__ = ["Weights"]


class Weights:
    """Weights of a layer that is planned for several input shapes.

    Plans made of one `Weights` share what is packed of it, so that the second plan neither takes
    the time nor the memory again; plans made of a plain array each pack their own.

    Parameters
    ----------
    array : array_like, (kh, kw, c / groups, k) or (kh, kw, k, c)
        As `conv2d` or `conv2d_transpose` takes it. It is not copied and must not change.

    Raises
    ------
    ValueError, TypeError
        For another rank or an unsupported dtype.

    Examples
    --------
    >>> w = Weights(np.zeros((3, 3, 8, 16), np.float32))
    >>> plans = [fastconv.plan_conv2d((1, size, size, 8), w) for size in (64, 96)]
    """

    def __init__(self, array: Any) -> None:
        self.array: np.ndarray = np.ascontiguousarray(check_array(array, "w", "weights"))
        self._packed: dict[Hashable, np.ndarray] = {}

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the array."""
        return self.array.dtype

    @property
    def packed_bytes(self) -> int:
        """Memory of all that is packed of them."""
        return sum(packed.nbytes for packed in self._packed.values())

    def packed(self, layout: Hashable, pack: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """The weights in a layout, which `pack` makes of the array the first time.

        `layout` holds all that `pack` depends on. Of two threads that ask at once, both may pack.
        """
        found = self._packed.get(layout)
        return self._packed.setdefault(layout, pack(self.array)) if found is None else found

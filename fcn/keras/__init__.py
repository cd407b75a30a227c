"""Keras models without Keras."""

from fcn.keras.files import load

__all__ = ["load"]

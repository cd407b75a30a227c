"""ONNX models without a runtime."""

from fcn.onnx.export import save
from fcn.onnx.files import load

__all__ = ["load", "save"]

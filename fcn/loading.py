"""Read a model from whatever file it is in."""

import os
import zipfile
from pathlib import Path

from fcn import keras, native, onnx
from fcn.graph import Model

__all__ = ["SUFFIXES", "load"]

SUFFIXES = (".npz", ".keras", ".h5", ".onnx")  # by which the command line knows a file
HDF5 = b"\x89HDF\r\n\x1a\n"


def load(path: str | os.PathLike[str], output: str | None = None) -> Model:
    """Read a model file: our own, ONNX, or a Keras one, ``.keras`` or a whole model as ``.h5``.

    Neither TensorFlow nor Keras nor a runtime is needed, and nothing that is in the file is
    executed. Of other people's models, batch normalisation is folded into the convolutions, and
    vectors are maps of one pixel.

    Parameters
    ----------
    path : path
        The contents decide what it is, not the name; but ONNX, which begins with nothing that
        could be known, is what ends in ``.onnx``.
    output : str, optional
        Name of the layer whose result is wanted, for a Keras or ONNX model with several outputs.

    Returns
    -------
    Model

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged or of another kind, or has a layer that is not supported; the message
        names the layer, its class and what is near to it.
    ImportError
        For a Keras file without h5py (extra `keras`), an ONNX file without onnx (extra `onnx`).
    """
    if Path(path).suffix == ".onnx":
        return onnx.load(path, output)
    with Path(path).open("rb") as file:
        start = file.read(len(HDF5))
        if start == HDF5:
            return keras.load(path, output)
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError):
        names = []  # native.load tells what is wrong
    if "config.json" in names:
        return keras.load(path, output)
    if output is not None:
        raise ValueError(f"{os.fspath(path)}: only Keras and ONNX models have several outputs")
    return native.load(path)

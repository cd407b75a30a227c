"""Read a model from whatever file it is in."""

import os
import zipfile
from pathlib import Path

from fcn import keras, models, native, onnx, state_dict
from fcn.graph import Graph, Model
from fcn.keras import weights

__all__ = ["SUFFIXES", "load"]

SUFFIXES = (".npz", ".keras", ".h5", ".onnx", ".safetensors")  # how the command line knows a file
HDF5 = b"\x89HDF\r\n\x1a\n"


def load(
    path: str | os.PathLike[str],
    output: str | None = None,
    architecture: Graph | str | None = None,
) -> Model:
    """Read a model file: our own, ONNX, a Keras one (``.keras``, ``.h5``), or weights alone.

    Neither TensorFlow nor Keras nor a runtime is needed, and nothing that is in the file is
    executed. Of other people's models, batch normalisation is folded into the convolutions, and
    vectors are maps of one pixel.

    Parameters
    ----------
    path : path
        The contents decide what it is, not the name; but ONNX, which begins with nothing that
        could be known, is what ends in ``.onnx``.
    output : str, optional
        The one that is wanted of the outputs of a Keras or ONNX model; by default all, of which
        `Session.run` gives several by name.
    architecture : Graph or str, optional
        What the weights in a ``.safetensors`` or ``.weights.h5`` file are those of: a graph, or a
        text for `fcn.models.architecture` such as ``"fcn_resnet50:21"``. Layers of Keras and
        modules of PyTorch are known by the names of the nodes (`fcn.models` has those of
        torchvision and of the authors of FCN); where Keras has made a name up, the shapes tell
        which layer it is, if only one has them. PyTorch's batch normalisation is folded, with
        its default epsilon of 1e-5. Of what has no part in the result, ``aux_classifier`` and
        optimizers are passed over; otherwise the file must hold just the weights of the graph.

    Returns
    -------
    Model

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged or of another kind, or has a layer that is not supported; the message
        names the layer, its class and what is near to it. If weights do not fit the
        architecture, or there is none; the message lists them.
    ImportError
        For a Keras file without h5py (extra `keras`), an ONNX file without onnx (extra `onnx`).
    """
    if architecture is not None:
        graph = models.architecture(architecture) if isinstance(architecture, str) else architecture
        arrays = (weights if _is_hdf5(path) else state_dict).load(path, graph)
        return Model(graph, arrays, {"source": Path(path).name})
    if Path(path).suffix == ".safetensors":
        raise ValueError(
            f"{os.fspath(path)} holds weights without an architecture; give one, such as "
            "architecture='fcn_resnet50:21'"
        )
    if Path(path).suffix == ".onnx":
        return onnx.load(path, output)
    if _is_hdf5(path):
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


def _is_hdf5(path: str | os.PathLike[str]) -> bool:
    with Path(path).open("rb") as file:
        return file.read(len(HDF5)) == HDF5

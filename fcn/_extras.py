"""Optional packages, imported when they are needed; the error for a missing one names its extra."""

import importlib
from typing import Any

DISTRIBUTIONS = {"PIL": "Pillow", "sklearn": "scikit-learn"}  # where import and package name differ


def require(module: str, *, extra: str, purpose: str) -> Any:
    """Import an optional module.

    Parameters
    ----------
    module : str
        Dotted name of the module, such as ``"PIL.Image"``.
    extra : str
        Extra of this distribution that brings it.
    purpose : str
        What the caller wants it for, as the subject of "... needs ...".

    Returns
    -------
    module
        The imported module.

    Raises
    ------
    ImportError
        If it is not installed; the message holds the command that installs it.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != package:
            raise  # the package is there, but something inside it is broken
        name = DISTRIBUTIONS.get(package, package)
        message = f"{purpose} needs {name}: pip install 'fastconv[{extra}]'"
        raise ImportError(message, name=package) from error

"""Fully convolutional networks for semantic segmentation, on the kernels of `fastconv`.

A network is data: a `Graph` of named nodes with a dictionary of weights, together a `Model`.
`Session` runs one. Arrays are NHWC.

>>> from fcn import Session, models
>>> labels = Session(models.pretrained("digits_fcn8s")).segment(image)  # doctest: +SKIP
"""

from fcn import models
from fcn.graph import Graph, Model, Node
from fcn.loading import load
from fcn.native import save
from fcn.session import Session

__all__ = ["Graph", "Model", "Node", "Session", "load", "models", "save"]

"""Fast 2D convolution in readable Python: Numba kernels for NHWC arrays.

Axes: ``n`` image, ``h w`` rows and columns, ``c`` input channel, ``k`` output channel, ``kh kw``
taps of a kernel, ``i j`` output pixel. Weights are HWIO: ``(kh, kw, c, k)``.
"""

from fastconv.convolution import conv2d, conv2d_transpose, depthwise_conv2d
from fastconv.dtypes import label_dtype
from fastconv.memory import aligned_empty
from fastconv.pixelwise import argmax, resize2d, softmax
from fastconv.plan import Plan, choose_algorithm, plan_conv2d, plan_conv2d_transpose
from fastconv.pooling import (
    avg_pool2d,
    global_avg_pool2d,
    global_max_pool2d,
    max_pool2d,
    max_unpool2d,
)
from fastconv.system import show_config, warmup
from fastconv.threads import get_num_threads, set_num_threads
from fastconv.weights import Weights

__version__ = "0.1.0"

__all__ = [
    "Plan",
    "Weights",
    "aligned_empty",
    "argmax",
    "avg_pool2d",
    "choose_algorithm",
    "conv2d",
    "conv2d_transpose",
    "depthwise_conv2d",
    "get_num_threads",
    "global_avg_pool2d",
    "global_max_pool2d",
    "label_dtype",
    "max_pool2d",
    "max_unpool2d",
    "plan_conv2d",
    "plan_conv2d_transpose",
    "resize2d",
    "set_num_threads",
    "show_config",
    "softmax",
    "warmup",
]

"""When a layer needs a finishing kernel, and which one."""

from fastconv.activations import ACTIVATIONS
from fastconv.cpu.kernels import Kernel, kernel
from fastconv.dtypes import WORKING
from fastconv.spec import Conv2d, ConvTranspose2d

KINDS = {"leaky_relu": "slope", "prelu": "slope"}  # else "clamp", or the activation's own name


def kernel_for(spec: Conv2d | ConvTranspose2d) -> Kernel | None:
    """The kernel that turns sums into results; None where a clamp in registers is all."""
    row = ACTIVATIONS[spec.activation]
    if row.clamp and not spec.add and WORKING[spec.dtype] == spec.dtype:
        return None
    name = "clamp" if row.clamp else KINDS.get(spec.activation or "", spec.activation)
    return kernel(f"finish_{name}", spec.dtype)

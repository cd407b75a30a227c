"""Tensor cores: what they do beside a direct sum.

Products are exact. Their additions are not rounded but cut, which errs by up to ``2 * u`` of the
largest term or partial sum (M. Fasi, N. J. Higham, M. Mikaitis and S. Pranesh, *Numerical behavior
of NVIDIA tensor cores*, 2021). TF32 has 11 significant bits, so an operand loses at most 2**-11 by
rounding, or 2**-10 by cutting.

"tf32x3" splits an operand into a rounded one and a rest of at most 2**-11, which is cut and so
loses 2**-21. The product of the rests, 2**-22, is left out; the other three are added one by one.
"""

from dataclasses import dataclass

CUT = 2.0**-23  # unit roundoff of an addition that cuts


@dataclass(frozen=True)
class Tensor:
    """One way to multiply.

    Attributes
    ----------
    unit : float
        Unit roundoff of the additions of one product.
    operands : float
        Relative error of a product by its operands.
    """

    unit: float
    operands: float


TENSOR = {
    "tensor": Tensor(CUT, 0.0),
    "wgmma": Tensor(CUT, 0.0),
    "wgmma_tma": Tensor(CUT, 0.0),
    "tf32": Tensor(CUT, 2 * 2.0**-11 + 2.0**-22),
    # The three products' magnitudes together are up to 1.01 that of the whole.
    "tf32x3": Tensor(3 * 1.01 * CUT, 2 * 2.0**-21 + 2.0**-22 + 2.0**-30),
}

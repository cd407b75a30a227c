"""Pools, resizes, argmax and softmax, simulated thread by thread against the reference."""

import pytest

from fastconv.cuda import pixels
from fastconv.cuda.kernels import KERNELS
from fastconv.spec import Pool2d
from tests.fastconv.cuda import cases
from tests.fastconv.cuda.simulation import simulate


@pytest.mark.parametrize("spec", cases.WINDOWS, ids=str)
def test_windows(spec):
    cases.check_windows(spec, simulate)


@pytest.mark.parametrize("spec", [s for s in cases.WINDOWS if "max" in str(s)], ids=str)
def test_indices(spec):
    cases.check_indices(spec, simulate)


@pytest.mark.parametrize("spec, label", cases.ARGMAXES, ids=str)
def test_argmax(spec, label):
    cases.check_argmax(spec, label, simulate)


@pytest.mark.parametrize("spec", cases.SOFTMAXES, ids=str)
def test_softmax(spec):
    cases.check_softmax(spec, simulate)


def test_every_kernel_of_windows_serves_a_case():
    stages = [pixels.pool(s) if isinstance(s, Pool2d) else pixels.resize(s) for s in cases.WINDOWS]
    used = {pixels.one(stage).kernel for stage in stages}
    assert used == {k for k in KERNELS if k.algorithm in {"max", "avg", "resize"}}

"""The same kernels and cases on a GPU, where there is one; `make test-gpu` runs these."""

import numpy as np
import pytest

from fastconv.cuda import device
from fastconv.cuda.executor import Executor
from tests.fastconv.cuda import cases
from tests.fastconv.cuda.simulation import DTYPES

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def run():
    """A way to run a program on the first GPU."""
    if reason := device.unavailable():
        pytest.skip(reason)
    gpu = device.gpu(0)

    def on_gpu(program, shape, dtype, **arrays):
        out = np.empty(shape, DTYPES.get(dtype, dtype))
        results = {"out": out} | {k: arrays.pop(k) for k in ("indices",) if k in arrays}
        Executor(program, gpu).compute(arrays, results)
        return out

    return on_gpu


@pytest.mark.parametrize("kernel, spec", [*cases.served()])
def test_filters(kernel, spec, run):
    if not kernel.runs_on(device.gpu(0).capability):
        pytest.skip(f"{kernel.name} is for capability {kernel.needs}")
    cases.check_filter(spec, kernel, run)


@pytest.mark.parametrize("spec", cases.WINDOWS, ids=str)
def test_windows(spec, run):
    cases.check_windows(spec, run)


@pytest.mark.parametrize("spec", [s for s in cases.WINDOWS if "max" in str(s)], ids=str)
def test_indices(spec, run):
    cases.check_indices(spec, run)


@pytest.mark.parametrize("spec, label", cases.ARGMAXES, ids=str)
def test_argmax(spec, label, run):
    cases.check_argmax(spec, label, run)


@pytest.mark.parametrize("spec", cases.SOFTMAXES, ids=str)
def test_softmax(spec, run):
    cases.check_softmax(spec, run)

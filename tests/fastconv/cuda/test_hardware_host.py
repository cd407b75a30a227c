"""Streams, exchange and whole networks on a GPU, where there is one; `make test-gpu` runs these."""

import numpy as np
import pytest

import fastconv
from fastconv.cuda import device, memory
from fcn import models
from fcn.graph import Model
from fcn.session import Session
from tests.helpers import assert_equal, integers

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def gpu():
    if reason := device.unavailable():
        pytest.skip(reason)
    return device.gpu(0)


@pytest.fixture(scope="module")
def torch(gpu):
    module = pytest.importorskip("torch")
    if not module.cuda.is_available():
        pytest.skip("PyTorch has no CUDA")
    return module


def test_arrays_travel(gpu):
    x = integers((memory.CHUNK // 4 * 5 + 3,), 1)
    back = np.zeros_like(x)
    stream = gpu.new_stream()
    there = gpu.upload(x, stream.number)
    gpu.download(there, back, stream.number)
    assert_equal(back, x)


@pytest.mark.parametrize("name", ["fcn8s", "unet", "fcn_resnet50"])
def test_networks_run_as_graphs(gpu, name):
    graph = getattr(models, name)(3, width=4)
    model = Model(graph, models.initialise(graph, 0), {})
    session, x = Session(model, device="cuda"), np.abs(integers((1, 64, 96, 3), 1)) / 4
    expected = Session(model).run(x)
    for _ in range(3):
        found = session.run(x)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert str(session).endswith("one CUDA graph")


def test_memory_that_is_missing_is_told(gpu):
    plan = fastconv.plan_conv2d((1, 8, 8, 4), integers((3, 3, 4, 4), 1), device="cuda")
    with pytest.raises(MemoryError, match="does not fit on GPU 0"):
        gpu.allocate(1 << 44, None)
    with pytest.raises(MemoryError, match="does not fit on GPU 0"):
        gpu.allocate(1 << 44, 1)
    assert plan(integers((1, 8, 8, 4), 2)).shape == (1, 6, 6, 4)


def test_tensors_of_torch_on_a_stream_of_their_own(gpu, torch):
    x, w = integers((1, 64, 64, 32), 1), integers((3, 3, 32, 32), 2)
    plan = fastconv.plan_conv2d(x.shape, w, padding="same", device="cuda")
    expected = plan(x)
    with torch.cuda.stream(torch.cuda.Stream()):
        y = plan(torch.from_numpy(x).cuda(non_blocking=True))
        assert_equal(y.cpu().numpy(), expected)


def test_dlpack_of_torch(gpu, torch):
    class Alone:
        """A tensor that has DLPack alone."""

        def __init__(self, tensor):
            self.__dlpack__, self.__dlpack_device__ = tensor.__dlpack__, tensor.__dlpack_device__

    x = integers((1, 8, 8, 4), 1)
    y = fastconv.max_pool2d(Alone(torch.from_numpy(x).cuda()), 2, device="cuda")
    assert_equal(torch.from_dlpack(y).cpu().numpy(), fastconv.max_pool2d(x, 2))

"""What several test modules need."""

import importlib
import os

import pytest

# Before TensorFlow is imported. The Makefile does it, too.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


@pytest.fixture(scope="session")
def tf():
    """TensorFlow; without it these tests fail, or are left out by ``-m "not tensorflow"``."""
    return importlib.import_module("tensorflow")


@pytest.fixture
def gpu(monkeypatch):
    """A simulated GPU, which is every CUDA device meanwhile."""
    pytest.importorskip("numba_cuda")
    device = importlib.import_module("fastconv.cuda.device")
    cuda = importlib.import_module("fastconv.cuda")
    simulation = importlib.import_module("tests.fastconv.cuda.simulation")
    simulated = simulation.Simulated()
    monkeypatch.setattr(device, "gpu", lambda index: simulated)
    cuda.on.cache_clear()
    yield simulated
    cuda.on.cache_clear()

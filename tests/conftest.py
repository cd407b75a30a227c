"""What several test modules need."""

import importlib
import importlib.util
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Before TensorFlow is imported. The Makefile does it, too.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


class WithoutCuda:
    """Leaves out what needs the `cuda` extra, in the package, too. `make test` installs it."""

    @staticmethod
    def pytest_ignore_collect(collection_path):
        left_out = ROOT / "fastconv" / "cuda", ROOT / "tests" / "fastconv" / "cuda"
        return True if collection_path in left_out else None


def pytest_configure(config):
    if importlib.util.find_spec("numba_cuda") is None:
        config.pluginmanager.register(WithoutCuda())


@pytest.fixture(scope="session")
def tf():
    """TensorFlow; without it these tests fail, or are left out by ``-m "not tensorflow"``."""
    return importlib.import_module("tensorflow")


@pytest.fixture(scope="session")
def simulated_gpu():
    """One for all tests, as plans are remembered."""
    pytest.importorskip("numba_cuda")
    return importlib.import_module("tests.fastconv.cuda.simulation").Simulated()


@pytest.fixture
def gpu(monkeypatch, simulated_gpu):
    """A simulated GPU, which is every CUDA device meanwhile."""
    device = importlib.import_module("fastconv.cuda.device")
    cuda = importlib.import_module("fastconv.cuda")
    monkeypatch.setattr(device, "gpu", lambda index: simulated_gpu)
    simulated_gpu.copies.clear()
    cuda.on.cache_clear()
    yield simulated_gpu
    cuda.on.cache_clear()


@pytest.fixture
def driver(monkeypatch, tmp_path):
    """A stand-in for NVIDIA's driver with two GPUs."""
    pytest.importorskip("numba_cuda")
    names = ("cuda", "cuda.device", "cuda.compiler", "pooling", "pixelwise")
    modules = [importlib.import_module(f"fastconv.{name}") for name in names]
    cuda, device, compiler, pooling, pixelwise = modules
    made = importlib.import_module("tests.fastconv.cuda.driver").Driver()
    monkeypatch.setattr(device, "_driver", lambda: made)
    monkeypatch.setattr(compiler, "cache_folder", lambda: tmp_path)
    caches = (
        device.gpu, device._undriven, cuda.on, pooling._pool, pixelwise._resize, pixelwise._channels
    )  # fmt: skip
    for cached in caches:
        cached.cache_clear()
    yield made
    for cached in caches:
        cached.cache_clear()

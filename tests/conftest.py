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

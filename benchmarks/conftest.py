"""What every pytest-benchmark run records about the machine."""

from typing import Any

import pytest

import fastconv
from benchmarks import compare


@pytest.fixture(scope="session")
def threads() -> int:
    """Threads of the kernels: set FASTCONV_NUM_THREADS to change them."""
    return fastconv.get_num_threads()


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    machine_info.update(
        compare.machine(), fastconv=fastconv.__version__, threads=fastconv.get_num_threads()
    )

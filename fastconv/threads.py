"""How many threads the kernels use."""

import math
import os
from functools import cache
from pathlib import Path

_VARIABLES = ("FASTCONV_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS")
_chosen: int | None = None


def _cgroup_quota() -> float:
    """CPUs that the container may use; infinity without a limit."""
    try:  # version 2, then version 1
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()[:2]
        return math.inf if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        base = Path("/sys/fs/cgroup/cpu")
        quota_us = int((base / "cpu.cfs_quota_us").read_text())
        period_us = int((base / "cpu.cfs_period_us").read_text())
        return quota_us / period_us if quota_us > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf


def available_cpus() -> int:
    """CPUs that this process may run on: its affinity, cut to the container's quota."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, math.ceil(min(count, _cgroup_quota())))


def get_num_threads() -> int:
    """Number of threads that kernels use when a call does not say.

    The last `set_num_threads`; else ``FASTCONV_NUM_THREADS``, ``NUMBA_NUM_THREADS`` or
    ``OMP_NUM_THREADS``; else the CPUs that affinity and container quota leave.
    """
    return _default() if _chosen is None else _chosen


@cache
def _default() -> int:
    """What environment and machine say, read once: every kernel call asks."""
    for name in _VARIABLES:
        text = os.environ.get(name, "")
        if text.isdigit() and int(text) > 0:
            return int(text)
    return available_cpus()


def set_num_threads(n: int) -> None:
    """Use `n` threads from now on, in this process.

    Results do not depend on it: every output element is summed by one thread in one order.

    Raises
    ------
    ValueError
        When `n` is not a positive integer.
    """
    global _chosen
    _chosen = check_num_threads(n, "set_num_threads")


def check_num_threads(n: int, operation: str) -> int:
    """`n` when it is a positive integer."""
    if isinstance(n, bool) or not hasattr(n, "__index__") or n.__index__() < 1:
        raise ValueError(f"{operation}: the number of threads must be an integer >= 1, got {n!r}")
    return n.__index__()

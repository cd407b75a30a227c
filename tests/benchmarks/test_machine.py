"""The probes of the machine: peak, bandwidth and start-up. No test depends on how fast it is."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import correlate, peak, startup
from fastconv.memory import aligned_empty
from tests.helpers import assert_equal


@pytest.mark.parametrize("threads", [1, 2])
def test_the_probe_does_the_multiply_adds_that_it_counts(threads):
    lanes = peak.VECTOR // 4
    operands = np.repeat(np.array([1, 3], np.float32), lanes)
    sums = aligned_empty((5, peak.SUMS * lanes), np.float32)
    sums[...] = 0
    assert peak.multiply_add(operands, sums, threads) == 2 * peak.STEPS * 5 * peak.SUMS * lanes
    assert_equal(sums, np.full(sums.shape, 3 * peak.STEPS))


@pytest.mark.parametrize("threads", [1, 2])
def test_the_probe_copies(threads):
    x, y = (aligned_empty((3 * peak.CHUNK,), np.uint8) for _ in range(2))
    x[...], y[...] = np.arange(x.size) % 251, 0
    assert peak.copy(x, y, threads) == 6 * peak.CHUNK
    assert_equal(y, x)


def test_the_highest_rate_counts(monkeypatch):
    done = iter([70, 1, 5, 3])  # the first call is not timed
    clock = iter([0, 0, 1, 3, 3, 3, 4, 5, 5, 6, 99])
    monkeypatch.setattr(peak, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert peak._best(lambda: next(done), seconds=10) == 5


def test_ceilings_are_measured_in_a_process():
    found = peak.measure(1)
    assert found.keys() == {"gflops", "gbytes"}
    assert min(found.values()) > 0


def test_start_up_is_measured_in_a_fresh_process(tmp_path):
    imported, first = startup.fresh_process(str(tmp_path))
    assert 0 < imported < first
    assert any(tmp_path.rglob("*")), "nothing was compiled into the given cache"


def test_correlate2d_takes_turns_with_scipys(monkeypatch):
    monkeypatch.setattr(correlate, "SIZES", ((9, 3, 3),))
    rows = correlate.measure(1)
    assert [(row["size"], row["kernel"], row["mode"], row["threads"]) for row in rows] == [
        (9, 3, "full", 1), (9, 3, "same", 1), (9, 3, "valid", 1)
    ]  # fmt: skip
    assert all(0 < row[name] < 1 for row in rows for name in ("fastconv", "scipy"))


def test_wrong_correlations_are_not_timed(monkeypatch):
    monkeypatch.setattr(correlate, "SIZES", ((9, 3, 3),))
    monkeypatch.setattr(correlate, "correlate2d", lambda x, w, mode: np.full_like(x, np.nan))
    with pytest.raises(AssertionError):
        correlate.measure(1)

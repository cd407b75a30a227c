"""Threads: the same bits for any number of them, under Python threads and after fork."""

import os
import subprocess
import sys
import threading
import traceback
import warnings

import numpy as np
import pytest

import fastconv
from fastconv import threads
from fastconv.cpu import pool
from fastconv.cpu.intrinsics import store_int
from fastconv.cpu.job import take
from fastconv.cpu.native import Driver
from tests.helpers import integers

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 61, 67, 24), np.float32)
W = RNG.standard_normal((3, 3, 24, 40), np.float32)
WT = RNG.standard_normal((4, 4, 21, 24), np.float32)

OPERATIONS = {
    "direct": lambda n: fastconv.conv2d(X, W, algorithm="direct", num_threads=n),
    "winograd": lambda n: fastconv.conv2d(X, W, algorithm="winograd_f4", num_threads=n),
    "winograd_phased": lambda n: fastconv.conv2d(
        X[:, :24, :24], W, algorithm="winograd_f4", num_threads=n
    ),
    "depthwise": lambda n: fastconv.depthwise_conv2d(X, W[:, :, :, :1], num_threads=n),
    "transposed": lambda n: fastconv.conv2d_transpose(X, WT, stride=2, num_threads=n),
    "max_pool": lambda n: fastconv.max_pool2d(X, 3, num_threads=n),
    "avg_pool": lambda n: fastconv.avg_pool2d(X, 3, num_threads=n),
    "resize": lambda n: fastconv.resize2d(X, (99, 131), num_threads=n),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_same_bits_for_any_number_of_threads(name):
    one = OPERATIONS[name](1)
    for n in (2, 3, 7):
        np.testing.assert_array_equal(OPERATIONS[name](n), one)


def test_same_bits_for_any_batch_split():
    whole = fastconv.conv2d(X, W)
    np.testing.assert_array_equal(whole[1:], fastconv.conv2d(X[1:], W))


def test_helpers_do_take_part():
    """Without this, a pool that always worked alone would pass every other test."""
    seen = set()
    plan = fastconv.plan_conv2d(X.shape, W, num_threads=2)
    before = threading.active_count()
    plan(X)
    for _ in range(200):
        plan(X)
        state = np.frombuffer(
            (np.ctypeslib.ctypes.c_char * pool.STATE_BYTES).from_address(pool._pool._state),
            np.int64,
        )
        seen.add(int(state[pool.JOINED // 8]))
        if 1 in seen:
            break
    assert 1 in seen
    assert threading.active_count() >= before


def test_concurrent_python_threads():
    expected = {name: run(2) for name, run in OPERATIONS.items()}
    wrong = []

    def work(seed):
        names = list(OPERATIONS)
        np.random.default_rng(seed).shuffle(names)
        for name in names * 3:
            try:
                np.testing.assert_array_equal(OPERATIONS[name](2), expected[name])
            except AssertionError:
                wrong.append(traceback.format_exc())

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong, wrong[0]


def test_one_plan_shared_by_python_threads():
    plan = fastconv.plan_conv2d(X.shape, W, num_threads=2)
    inputs = [integers(X.shape, seed=s) for s in range(4)]
    expected = [plan(x) for x in inputs]
    results: list[list[np.ndarray]] = [[] for _ in inputs]

    def work(i):
        results[i] += [plan(inputs[i]) for _ in range(5)]

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for i, expected_i in enumerate(expected):
        assert len(results[i]) == 5
        for y in results[i]:
            np.testing.assert_array_equal(y, expected_i)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forked_child_computes_with_threads():
    expected = fastconv.conv2d(X, W, num_threads=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads is the point
        child = os.fork()
    if child == 0:  # never return into pytest
        code = 1
        try:
            same = all(
                np.array_equal(fastconv.conv2d(X, W, num_threads=2), expected) for _ in range(3)
            )
            code = 0 if same and len(pool._pool._helpers) == 1 else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    np.testing.assert_array_equal(fastconv.conv2d(X, W, num_threads=2), expected)


def test_a_process_that_used_threads_ends_cleanly():
    code = (
        "import numpy as np, fastconv\n"
        "x, w = np.ones((1, 64, 64, 16), 'f4'), np.ones((3, 3, 16, 16), 'f4')\n"
        "print(fastconv.conv2d(x, w, num_threads=3).sum())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == 62 * 62 * 16 * 144


def test_number_of_threads(monkeypatch):
    monkeypatch.setattr(threads, "_chosen", None)
    for name in ("FASTCONV_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    assert threads._default.__wrapped__() == threads.available_cpus() >= 1
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert threads._default.__wrapped__() == 5
    monkeypatch.setenv("FASTCONV_NUM_THREADS", "3")
    assert threads._default.__wrapped__() == 3
    threads._default.cache_clear()
    assert fastconv.get_num_threads() == 3
    threads._default.cache_clear()
    fastconv.set_num_threads(2)
    assert fastconv.get_num_threads() == 2
    for bad in (0, -1, 1.5, "2", True):
        with pytest.raises(ValueError, match="set_num_threads: the number of threads"):
            fastconv.set_num_threads(bad)


@pytest.mark.parametrize(
    ("text", "limit"), [("max 100000", np.inf), ("150000 100000", 1.5), ("nonsense", np.inf)]
)
def test_container_quota(monkeypatch, text, limit):
    class FakePath:
        def __init__(self, path):
            self.path = path

        def __truediv__(self, other):
            return FakePath(f"{self.path}/{other}")

        def read_text(self):
            if self.path.endswith("cpu.max"):
                return text
            raise FileNotFoundError(self.path)

    monkeypatch.setattr(threads, "Path", FakePath)
    assert threads._cgroup_quota() == limit


def taken(counter, thread, tasks, order, most):
    """Write the tasks that a thread gets, in order; `tasks` when there are none."""
    for i in range(most):
        store_int(order + 8 * i, take(counter, thread, tasks))


def test_threads_begin_in_halves_of_their_own():
    compiled = Driver(taken, 5).entry

    def run(thread, tasks, most, counters):
        order = np.full(most, -1, np.int64)
        compiled(counters.ctypes.data, thread, tasks, order.ctypes.data, most)
        return order.tolist()

    for tasks in (0, 1, 2, 7, 8):
        half = (tasks + 1) // 2
        first, second = list(range(half)), list(range(half, tasks))
        end = [tasks] * 3
        for thread, expected in ((0, first + second), (3, second + first)):
            assert run(thread, tasks, tasks + 3, np.zeros(2, np.int64)) == expected + end
    shared = np.zeros(2, np.int64)
    assert [run(1, 7, 2, shared), run(0, 7, 3, shared)] == [[4, 5], [0, 1, 2]]
    assert [run(1, 7, 2, shared), run(0, 7, 2, shared)] == [[6, 3], [7, 7]]

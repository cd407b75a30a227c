"""Compiled drivers give what Python gives for the same function."""

import itertools
import math
import subprocess
import sys

import numba
import numpy as np
import pytest

from fastconv.cpu.intrinsics import Inlined, store_int, store_sequence
from fastconv.cpu.native import Driver

NUMBERS = (-(2**40), -7, -3, -1, 1, 2, 3, 8, 2**33 + 1)


@Inlined
def quotient(a, b):
    return divmod(a, b)


@Inlined
def extremes(a, b):
    n, rest = quotient(a, b)
    if a < n <= b or not rest:
        return min(a, b), n, False
    return max(a, b), rest, a >= b


def arithmetic(address, a, b):
    first, second, third = extremes(a, b)
    total, i = a // b - a % b, 0
    while True:
        i += 1
        if i > 9:
            break
        if i % 3 == 0:
            continue
        total += first if i & 1 else second >> 1
    for k in range(b % 8, 40, 7):
        total -= k if third and k != 12 else min(k, 20)
    n, rest = quotient(second, max(b, 1))
    store_int(address, first)
    store_int(address + 8, total)
    store_int(address + 16, n * rest)


def in_python(function, **scope):
    """`function` as Python runs it, with these in place of its globals of the same name."""
    return type(function)(function.__code__, {**function.__globals__, **scope})


def test_a_driver_counts_like_python():
    compiled, found = Driver(arithmetic, 3).entry, np.zeros(3, np.int64)
    plain = in_python(quotient.function)
    expected = {}
    interpreted = in_python(
        arithmetic,
        quotient=plain,
        extremes=in_python(extremes.function, quotient=plain),
        store_int=expected.__setitem__,
    )
    for a, b in itertools.product(NUMBERS, repeat=2):
        compiled(found.ctypes.data, a, b)
        interpreted(0, a, b)
        assert found.tolist() == list(expected.values()), (a, b)


def sequence(address, start, step, count):
    store_sequence(address, start, step, count)


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 16, 29])
def test_a_sequence_of_numbers(count):
    found = np.full(40, -1, np.int64)
    Driver(sequence, 4).entry(found[3:].ctypes.data, 2**40, -17, count)
    expected = np.full(40, -1, np.int64)
    expected[3 : 3 + count] = 2**40 - 17 * np.arange(count)
    np.testing.assert_array_equal(found, expected)


def calls_python(address):
    store_int(address, math.gcd(address, 12))


def test_a_driver_cannot_call_what_is_compiled_apart():
    with pytest.raises(NotImplementedError, match="calls_python: drivers cannot call gcd"):
        Driver(calls_python, 1).entry  # noqa: B018


def divides(address):
    quotient(address / 2, 1)


def test_a_driver_cannot_hand_a_fraction_to_a_part():
    with pytest.raises(numba.TypingError, match="divides"):
        Driver(divides, 1).entry  # noqa: B018


def test_micro_kernels_do_not_need_numba():
    code = (
        "import sys; from fastconv.cpu.kernels import KERNELS;"
        "KERNELS[0].native._object_code(); print('numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["False"], done.stderr

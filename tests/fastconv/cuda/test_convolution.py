"""Convolution kernels of the table, simulated thread by thread against the reference."""

import dataclasses
import functools
import math

import numpy as np
import pytest

from fastconv import bounds, reference
from fastconv.cuda import convolution, kernels
from fastconv.cuda.activations import CURVES
from fastconv.cuda.kernels import HALVES
from fastconv.spec import Conv2d, ConvTranspose2d
from fastconv.weights import Weights
from tests.fastconv.cuda import lanes
from tests.fastconv.cuda.cases import (
    ALGORITHMS,
    CASES,
    FILTERS,
    MANY_CHANNELS,
    PAD,
    any_filter,
    check_filter,
    served,
)
from tests.fastconv.cuda.simulation import simulate
from tests.helpers import assert_equal, assert_within, integers, normals


@pytest.mark.parametrize("kernel, spec", [*served()])
def test_within_the_bound(kernel, spec):
    check_filter(spec, kernel, simulate)
    if kernel.shared:
        check_filter(spec, kernel, functools.partial(simulate, late=False))


@pytest.mark.parametrize("seed", range(40))
def test_any_layer_by_any_algorithm(seed):
    spec = any_filter(seed)
    served = [a for a in ALGORITHMS if convolution.able(spec, a)]
    assert "direct" in served
    for algorithm in served:
        check_filter(spec, convolution.choose(spec, algorithm), simulate)


@pytest.mark.parametrize("algorithm", ["wgmma", "wgmma_tma"])
@pytest.mark.parametrize("columns", [256, 128, 64])
def test_many_parts_and_blocks(columns, algorithm):
    """Stages are used again, and blocks lie beside each other."""
    (kernel,) = kernels.find(algorithm, "float16", columns=columns)
    c = 72 if algorithm == "wgmma" else 128
    spec = Conv2d((1, 10, 14, c), (3, 2, c, 264), pad=PAD, dtype="float16")
    x, w = integers(spec.x, 1, "float16"), integers(spec.w, 2, "float16")
    program = convolution.plan(spec, Weights(w), None, None, kernel)
    step = program.steps[0]
    assert step.constants["steps"] > 6 and min(step.grid[:2]) > 1
    y = simulate(program, spec.out, spec.dtype, x=x)
    working = dataclasses.replace(spec, dtype="float32")
    assert_equal(y, reference.conv2d(x, w, None, working).astype(np.float16))


@pytest.mark.parametrize("seed", range(12))
def test_any_layer_of_64_channels_by_tiles(seed):
    spec = dataclasses.replace(any_filter(seed, inputs=(64,)), dtype=HALVES[seed % 2])
    check_filter(spec, convolution.choose(spec, "wgmma_tma"), simulate)


@pytest.mark.parametrize(
    "change",
    [
        {"stride": (9, 1)},
        {"pad": ((129, 129), (1, 1))},
        {"dilation": (1, 128), "pad": ((1, 1), (128, 128))},
        {"pad": ((1, 1), (100, 300))},
        {"x": (1, 20, 30, 72), "w": (3, 3, 72, 8)},
    ],
    ids=str,
)
def test_what_a_tensor_map_cannot_say(change):
    spec = Conv2d((1, 20, 30, 64), (3, 3, 64, 8), pad=PAD, dtype="float16")
    assert convolution.able(spec, "wgmma_tma")
    assert not convolution.able(dataclasses.replace(spec, **change), "wgmma_tma")


def test_every_kernel_of_convolutions_serves_a_case():
    assert {param.values[0] for param in served()} == set(FILTERS)


@pytest.mark.parametrize("name", CURVES)
def test_activations_far_out(name):
    spec = Conv2d((1, 1, 12, 1), (1, 1, 1, 1), activation=name)
    x = np.array([-np.inf, -1e30, -95, -30, -6, -0.0, 0, 2, 30, 95, 1e30, np.inf], np.float32)
    x = x.reshape(spec.x)
    one = np.ones(spec.w, np.float32)
    program = convolution.plan(spec, Weights(one), None, None, convolution.choose(spec, "direct"))
    y = simulate(program, spec.out, spec.dtype, x=x)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = reference.conv2d(x, one, None, spec)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(y[~finite], expected[~finite])
    own = bounds.activation(name, expected[finite], 0, "float32", spec.alpha)
    assert_within(y[finite], expected[finite], own)


@pytest.mark.parametrize(
    "algorithm", ["direct", "tf32x3", "winograd_f2", "winograd_f4", "depthwise"]
)
def test_slopes_of_each_channel(algorithm):
    groups = 9 if algorithm == "depthwise" else 1
    c = 9 if groups > 1 else 4
    spec = Conv2d((1, 5, 6, c), (3, 3, c // groups, 9), groups=groups, activation="prelu")
    x, w, slopes = (normals(s, i) for i, s in enumerate((spec.x, spec.w, (9,))))
    program = convolution.plan(spec, Weights(w), None, slopes, convolution.choose(spec, algorithm))
    y = simulate(program, spec.out, "float32", x=x)
    expected = reference.conv2d(x, w, None, spec, slopes=slopes)
    bound = bounds.conv2d(x, w, None, spec, program.algorithm)
    assert_within(y, expected, bounds.activation("prelu", expected, bound, "float32", slopes))


@pytest.mark.parametrize("algorithm", ["direct", "tf32", "tf32x3", "tensor", "wgmma"])
@pytest.mark.parametrize("bits", [0x7FFFFFFF, 0xFFC00000])  # a GPU's own NaN, and another
@pytest.mark.parametrize("pool", [False, True])
def test_nan_is_kept_where_it_is(algorithm, bits, pool):
    dtype = "float16" if algorithm in ("tensor", "wgmma") else "float32"
    spec = Conv2d((1, 4, 5, 8), (1, 1, 8, 2), activation="relu6", pool=pool, dtype=dtype)
    x, w = normals(spec.x, 1, dtype), normals(spec.w, 2, dtype)
    words = x.view(f"u{x.itemsize}")
    words[0, 1, 2, 0] = bits >> (32 - 8 * x.itemsize)
    program = convolution.plan(spec, Weights(w), None, None, convolution.choose(spec, algorithm))
    wrong = np.isnan(simulate(program, spec.out, dtype, x=x))
    assert wrong[(0, 0, 1) if pool else (0, 1, 2)].all() and wrong.sum() == 2


def test_labels_are_those_of_the_result():
    spec = ConvTranspose2d((1, 3, 4, 4), (4, 4, 21, 4), (2, 2), PAD)
    x, w = normals(spec.x, 1), normals(spec.w, 2)
    program = convolution.plan(
        spec, Weights(w), None, None, convolution.choose(spec, "direct"), labels=True
    )
    labels = simulate(program, spec.out[:3], "uint8", x=x)
    expected = reference.conv2d_transpose(x, w, None, spec)
    np.testing.assert_array_equal(labels, expected.argmax(axis=3))


@pytest.mark.parametrize(
    "algorithm, multiply",
    [("winograd_f4", "simt_float32_32_4"), ("winograd_f4_tf32x3", "tf32x3_float32_64")],
)
@pytest.mark.parametrize("pool", [False, True])
def test_phases_of_winograd_and_their_slices(algorithm, multiply, pool, monkeypatch):
    spec = Conv2d((2, 38, 34, 6), (3, 3, 6, 20), pad=PAD, pool=pool)
    most = 128 * 36 * (8 + 20)  # numbers of 128 tiles; there are 2 * 10 * 9
    monkeypatch.setattr(convolution, "SLICE", most + 1000)
    check_filter(spec, convolution.choose(spec, algorithm), simulate)
    program = convolution.plan(
        spec, Weights(normals(spec.w, 1)), None, None, convolution.choose(spec, algorithm)
    )
    phases = [f"{algorithm}_input_1", multiply, f"winograd_f4_output_{1 + pool}"]
    assert [step.kernel.name for step in program.steps] == 2 * phases
    assert program.kernel.name == multiply
    assert [step.constants["tiles"] for step in program.steps[::3]] == [128, 180 - 128]
    assert sum(math.prod(shape) for shape, _ in program.between.values()) == most


def ignores_predicates(name, operand):
    """A block in which a function acts as if its predicate were true."""

    def always(self, *operands):
        operands = [True if i == operand else o for i, o in enumerate(operands)]
        return getattr(lanes.Block, name)(self, *operands)

    return type(f"Always_{name}", (lanes.Block,), {name: always})


class NoBarrier(lanes.Block):
    def syncthreads(self):
        pass


class Transposed(lanes.Block):
    def fma_outer(self, sums, a, b):
        return super().fma_outer(sums, b, a)


class ForgetsAStep(lanes.Block):
    def load_int(self, table, index):
        return super().load_int(table, index) - 1


class RoundsOperands(lanes.Block):
    def fma_outer(self, sums, a, b):
        return super().fma_outer(sums, [v.astype(np.float16).astype(np.float32) for v in a], b)


class NeverWaits(lanes.Block):
    def wait_groups(self, newest):
        pass


class WaitsForOneLess(lanes.Block):
    def wait_groups(self, newest):
        super().wait_groups(newest + 1)


class SwapsMatrices(lanes.Block):
    def matrices(self, shared, index):
        first, second, third, fourth = super().matrices(shared, index)
        return first, third, second, fourth


class ForgetsTheRest(lanes.Block):
    def split_tf32(self, numbers):
        high, low = super().split_tf32(numbers)
        return high, [0 * w for w in low]


class NoFence(lanes.Block):
    def fence_writes(self):
        pass


class NoFenceOfSums(lanes.Block):
    def open_products(self):
        pass


class WaitsForOneProductLess(lanes.Block):
    def wait_products(self, newest):
        super().wait_products(newest + 1)


class ReadsSumsInFlight(lanes.Block):
    def finish_products(self, sums):
        self.wait_products(0)
        return sums


class WrongStepOfRows(lanes.Block):
    def rows_at(self, shared, index):
        return super().rows_at(shared, index) + (1 << 32)


class Misaligned(lanes.Block):
    def _watch(self, tile, alignment):
        super()._watch(tile, alignment // 8)


class NeverWaitsForTiles(lanes.Block):
    def barrier_wait(self, shared, at, parity):
        pass


class WaitsForTheOtherParity(lanes.Block):
    def barrier_wait(self, shared, at, parity):
        super().barrier_wait(shared, at, 1 - parity)


class ExpectsMore(lanes.Block):
    def barrier_expect(self, shared, at, size, predicate):
        super().barrier_expect(shared, at, size + 16, predicate)


class NeverAcquires(lanes.Block):
    def acquire_map(self, tensor_map, predicate):
        pass


class StaysAtTheFirstTap(lanes.Block):
    def copy_im2col(self, shared, to, tensor_map, start, offsets, at, predicate):
        super().copy_im2col(shared, to, tensor_map, start, (0, 0), at, predicate)


FAULTS = [
    *((fault, "direct") for fault in (NoBarrier, Transposed, ForgetsAStep, RoundsOperands)),
    *((ignores_predicates(name, 2), "direct") for name in ("load1", "load4")),
    *((ignores_predicates(name, 3), "direct") for name in ("store1", "store4")),
    (ignores_predicates("select", 0), "direct"),
    *((fault, "tf32x3") for fault in (NoBarrier, NeverWaits, WaitsForOneLess, SwapsMatrices)),
    *((fault, "tf32x3") for fault in (ForgetsAStep, ForgetsTheRest)),
    *((ignores_predicates(name, 4), "tf32x3") for name in ("copy16",)),
    *((ignores_predicates(name, 3), "tf32x3") for name in ("store1", "store4")),
    *((fault, "winograd_f2") for fault in (NoBarrier, NeverWaits, RoundsOperands)),
    *((ignores_predicates(name, 2), "winograd_f2") for name in ("load1",)),
    *((ignores_predicates(name, 3), "winograd_f2") for name in ("store1", "store_shared4")),
    *((fault, "winograd_f4") for fault in (Transposed, ForgetsAStep, RoundsOperands)),
    *((ignores_predicates(name, 2), "winograd_f4") for name in ("load1", "load4")),
    *((ignores_predicates(name, 3), "winograd_f4") for name in ("store1", "store4")),
    *((fault, "wgmma") for fault in (NoBarrier, NeverWaits, WaitsForOneLess, ForgetsAStep)),
    *((fault, "wgmma") for fault in (NoFence, NoFenceOfSums, WaitsForOneProductLess)),
    *((fault, "wgmma") for fault in (ReadsSumsInFlight, WrongStepOfRows, Misaligned)),
    *((ignores_predicates(name, 4), "wgmma") for name in ("copy16",)),
    *((ignores_predicates(name, 3), "wgmma") for name in ("store1", "store4")),
    *((fault, "wgmma_tma") for fault in (NoBarrier, NoFence, WaitsForOneProductLess, Misaligned)),
    *((fault, "wgmma_tma") for fault in (NeverWaitsForTiles, WaitsForTheOtherParity, ExpectsMore)),
    *((fault, "wgmma_tma") for fault in (NeverAcquires, StaysAtTheFirstTap, ForgetsAStep)),
    *((ignores_predicates(name, 6), "wgmma_tma") for name in ("copy_im2col", "copy_bytes")),
]


@pytest.mark.parametrize("fault, algorithm", FAULTS, ids=lambda f: getattr(f, "__name__", f))
def test_the_simulator_finds_faults(fault, algorithm):
    found, run = [], functools.partial(simulate, block=fault)
    dtype = "float16" if algorithm in ("wgmma", "wgmma_tma") else "float32"
    for name, case in (MANY_CHANNELS if algorithm == "wgmma_tma" else CASES).items():
        spec = dataclasses.replace(case, dtype=dtype)
        if convolution.able(spec, algorithm):
            try:
                check_filter(spec, convolution.choose(spec, algorithm), run)
            except AssertionError as error:
                found.append((name, error))
    assert found


@pytest.mark.parametrize(
    "shape, kernel",
    [
        ((1, 1, 8, 128), "simt_float32_128_4"),
        ((1, 1, 3, 64), "simt_float32_32_1"),
        ((1, 1, 8, 21), "simt_float32_32_4"),
    ],
)
def test_the_choice_fills_blocks(shape, kernel):
    assert convolution.choose(Conv2d((1, 1, 1, shape[2]), shape), "direct").name == kernel

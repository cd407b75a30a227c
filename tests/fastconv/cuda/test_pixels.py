"""Pools, resizes, argmax and softmax, simulated thread by thread against the reference."""

import dataclasses
import functools

import numpy as np
import pytest

from fastconv.cuda import pixels
from fastconv.cuda.kernels import IMAGE_TYPES, KERNELS
from fastconv.cuda.program import chain
from fastconv.spec import NO_PAD, ChannelOp, Pool2d
from tests.fastconv.cuda import cases
from tests.fastconv.cuda.simulation import simulate
from tests.fastconv.cuda.test_convolution import NoBarrier, ignores_predicates
from tests.helpers import assert_equal, integers


@pytest.mark.parametrize("spec", cases.WINDOWS, ids=str)
def test_windows(spec):
    cases.check_windows(spec, simulate)


@pytest.mark.parametrize("spec", [s for s in cases.WINDOWS if "max" in str(s)], ids=str)
def test_indices(spec):
    cases.check_indices(spec, simulate)


@pytest.mark.parametrize("spec, label", cases.ARGMAXES, ids=str)
def test_argmax(spec, label):
    cases.check_argmax(spec, label, simulate)


@pytest.mark.parametrize("spec", cases.SOFTMAXES, ids=str)
def test_softmax(spec):
    cases.check_softmax(spec, simulate)


def test_every_kernel_of_windows_serves_a_case():
    programs = [chain("direct", pixels.windows(spec)) for spec in cases.WINDOWS]
    used = {step.kernel for program in programs for step in program.steps}
    served = {"max", "avg", "resize", "global_max", "global_avg"}
    assert used == {k for k in KERNELS if k.algorithm in served}


def test_every_kernel_of_channels_serves_a_case():
    stages = [pixels.channel_op(spec, np.dtype(label)) for spec, label in cases.ARGMAXES]
    stages += [pixels.channel_op(spec) for spec in cases.SOFTMAXES]
    used = {pixels.one(stage).kernel for stage in stages}
    assert used == {k for k in KERNELS if k.algorithm in {"argmax", "softmax"}}


GLOBAL = [s for s in cases.WINDOWS if s.size == s.x[1:3] and s.pad == NO_PAD and s.x[1] > 4]


@pytest.mark.parametrize("spec", GLOBAL, ids=str)
def test_global_pools_are_exact_and_do_not_depend_on_the_batch(spec):
    program = chain("direct", pixels.windows(spec))
    assert {step.kernel.algorithm for step in program.steps} == {f"global_{spec.kind}"}
    x = integers(spec.x, 1, spec.dtype)
    y = simulate(program, spec.out, spec.dtype, x=x)
    wide = x.astype(np.float32)
    count = np.float32(spec.x[1] * spec.x[2])
    expected = wide.max(axis=(1, 2)) if spec.kind == "max" else wide.sum(axis=(1, 2)) / count
    assert_equal(y[:, 0, 0].astype(float), expected.astype(y.dtype).astype(float))
    x = cases.random(spec.x, 2, spec.dtype)
    together = simulate(program, spec.out, spec.dtype, x=x)
    one = dataclasses.replace(spec, x=(1, *spec.x[1:]))
    program = chain("direct", pixels.windows(one))
    for image, y in zip(x, together, strict=True):
        alone = simulate(program, one.out, one.dtype, x=image[None])
        assert alone.tobytes() == y.tobytes()


@pytest.mark.parametrize("dtype", IMAGE_TYPES)
@pytest.mark.parametrize("size", [(5, 7, 1), (5, 2, 1), (3, 3, 5), (8, 8, 4)])
def test_unpooling(size, dtype):
    x = cases.random((3, 3, 3, size[2]), 1, dtype)
    places = np.random.default_rng(2).integers(0, np.prod(size), x.shape)
    program = pixels.one(pixels.unpool(places, (3, *size), dtype))
    assert program.kernel.name == f"take_{dtype}"
    y = simulate(program, (3, *size), dtype, x=x)
    expected = np.zeros((3, np.prod(size)), x.dtype)
    for image, numbers, where in zip(expected, x, places, strict=True):
        image[where.ravel()] = numbers.ravel()  # the last of several stays
    assert_equal(y.astype(float), expected.reshape(y.shape).astype(float))


SMALL = Pool2d((1, 9, 8, 12), "avg", (9, 8), (1, 1))
FAULTS = [
    *((NoBarrier, check) for check in ("argmax", "softmax", "global")),
    *((ignores_predicates(name, 2), "argmax") for name in ("load1", "load4")),
    *((ignores_predicates(name, 3), "softmax") for name in ("store1", "store4")),
    *((ignores_predicates(name, 2), "global") for name in ("load4",)),
    *((ignores_predicates(name, 3), "global") for name in ("store4",)),
]


@pytest.mark.parametrize("fault, check", FAULTS, ids=lambda f: getattr(f, "__name__", f))
def test_the_simulator_finds_faults(fault, check):
    run = functools.partial(simulate, block=fault)
    with pytest.raises(AssertionError):
        if check == "argmax":
            cases.check_argmax(ChannelOp((2, 9, 31, 20), "argmax"), "uint8", run)
        elif check == "softmax":
            cases.check_softmax(ChannelOp((2, 9, 31, 21), "softmax"), run)
        else:
            cases.check_windows(SMALL, run)

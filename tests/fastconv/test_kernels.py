"""The table of micro-kernels: every row of it computes, on this CPU and on a lesser one."""

import os
import subprocess
import sys

import numpy as np
import pytest

from fastconv import bounds, plan_conv2d, reference
from fastconv.cpu import direct, host, winograd
from fastconv.cpu.kernels import BUILDERS, KERNELS, candidates
from fastconv.cpu.micro.winograd import FEW_TILES
from fastconv.dtypes import DTYPES
from fastconv.memory import aligned_empty
from tests.helpers import assert_within, integers

RUNNABLE = [k for k in KERNELS if host.has(k.needs)]


def _rows(kind):
    return [k for k in RUNNABLE if k.kind == kind]


@pytest.mark.parametrize("kernel", _rows("gemm") + _rows("gemm_pool"), ids=lambda k: k.name)
@pytest.mark.parametrize("columns", [1, 16, 21, 70])
def test_matrix_kernels_are_exact(kernel, columns, monkeypatch):
    monkeypatch.setattr(direct, "choose_kernel", lambda *_: kernel)
    pool = kernel.kind == "gemm_pool"
    for channels in (1, 3, 4, 7):  # segments of every remainder
        x = integers((2, 6, 7, channels), seed=1, dtype=kernel.dtype)
        w = integers((3, 3, channels, columns), seed=2, dtype=kernel.dtype)
        b = integers((columns,), seed=3, dtype=kernel.dtype)
        plan = plan_conv2d(x.shape, w, b, padding="same", pool=pool, algorithm="direct")
        assert plan.kernel == kernel.name
        np.testing.assert_array_equal(plan(x), reference.conv2d(x, w, b, plan.spec))


@pytest.mark.parametrize("schedule", ["fused", "phased"])
@pytest.mark.parametrize("kernel", _rows("panels"), ids=lambda k: k.name)
def test_winograd_kernels_stay_within_the_bound(kernel, schedule, monkeypatch):
    choice = (schedule, kernel, 2 * kernel.mr, 2)
    monkeypatch.setattr(winograd, "choose_schedule", lambda *_: choice)
    x = integers((1, 22, 19, 18), seed=1, dtype=kernel.dtype)
    w = integers((3, 3, 18, 35), seed=2, dtype=kernel.dtype)
    plan = plan_conv2d(x.shape, w, padding="same", algorithm="winograd_f4")
    assert plan.kernel == kernel.name
    bound = bounds.conv2d(x, w, None, plan.spec, "winograd_f4")
    assert_within(plan(x), reference.conv2d(x, w, None, plan.spec), bound)


needs_32_registers = pytest.mark.skipif(
    not host.has("avx512f"), reason="with 16 registers few channels are nothing special"
)


@needs_32_registers
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("columns", [5, 16, 35])
@pytest.mark.parametrize("taps, stride", FEW_TILES)
def test_few_channels_stay_within_the_bound(taps, stride, columns, channels, dtype):
    x = integers((2, 22, 19, channels), seed=1, dtype=dtype)
    w = integers((taps, taps, channels, columns), seed=2, dtype=dtype)
    b = integers((columns,), seed=3, dtype=dtype)
    for options in (
        {"padding": "same"}, {"padding": ((2, 0), (1, 3)), "activation": "relu6"},
        {"padding": "same", "pool": True, "activation": "relu"}, {"activation": "gelu"},
        {"dilation": (2, 3) if stride == 1 else 1},
    ):  # fmt: skip
        plan = plan_conv2d(x.shape, w, b, stride=stride, algorithm="winograd_f4", **options)
        kind = "few_pool" if "pool" in options else "few_output"
        assert plan.kernel.startswith(f"winograd_{kind}_{dtype}_4x1_taps{taps}")
        assert plan.kernel.endswith(f"depth{channels}")
        bound = bounds.conv2d(x, w, b, plan.spec, "winograd_f4")
        assert_within(plan(x), reference.conv2d(x, w, b, plan.spec), bound)


@needs_32_registers
def test_few_channels_past_the_caches(monkeypatch):
    monkeypatch.setattr(host, "bypasses", lambda nbytes: True)
    x, w = integers((1, 21, 18, 3), seed=1), integers((3, 3, 3, 32), seed=2)
    plan = plan_conv2d(x.shape, w, padding="same", algorithm="winograd_f4")
    out = aligned_empty(plan.shape, np.float32)
    assert plan._executor._template_for(out.ctypes.data) is plan._executor._streaming is not None
    assert plan._executor._template_for(out.ctypes.data + 4) is plan._executor._template
    bound = bounds.conv2d(x, w, None, plan.spec, "winograd_f4")
    assert_within(plan(x, out=out), reference.conv2d(x, w, None, plan.spec), bound)


def test_every_kind_has_a_row_for_every_host_and_dtype():
    for kind in BUILDERS:
        dtypes = {k.dtype for k in KERNELS if k.kind == kind}
        assert dtypes in ({"float32", "float64"}, set(DTYPES), {"float16", "bfloat16"}), kind
        if "few" in kind:  # an algorithm that other hosts do without
            continue
        for dtype in dtypes:
            assert any(k.needs == "" for k in KERNELS if (k.kind, k.dtype) == (kind, dtype)), kind
            assert candidates(kind, dtype)
    assert len({k.name for k in KERNELS}) == len(KERNELS)


LESSER = """
import llvmlite.binding as llvm

emit_object = llvm.TargetMachine.emit_object

def narrow(target, module):
    assert "zmm" not in target.emit_assembly(module)
    return emit_object(target, module)

llvm.TargetMachine.emit_object = narrow
import numpy as np
import fastconv
from fastconv import bounds, plan_conv2d, reference
from fastconv.cpu import host
from tests.helpers import assert_within, integers
assert not host.has("avx512f")
for channels, algorithm in ((3, "direct"), (3, "winograd_f4"), (20, "winograd_f4")):
    for pool in (False, True):
        x, w = integers((1, 18, 17, channels), seed=1), integers((3, 3, channels, 21), seed=2)
        plan = plan_conv2d(x.shape, w, padding="same", algorithm=algorithm, pool=pool)
        print(plan.kernel)
        y, expected = plan(x), reference.conv2d(x, w, None, plan.spec)
        assert_within(y, expected, bounds.conv2d(x, w, None, plan.spec, algorithm))
"""


@pytest.mark.slow
@pytest.mark.skipif(not host.has("avx512f"), reason="this host has no wider kernels to switch off")
@pytest.mark.parametrize("cpu", ["haswell", "x86-64"])
def test_a_lesser_cpu_gets_narrower_kernels(cpu, tmp_path):
    env = {**os.environ, "NUMBA_CPU_NAME": cpu, "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", LESSER], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        "gemm_float32_6x1", "gemm_pool_float32_4x1",
        "panels_float32_6x1", "panels_float32_6x1", "panels_float32_6x1", "panels_float32_6x1",
    ]  # fmt: skip

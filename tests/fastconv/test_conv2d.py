"""Convolution on the CPU: indices bit for bit, rounding by the bounds, and which kernel ran."""

import itertools

import numpy as np
import pytest
from scipy.signal import correlate

from fastconv import bounds, conv2d, depthwise_conv2d, plan_conv2d, reference
from fastconv.cook_toom import TILES
from fastconv.cpu import direct, host, winograd
from tests.helpers import assert_within, integers

CHANNELS = [(1, 1, 1), (3, 5, 1), (17, 33, 1), (4, 6, 2), (6, 6, 6), (3, 12, 3)]  # c, k, groups
KERNELS = [(1, 1), (3, 3), (2, 5), (4, 1)]
STRIDES = [(1, 1), (2, 2), (3, 1)]
DILATIONS = [(1, 1), (2, 3)]
WINOGRAD = ["winograd_f2", "winograd_f4", "winograd_f6"]
TILED = [(taps, stride, m) for (taps, stride), sizes in TILES.items() for m in sizes]
PADDINGS = ["valid", "same", "same_lower", ((0, 3), (2, 0))]


def _case(x_shape, w_shape, bias=True, dtype="float32"):
    x, w = integers(x_shape, seed=1, dtype=dtype), integers(w_shape, seed=2, dtype=dtype)
    return x, w, integers((w_shape[3],), seed=3, dtype=dtype) if bias else None


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("channels", CHANNELS, ids=str)
def test_direct_indices_are_exact(channels, dtype):
    c, k, groups = channels
    ran = 0
    for kernel, stride, dilation, padding in itertools.product(
        KERNELS, STRIDES, DILATIONS, PADDINGS
    ):
        x, w, b = _case((2, 9, 13, c), (*kernel, c // groups, k), dtype=dtype)
        plan = plan_conv2d(
            x.shape, w, b, stride=stride, dilation=dilation, padding=padding, groups=groups,
            algorithm="direct", activation="relu",
        )  # fmt: skip
        assert plan.algorithm == "direct"
        kind = "depthwise" if groups == c > 1 else "gemm"
        assert plan.kernel.startswith(f"{kind}_{dtype}")
        np.testing.assert_array_equal(plan(x), reference.conv2d(x, w, b, plan.spec))
        ran += 1
    assert ran == 96


@pytest.mark.parametrize("algorithm", WINOGRAD)
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [(4, 4), (5, 9), (18, 23)], ids=str)
@pytest.mark.parametrize("channels", [(16, 32), (17, 33), (5, 70)], ids=str)
def test_winograd_stays_within_its_bound(channels, size, dtype, pool, algorithm):
    c, k = channels
    x, w, b = _case((2, *size, c), (3, 3, c, k), dtype=dtype)
    for padding in ("same", "valid", ((2, 0), (1, 3))):
        plan = plan_conv2d(
            x.shape, w, b, padding=padding, algorithm=algorithm, activation="relu6", pool=pool
        )
        assert plan.algorithm == algorithm
        assert plan.kernel.startswith("panels_")
        expected = reference.conv2d(x, w, b, plan.spec)
        assert_within(plan(x), expected, bounds.conv2d(x, w, b, plan.spec, algorithm))


@pytest.mark.parametrize("schedule", ["fused", "phased"])
@pytest.mark.parametrize("tile", TILED, ids=str)
def test_every_winograd_tile(tile, schedule, monkeypatch):
    taps, stride, m = tile
    kernel = winograd.candidates("panels", "float32")[0]
    monkeypatch.setattr(winograd, "choose_schedule", lambda *_: (schedule, kernel, kernel.mr, 1))
    x, w, b = _case((2, 23, 18, 17), (taps, taps, 17, 35))
    for padding in ("same", "valid", ((2, 0), (1, 3))):
        plan = plan_conv2d(
            x.shape, w, b, stride=stride, padding=padding, algorithm=f"winograd_f{m}"
        )
        assert (plan.algorithm, plan._executor.schedule) == (f"winograd_f{m}", schedule)
        expected = reference.conv2d(x, w, b, plan.spec)
        assert_within(plan(x), expected, bounds.conv2d(x, w, b, plan.spec, plan.algorithm))


@pytest.mark.parametrize("schedule", ["fused", "phased"])
@pytest.mark.parametrize("dilation", [2, (1, 3), 4, (5, 2)], ids=str)
def test_dilated_winograd(dilation, schedule, monkeypatch):
    kernel = winograd.candidates("panels", "float32")[0]
    monkeypatch.setattr(winograd, "choose_schedule", lambda *_: (schedule, kernel, kernel.mr, 1))
    x, w, b = _case((2, 19, 22, 17), (3, 3, 17, 35))
    for padding in ("same", "valid", ((7, 0), (1, 3))):
        plan = plan_conv2d(
            x.shape, w, b, padding=padding, dilation=dilation, algorithm="winograd_f4"
        )
        expected = reference.conv2d(x, w, b, plan.spec)
        assert_within(plan(x), expected, bounds.conv2d(x, w, b, plan.spec, "winograd_f4"))


def test_all_winograd_schedules_and_tiles_give_the_same_bits(monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 64, 64, 40), np.float32)
    w = rng.standard_normal((3, 3, 40, 72), np.float32)
    results = []
    for schedule, kernel, group in itertools.product(
        ("fused", "phased"), winograd.candidates("panels", "float32"), (1, 3)
    ):
        chosen = (schedule, kernel, 2 * kernel.mr, group)
        monkeypatch.setattr(winograd, "choose_schedule", lambda *_, chosen=chosen: chosen)
        plan = plan_conv2d(x.shape, w, padding="same", algorithm="winograd_f4")
        assert (plan._executor.schedule, plan.kernel) == (schedule, kernel.name)
        results.append(plan(x))
    for y in results[1:]:
        np.testing.assert_array_equal(y, results[0])


@pytest.mark.parametrize("algorithm", ["direct", *WINOGRAD])
def test_random_data_stays_within_the_bound_of_scipy(algorithm):
    rng = np.random.default_rng(5)
    x = rng.standard_normal((2, 21, 18, 19), np.float32)
    w = rng.standard_normal((3, 3, 19, 9), np.float32)
    plan = plan_conv2d(x.shape, w, algorithm=algorithm)
    expected = np.stack(
        [
            np.stack(
                [correlate(image, w[..., k], "valid")[..., 0] for k in range(9)], axis=-1
            )
            for image in x.astype(np.float64)
        ]
    )  # fmt: skip
    assert_within(plan(x), expected, bounds.conv2d(x, w, None, plan.spec, algorithm))


def test_all_direct_tiles_give_the_same_bits(monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 9, 11, 7), np.float32)
    w = rng.standard_normal((3, 3, 7, 70), np.float32)
    results = []
    for kernel in direct.candidates("gemm", "float32"):
        monkeypatch.setattr(direct, "choose_kernel", lambda *_, kernel=kernel: kernel)
        plan = plan_conv2d(x.shape, w, padding="same", algorithm="direct")
        assert plan.kernel == kernel.name
        results.append(plan(x))
    for y in results[1:]:
        np.testing.assert_array_equal(y, results[0])


@pytest.mark.parametrize("activation", ["relu", "silu"])  # clamped by the kernel, or afterwards
@pytest.mark.parametrize("channels", [(170, 40, 1), (340, 70, 2)], ids=str)
def test_sums_in_parts(channels, activation):
    """From DEEP products on, a sum is made in parts, from a padded copy."""
    c, k, groups = channels
    x, w, b = _case((2, 9, 7, c), (3, 3, c // groups, k))
    plan = plan_conv2d(
        x.shape, w, b, padding="same", groups=groups, activation=activation, algorithm="direct"
    )
    assert plan._executor._padded
    names = direct.JOB.names
    template = dict(zip(names, plan._executor._template[-len(names) :], strict=True))
    assert template["nseg"] > template["part"]
    expected = reference.conv2d(x, w, b, plan.spec)
    bound = 0 if activation == "relu" else bounds.conv2d(x, w, b, plan.spec, "direct")
    assert_within(plan(x), expected, bound)


@pytest.mark.parametrize("algorithm", ["direct", "winograd_f4"])
def test_streaming_stores_give_the_same_bits(algorithm):
    x = integers((1, 250, 244, 16), seed=1)
    w = integers((3, 3, 16, 128), seed=2)
    plan = plan_conv2d(x.shape, w, padding="same", algorithm=algorithm)
    assert plan._executor._streaming
    unaligned = np.empty(np.prod(plan.spec.out) + 1, np.float32)[1:].reshape(plan.spec.out)
    assert unaligned.ctypes.data % 64
    np.testing.assert_array_equal(plan(x), plan(x, out=unaligned))


@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("channels", [1, 7, 16, 37])
def test_depthwise(channels, multiplier):
    x, w = integers((2, 8, 9, channels), seed=1), integers((3, 2, channels, multiplier), seed=2)
    y = depthwise_conv2d(x, w, stride=(1, 2), dilation=(2, 1), padding="same")
    for c, m in np.ndindex(channels, multiplier):
        one = conv2d(x[..., [c]], w[:, :, [c], m : m + 1], stride=(1, 2), dilation=(2, 1),
                     padding="same")  # fmt: skip
        np.testing.assert_array_equal(y[..., c * multiplier + m], one[..., 0])
    spec = plan_conv2d(x.shape, w.reshape(3, 2, 1, -1), groups=channels, stride=(1, 2),
                       dilation=(2, 1), padding="same").spec  # fmt: skip
    np.testing.assert_array_equal(y, reference.conv2d(x, w.reshape(3, 2, 1, -1), None, spec))


@pytest.mark.parametrize("channels", [3, 37, 130])  # one block, of one vector or more, or two
@pytest.mark.parametrize("rows", [1, 8, 9])  # a single one, pairs, and what they leave
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("taps", [3, 5])
def test_pairs_of_rows_of_depthwise(taps, stride, rows, channels):
    x = integers((1, (rows - 1) * stride + 1, 17, channels), seed=1)
    w, bias = integers((taps, taps, 1, channels), seed=2), integers((channels,), seed=3)
    plan = plan_conv2d(x.shape, w, bias, groups=channels, stride=stride, padding=taps // 2)
    pixels = 8 if (taps, stride) == (3, 1) and host.has("avx512f") else 4
    assert plan.kernel.startswith(f"depthwise_float32_{pixels}x1")
    assert ("rows2" in plan.kernel) == (rows > 1)
    assert f"taps{taps}" in plan.kernel
    np.testing.assert_array_equal(plan(x), reference.conv2d(x, w, bias, plan.spec))


@pytest.mark.parametrize("options", [
    {"stride": (1, 2)}, {"stride": (2, 1)}, {"dilation": (2, 1)}, {"dilation": (1, 2)},
])  # fmt: skip
def test_depthwise_by_single_rows(options):
    x, w = integers((1, 8, 9, 21), seed=1), integers((3, 3, 1, 21), seed=2)
    plan = plan_conv2d(x.shape, w, groups=21, padding=1, **options)
    assert "rows" not in plan.kernel
    np.testing.assert_array_equal(plan(x), reference.conv2d(x, w, None, plan.spec))


@pytest.mark.parametrize("algorithm", ["direct", "winograd_f4"])
def test_nan_and_infinity_stay_visible(algorithm):
    x = np.ones((1, 24, 24, 16), np.float32)
    w = np.ones((3, 3, 16, 16), np.float32)
    for value in (np.nan, np.inf):
        x[0, 9, 9, 3] = value
        y = conv2d(x, w, padding="same", activation="relu6", algorithm=algorithm)
        touched = ~(y == np.minimum(y, 6))
        reach = ~np.isfinite(conv2d(x, w, padding="same", algorithm=algorithm)).all(axis=(0, 3))
        # Winograd spreads it over the tiles that read it; both keep it from the rest.
        rows = slice(8, 11) if algorithm == "direct" else slice(8, 12)
        expected = np.zeros((24, 24), bool)
        expected[rows, rows] = True
        np.testing.assert_array_equal(reach, expected)
        if np.isnan(value):
            np.testing.assert_array_equal(touched[0].all(axis=2), expected)


def test_relu_of_nan_is_nan_and_of_minus_zero_is_zero():
    x = np.array([np.nan, -np.inf, -0.0, -1.0, 2.0, np.inf], np.float32).reshape(1, 1, 6, 1)
    y = conv2d(x, np.ones((1, 1, 1, 1), np.float32), activation="relu")[0, 0, :, 0]
    np.testing.assert_array_equal(y, np.array([np.nan, 0, 0, 0, 2, np.inf], np.float32))


def test_nan_wins_in_a_fused_pool():
    x = np.zeros((1, 4, 4, 1), np.float32)
    x[0, 1, 2, 0] = np.nan
    one = np.ones((1, 1, 1, 1), np.float32)
    y = plan_conv2d(x.shape, one, pool=True)(x)[0, :, :, 0]
    np.testing.assert_array_equal(y, [[0, np.nan], [0, 0]])


@pytest.mark.parametrize(
    "shape", [(0, 8, 8, 3), (0, 64, 64, 32), (2, 0, 8, 32), (2, 8, 8, 0)], ids=str
)
def test_empty_inputs_give_shaped_results(shape):
    w = integers((3, 3, shape[3], 19), seed=1)
    b = integers((19,), seed=2)
    y = conv2d(np.zeros(shape, np.float32), w, b, padding="same")
    assert y.shape == (*shape[:3], 19)
    np.testing.assert_array_equal(y, np.broadcast_to(b, y.shape))


def test_no_output_channels():
    y = conv2d(np.zeros((1, 8, 8, 3), np.float32), np.zeros((3, 3, 3, 0), np.float32))
    assert y.shape == (1, 6, 6, 0)


def test_auto_chooses_by_the_layer():
    def algorithm(x, w, **options):
        return plan_conv2d(x, np.zeros(w, np.float32), **options).algorithm

    assert algorithm((1, 56, 56, 64), (3, 3, 64, 64), padding="same") == "winograd_f4"
    assert algorithm((1, 56, 56, 3), (3, 3, 3, 64)) == "winograd_f4"
    assert algorithm((1, 56, 56, 3), (3, 3, 3, 64), stride=2) == "direct"
    assert algorithm((1, 58, 58, 64), (3, 3, 64, 64), stride=2) == "winograd_f4"  # 28 x 28
    assert algorithm((1, 67, 67, 256), (3, 3, 256, 256), stride=2) == "winograd_f3"
    assert algorithm((1, 56, 56, 64), (3, 3, 64, 64), stride=3) == "direct"
    assert algorithm((1, 56, 56, 64), (3, 3, 64, 64), dilation=2) == "winograd_f4"
    assert algorithm((1, 16, 16, 64), (3, 3, 64, 64), dilation=6) == "direct"
    assert algorithm((1, 3, 3, 64), (3, 3, 64, 64)) == "direct"


@pytest.mark.slow
def test_addresses_beyond_2_to_the_31_elements():
    side = 47_000  # 2.2e9 pixels of untouched zero pages
    x = np.zeros((1, side, side, 1), np.float32)
    x[0, -1, -1, 0], x[0, 0, 0, 0] = 7, 3
    w = np.ones((1, 1, 1, 1), np.float32)
    y = conv2d(x, w, stride=side - 1)
    np.testing.assert_array_equal(y[0, :, :, 0], [[3, 0], [0, 7]])

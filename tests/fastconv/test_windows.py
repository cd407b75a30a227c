"""Pooling and resizing on the CPU."""

import itertools

import numpy as np
import pytest

import fastconv
from fastconv import bounds, reference
from fastconv.cpu import plan_windows, plan_windows_argmax, pooling, windows
from fastconv.memory import aligned_empty
from fastconv.spec import COORDINATES, METHODS, Pool2d, Resize2d
from tests.helpers import assert_within, integers

PADDINGS = {"valid": ((0, 0), (0, 0)), "one": ((1, 1), (1, 1)), "odd": ((0, 1), (1, 0))}


def _specs(kind, shape, dtype, **options):
    """Every window that fits."""
    for size, stride, dilation, pad in itertools.product(
        [(2, 2), (3, 2), (1, 3)], [(1, 1), (2, 2), (3, 2)], [(1, 1), (2, 2)], PADDINGS.values()
    ):
        try:
            spec = Pool2d(shape, kind, size, stride, pad, dilation, dtype=dtype, **options)
        except ValueError:  # a window with nothing but padding
            continue
        yield spec, {"size": size, "stride": stride, "dilation": dilation, "padding": pad}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("channels", [1, 16, 37])
def test_max_pool_and_its_indices_are_exact(channels, dtype):
    x = integers((2, 7, 6, channels), seed=1, dtype=dtype)  # small integers: many ties
    ran = 0
    for spec, options in _specs("max", x.shape, dtype):
        y, indices = fastconv.max_pool2d(x, return_indices=True, **options)
        np.testing.assert_array_equal(y, reference.pool2d(x, spec))
        np.testing.assert_array_equal(indices, reference.max_pool2d_indices(x, spec))
        np.testing.assert_array_equal(y, fastconv.max_pool2d(x, **options))
        ran += 1
    assert ran > 40


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_avg_pool_stays_within_the_bound(dtype, include):
    x = np.random.default_rng(0).standard_normal((2, 7, 6, 19)).astype(dtype)
    for spec, options in _specs("avg", x.shape, dtype, count_include_pad=include):
        y = fastconv.avg_pool2d(x, count_include_pad=include, **options)
        assert_within(y, reference.pool2d(x, spec), bounds.pool2d(x, spec))


def test_ceil_mode_adds_the_window_that_reaches_past_the_end():
    x = np.arange(5, dtype=np.float32).reshape(1, 1, 5, 1)
    pool = {"size": (1, 2), "stride": 2}
    np.testing.assert_array_equal(fastconv.max_pool2d(x, **pool)[0, 0, :, 0], [1, 3])
    np.testing.assert_array_equal(
        fastconv.max_pool2d(x, ceil_mode=True, **pool)[0, 0, :, 0], [1, 3, 4]
    )
    np.testing.assert_array_equal(
        fastconv.avg_pool2d(x, ceil_mode=True, **pool)[0, 0, :, 0], [0.5, 2.5, 4]
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_special_values_in_a_window(value):
    x = np.zeros((1, 4, 4, 1), np.float32)
    x[0, 0, 1, 0] = value
    y, indices = fastconv.max_pool2d(x, 2, return_indices=True)
    np.testing.assert_array_equal(y[0, 0, :, 0], [0 if value == -np.inf else value, 0])
    assert indices[0, 0, 0, 0] == (0 if value == -np.inf else 1)
    np.testing.assert_array_equal(fastconv.avg_pool2d(x, 2)[0, 0, :, 0], [value, 0])
    np.testing.assert_array_equal(fastconv.avg_pool2d(x, 2)[0, 1, :, 0], [0, 0])


def test_a_window_of_minus_infinity_has_an_index():
    x = np.full((1, 2, 2, 3), -np.inf, np.float32)
    y, indices = fastconv.max_pool2d(x, 2, return_indices=True)
    np.testing.assert_array_equal(y, np.full((1, 1, 1, 3), -np.inf))
    np.testing.assert_array_equal(indices[0, 0, 0], [0, 1, 2])


def test_unpool_puts_values_back():
    x = integers((2, 6, 8, 5), seed=1)
    y, indices = fastconv.max_pool2d(x, 2, return_indices=True)
    back = fastconv.max_unpool2d(y, indices, (6, 8))
    kept = back != 0
    np.testing.assert_array_equal(back[kept], x[kept])
    np.testing.assert_array_equal(fastconv.max_pool2d(back, 2), np.maximum(y, 0))
    with pytest.raises(ValueError, match=r"max_unpool2d: indices go from .* 3 x 4 x 5"):
        fastconv.max_unpool2d(y, indices, (3, 4))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("threads", [1, 2])
def test_unpool_takes_any_indices(dtype, threads):
    # several bands of the output, places that several values go to, rows in any order
    rng = np.random.default_rng(0)
    x = integers((2, 300, 20, 7), seed=1).astype(dtype)
    indices = rng.integers(0, 90 * 301 * 7, x.shape).astype(np.int32)
    expected = np.zeros((2, 90 * 301 * 7), dtype)
    for n in range(2):
        for value, place in zip(x[n].flat, indices[n].flat, strict=True):
            expected[n, place] = value
    y = fastconv.max_unpool2d(x, indices, (90, 301), num_threads=threads)
    np.testing.assert_array_equal(y, expected.reshape(2, 90, 301, 7))


def test_unpool_of_nothing_is_zero():
    nothing = np.zeros((2, 0, 3, 5), np.float32)
    out = np.full((2, 4, 6, 5), 7, np.float32)
    fastconv.max_unpool2d(nothing, nothing.astype(np.int64), (4, 6), out=out)
    assert not out.any()


def test_global_pools():
    x = integers((3, 5, 7, 21), seed=1)
    np.testing.assert_array_equal(fastconv.global_max_pool2d(x), x.max(axis=(1, 2)))
    mean = fastconv.global_avg_pool2d(x)
    spec = Pool2d(x.shape, "avg", (5, 7), (5, 7))
    assert_within(mean, x.astype(float).mean(axis=(1, 2)), bounds.pool2d(x, spec)[:, 0, 0])
    with pytest.raises(ValueError, match="global_max_pool2d: no pixels"):
        fastconv.global_max_pool2d(x[:, :0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("method", METHODS)
def test_resize_stays_within_the_bound(method, coordinates, dtype):
    rng = np.random.default_rng(0)
    for size, target in itertools.product(
        [(5, 7), (1, 1), (4, 4)], [(10, 14), (3, 3), (9, 5), (1, 1), (4, 4)]
    ):
        x = rng.standard_normal((2, *size, 5)).astype(dtype)
        spec = Resize2d(x.shape, target, method, coordinates, dtype)
        y = fastconv.resize2d(x, target, method=method, coordinates=coordinates)
        assert_within(y, reference.resize2d(x, spec), bounds.resize2d(x, spec))


@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.parametrize("channels", [1, 21, 64])
def test_strips_of_long_rows_fit_together(kind, channels):
    x = integers((1, 4, 1030, channels), seed=1)
    for size, stride, padding in ((2, 2, 0), (3, 2, 1), (5, 1, 2), (1, 3, 0)):
        pool = getattr(fastconv, f"{kind}_pool2d")
        y = pool(x, (2, size), stride=(2, stride), padding=((0, 0), (padding, padding)))
        spec = Pool2d(x.shape, kind, (2, size), (2, stride), ((0, 0), (padding, padding)))
        assert_within(y, reference.pool2d(x, spec), bounds.pool2d(x, spec))


@pytest.mark.parametrize("shape", [
    (1, 1, 1, 1), (2, 1, 3, 7), (2, 3, 3, 16), (1, 5, 2, 40), (2, 3, 3, 300), (1, 2, 4, 700),
    (2, 61, 67, 40), (1, 300, 150, 3), (1, 30, 31, 300),  # the last three are cut into parts
], ids=str)  # fmt: skip
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_pools_over_whole_images(shape, dtype):
    x = integers(shape, seed=1).astype(dtype)
    _, h, w, c = shape
    parts = h * w * min(c, pooling.BLOCK) >= 2 * pooling.TASK
    assert parts == (shape in {(2, 61, 67, 40), (1, 300, 150, 3), (1, 30, 31, 300)})
    for kind, pool, name in (
        ("max", fastconv.global_max_pool2d, "max"),
        ("avg", fastconv.global_avg_pool2d, "sum" if parts else "mean"),
    ):
        spec = Pool2d(shape, kind, (h, w), (h, w), dtype=np.dtype(dtype).name)
        plan = plan_windows(spec)
        assert plan.kernel.name.startswith(f"whole_{name}_{spec.dtype}")
        expected = reference.pool2d(x, spec)[:, 0, 0].astype(dtype)
        np.testing.assert_array_equal(pool(x), expected)
        np.testing.assert_array_equal(pool(x, num_threads=3), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("channels", [16, 21, 70])
@pytest.mark.parametrize("size, stride, shape", [
    (2, (2, 2), (2, 6, 8)), (2, (2, 2), (1, 7, 5)), (2, (1, 1), (1, 4, 5)), (3, (2, 2), (1, 9, 8)),
    (3, (1, 3), (1, 3, 9)),
], ids=str)  # fmt: skip
def test_small_windows_inside_of_the_image(size, stride, shape, channels, dtype):
    x = integers((*shape, channels), seed=1).astype(dtype)
    for kind, name in (("max", "max"), ("avg", "mean")):
        pool = getattr(fastconv, f"{kind}_pool2d")
        spec = Pool2d(x.shape, kind, (size, size), stride, dtype=np.dtype(dtype).name)
        plan = plan_windows(spec)
        assert plan.kernel.name == f"window_{name}_{spec.dtype}_1x1_taps{size}"
        exact = reference.pool2d(x, spec)
        np.testing.assert_array_equal(pool(x, size, stride=stride), exact.astype(dtype))
        special = np.random.default_rng(0).standard_normal(x.shape).astype(dtype)
        special[0, 1:3, 1, 3] = np.nan, -np.inf
        tables = windows.axes(spec, kind == "max")
        two_steps = np.empty(spec.out, dtype)
        windows.Windows(name, x.shape, *tables, spec.dtype, spec.dtype).run(special, two_steps, 1)
        np.testing.assert_array_equal(pool(special, size, stride=stride), two_steps)
        assert np.isnan(two_steps[..., 3]).any()


@pytest.mark.parametrize("kind", ["max", "avg"])
def test_pools_past_the_caches_have_the_same_bits(kind, monkeypatch):
    x = np.random.default_rng(0).standard_normal((1, 33, 20, 48), np.float32)
    spec = Pool2d(x.shape, kind, (2, 2), (2, 2))
    plain, out = np.empty(spec.out, np.float32), aligned_empty(spec.out, np.float32)
    pooling.plan(spec).run(x, plain, 1)
    monkeypatch.setattr(pooling.host, "bypasses", lambda nbytes: nbytes == x.nbytes + out.nbytes)
    past = pooling.plan(spec)
    assert past._streaming is not past._template
    past.run(x, out, 1)
    np.testing.assert_array_equal(out, plain)
    unaligned = np.empty(out.size + 1, np.float32)[1:].reshape(out.shape)
    assert unaligned.ctypes.data % 64
    past.run(x, unaligned, 1)
    np.testing.assert_array_equal(unaligned, plain)


@pytest.mark.parametrize("shape", [(1, 3, 3, 21), (1, 80, 90, 21)], ids=str)
def test_nan_in_a_pool_over_a_whole_image(shape):
    x = np.ones(shape, np.float32)
    x[0, -1, -1, 3] = np.nan
    for pool in (fastconv.global_max_pool2d, fastconv.global_avg_pool2d):
        np.testing.assert_array_equal(np.isnan(pool(x)[0]), np.arange(21) == 3)


def test_a_whole_pool_has_the_same_bits_in_any_batch():
    x = np.random.default_rng(0).standard_normal((17, 60, 61, 41), np.float32)
    together = fastconv.global_avg_pool2d(x)
    np.testing.assert_array_equal(together[3:4], fastconv.global_avg_pool2d(x[3:4]))


@pytest.mark.parametrize("channels", [1, 5, 21, 300])
def test_resized_labels_are_those_of_the_resized_numbers(channels):
    x = np.random.default_rng(0).standard_normal((2, 9, 7, channels), np.float32)
    for size in ((31, 40), (5, 3)):
        labels = fastconv.resize2d(x, size, argmax=True)
        assert labels.dtype == (np.uint8 if channels <= 256 else np.int32)
        expected = np.argmax(fastconv.resize2d(x, size), axis=3)
        np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize("coordinates", ["half_pixel", "asymmetric", "align_corners"])
@pytest.mark.parametrize("method", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(31, 40), (5, 3)], ids=str)
def test_parts_of_a_resize_have_the_bits_of_the_whole(method, coordinates, size):
    x = np.random.default_rng(0).standard_normal((2, 19, 7, 5), np.float32)
    how = {"method": method, "coordinates": coordinates}
    whole = fastconv.resize2d(x, size, **how)
    for rows in ((0, 3), (2, 5), (size[0] - 2, size[0]), (4, 4)):
        part = fastconv.resize2d(x, size, rows=rows, **how)
        np.testing.assert_array_equal(part, whole[:, slice(*rows)])
    spec = Resize2d(x.shape, size, method, coordinates)
    low, high = size[0] // 2, size[0] // 2 + 2
    taps = windows.axes(spec, False)[0].part(low, high, 0, 19).taps
    above, behind = taps.min(), taps.max() + 1
    slab = x[:, above:behind]
    given = {"rows": (low, high), "above": int(above), "height": 19}
    np.testing.assert_array_equal(fastconv.resize2d(slab, size, **given, **how), whole[:, low:high])
    part = Resize2d(slab.shape, size, method, coordinates, **given)
    limit = bounds.resize2d(slab, part)
    assert_within(whole[:, low:high], reference.resize2d(slab, part), limit)
    np.testing.assert_array_equal(limit, bounds.resize2d(x, spec)[:, low:high])


def test_parts_of_a_resize_that_do_not_fit():
    x = np.zeros((1, 4, 4, 1), np.float32)
    for options, message in (
        ({"rows": (3, 9)}, r"rows \(3, 9\) are not in a result of 8 rows"),
        ({"rows": (3, 2)}, r"rows \(3, 2\) are not in a result"),
        ({"above": 2, "height": 5}, "an image of 5 rows has no 4 from 2 on"),
        ({"rows": (0, 2), "above": 4, "height": 8},
         "rows 0 to 1 of the result read rows 0 to 2, but x holds rows 4 to 7"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"resize2d: {message}"):
            fastconv.resize2d(x, 8, **options)


def test_which_kernels_run():
    spec = Pool2d((1, 4, 4, 1), "max", (2, 2), (2, 2))
    assert plan_windows(spec).kernel.name == "across_max_float32_1x1_taps2"
    padded = Pool2d((1, 4, 4, 16), "max", (2, 2), (2, 2), ((0, 0), (1, 1)))
    assert plan_windows(padded).kernel.name == "across_max_float32_1x1_taps2"
    past_the_end = Pool2d((1, 5, 4, 16), "max", (2, 2), (2, 2), out_hw=(3, 2))
    assert plan_windows(past_the_end).kernel.name == "across_max_float32_1x1_taps2"
    assert plan_windows_argmax(spec).kernel.name == "argmax_window_float32_1x1"
    odd = Pool2d((1, 9, 9, 1), "max", (5, 5), (2, 2))
    assert plan_windows(odd).kernel.name == "across_max_float32_1x1"
    resize = Resize2d((1, 4, 4, 1), (8, 8))
    assert plan_windows(resize).kernel.name == "across_sum_float32_1x1_taps2"
    mean = Pool2d((1, 300, 300, 3), "avg", (300, 300), (300, 300))
    assert isinstance(plan_windows(mean), pooling.WholePool)


@pytest.mark.parametrize("shape", [(0, 4, 4, 2), (2, 4, 4, 0)], ids=str)
def test_empty_inputs_give_shaped_results(shape):
    x = np.zeros(shape, np.float32)
    assert fastconv.max_pool2d(x, 2).shape == (shape[0], 2, 2, shape[3])
    assert fastconv.avg_pool2d(x, 2).shape == (shape[0], 2, 2, shape[3])
    assert fastconv.resize2d(x, (3, 5)).shape == (shape[0], 3, 5, shape[3])
    assert fastconv.global_avg_pool2d(x).shape == (shape[0], shape[3])

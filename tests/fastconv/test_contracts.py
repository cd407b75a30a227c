"""What holds for every layer, on layers drawn at random: bits, memory, and how `auto` chooses."""

from dataclasses import replace

import numpy as np
import pytest

from fastconv import plan_conv2d
from fastconv.cook_toom import TILES
from fastconv.cpu import ALGORITHMS, NAMES, direct, winograd
from fastconv.spec import Conv2d
from tests.helpers import normals

SEEDS = range(40)


def _layer(seed):
    """Shape of x, weights and options of a random convolution."""
    rng = np.random.default_rng(seed)
    taps, stride, dilation = (int(rng.choice(v)) for v in ([1, 3, 3, 5, 7], [1, 1, 2], [1, 1, 3]))
    c, k = (int(v) for v in rng.integers(1, 60, 2))
    groups = c if rng.random() < 0.2 else 1
    n, (h, w) = int(rng.integers(2, 4)), (int(v) for v in rng.integers(1, 45, 2))
    weights = normals((taps, taps, c // groups, k * groups if groups > 1 else k), seed)
    options = {"stride": stride, "dilation": dilation, "groups": groups, "padding": "same"}
    return (n, h, w, c), weights, options


def _able(shape, w, options):
    """All algorithms that serve a layer."""
    spec = plan_conv2d(shape, w, **options).spec
    return list(dict.fromkeys(a.name for a in ALGORITHMS if not a.supports(spec)))


@pytest.mark.parametrize("seed", SEEDS)
def test_bits_depend_neither_on_threads_nor_on_the_batch(seed):
    shape, w, options = _layer(seed)
    x = normals(shape, seed + 1)
    for algorithm in ("auto", *_able(shape, w, options)):
        whole = plan_conv2d(shape, w, algorithm=algorithm, num_threads=1, **options)
        expected = whole(x)
        shared = plan_conv2d(shape, w, algorithm=algorithm, num_threads=3, **options)
        shared._serial = False  # small layers, too
        np.testing.assert_array_equal(shared(x), expected)
        one = plan_conv2d((1, *shape[1:]), w, algorithm=algorithm, **options)
        assert one.algorithm == whole.algorithm
        for i in range(shape[0]):
            np.testing.assert_array_equal(one(x[i : i + 1])[0], expected[i])


def test_the_random_layers_use_every_algorithm():
    used = {name for seed in SEEDS for name in _able(*_layer(seed))}
    assert used == set(NAMES) - {"auto"}


@pytest.mark.parametrize("seed", range(20))
def test_bits_of_an_aligned_crop(seed):
    """Tiles begin at multiples of m * dilation, so a crop that begins there has the same tiles."""
    rng = np.random.default_rng(seed)
    (taps, stride), sizes = list(TILES.items())[seed % len(TILES)]
    m, dilation = int(rng.choice(sizes)), 1 if stride > 1 else int(rng.integers(1, 3))
    c, k = (int(v) for v in rng.integers(1, 40, 2))
    w = normals((taps, taps, c, k), seed)
    x = normals((1, *(int(v) for v in rng.integers(50, 70, 2)), c), seed + 1)
    options = {"stride": stride, "dilation": dilation, "algorithm": f"winograd_f{m}"}
    whole = plan_conv2d(x.shape, w, **options)(x)
    top, left = (m * dilation * int(v) for v in rng.integers(0, 3, 2))
    crop = np.ascontiguousarray(x[:, top * stride : 62, left * stride :])
    y = plan_conv2d(crop.shape, w, **options)(crop)
    np.testing.assert_array_equal(y, whole[:, top:, left:][:, : y.shape[1], : y.shape[2]])


@pytest.mark.parametrize("seed", SEEDS)
def test_auto_takes_what_costs_least_whatever_the_call(seed):
    shape, w, options = _layer(seed)
    plan = plan_conv2d(shape, w, **options)
    spec = replace(plan.spec, x=(1, *shape[1:]))
    rows = {a.name: a for a in reversed(ALGORITHMS) if not a.supports(spec)}
    costs = {name: row.expected(spec) for name, row in rows.items()}
    known = {name: cost.time() for name, cost in costs.items() if cost is not None}
    assert known[plan.algorithm] == min(known.values())
    for name in known:
        cost = costs[name]
        assert 0 < cost.roofline(1) <= cost.time(1)
        assert cost.time(1, images=3) > 2.9 * cost.time(1)
        assert cost.time(1, images=3) > cost.time(2, images=3) - cost.time(2, images=0)


def test_an_opt_in_algorithm_is_never_automatic():
    w = np.zeros((3, 3, 64, 64), np.float32)
    plan = plan_conv2d((1, 200, 200, 64), w, padding="same", algorithm="winograd_f6")
    assert winograd.expected(6, plan.spec) is None
    assert plan.expected_seconds is None
    assert "winograd_f6 (as asked)" in str(plan)


def test_direct_is_expected_to_beat_winograd_on_one_channel():
    spec = plan_conv2d((1, 512, 512, 1), np.zeros((3, 3, 1, 64), np.float32)).spec
    assert isinstance(spec, Conv2d)
    assert direct.expected(spec).time() < winograd.expected(4, spec).time()

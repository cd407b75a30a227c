"""Sums, channels side by side and frames on simulated threads, as NumPy has them."""

import numpy as np
import pytest

from fastconv import resident
from fastconv.cuda import kernels
from fastconv.gpu import GpuArray
from tests.helpers import assert_equal, integers

UFUNCS = {
    "add": np.add, "subtract": np.subtract, "multiply": np.multiply, "maximum": np.maximum,
    "minimum": np.minimum,
}  # fmt: skip
PLACED = {
    "padded": ((2, 3, 4, 8), (6, 9), 1, 2),
    "cut": ((1, 6, 7, 4), (3, 2), -2, -3),
    "moved": ((2, 4, 5, 3), (4, 5), 2, -1),
    "outside": ((1, 2, 2, 4), (3, 3), 5, 0),
}


@pytest.fixture
def ran(gpu, monkeypatch):
    """Names of the kernels that are launched."""
    names, launch = [], gpu.launch

    def watched(kernel, *rest):
        names.append(kernel.name)
        launch(kernel, *rest)

    monkeypatch.setattr(gpu, "launch", watched)
    return names


def host(gpu, y):
    """An array on the GPU, as NumPy's."""
    result = np.empty(y.shape, y.dtype)
    gpu.download(y, result, None)
    return result


@pytest.mark.parametrize("op", UFUNCS)
@pytest.mark.parametrize(
    "shapes, lanes",
    [
        (((2, 3, 5, 8), (2, 3, 5, 8)), 4),
        (((2, 3, 5, 8), (2, 1, 1, 8)), 4),
        (((2, 1, 5, 8), (2, 3, 1, 8)), 4),
        (((2, 3, 5, 8), (2, 3, 5, 1)), 1),
        (((1, 1, 1, 3), (2, 4, 7, 3), (2, 4, 1, 3)), 1),
    ],
)
def test_numbers_at_one_place(gpu, ran, op, shapes, lanes):
    inputs = [integers(shape, i) for i, shape in enumerate(shapes)]
    inputs[0][0, 0, 0, 0] = np.nan
    expected = inputs[0]
    for more in inputs[1:]:
        expected = UFUNCS[op](expected, more)
    y = resident.together(op, [gpu.constant(x) for x in inputs], device="cuda")
    np.testing.assert_array_equal(host(gpu, y), expected)
    assert ran == [f"pair_float32_{lanes}"] * (len(inputs) - 1)


def test_means_and_clamps(gpu):
    inputs = [integers((1, 3, 4, 5), i) + np.float32(0.1) for i in range(3)]
    mean = resident.together("average", inputs, device="cuda")
    assert_equal(mean, (inputs[0] + inputs[1] + inputs[2]) / np.float32(3))
    inputs[0][0, 0, 0, 0] = np.nan
    clamped = resident.together("add", inputs, clamp=(0.0, 6.0), device="cuda")
    np.testing.assert_array_equal(clamped, np.clip(inputs[0] + inputs[1] + inputs[2], 0, 6))
    wide = resident.together(
        "add", [np.float32([[[[-9]]]]), inputs[1]], clamp=(0, 6), device="cuda"
    )
    assert_equal(wide, np.clip(inputs[1] - 9, 0, 6))


@pytest.mark.parametrize(
    "channels, lanes", [((8, 4, 12), (4, 4, 4)), ((4, 3, 5), (4, 1, 1)), ((3, 8), (1, 1))]
)
def test_channels_side_by_side(gpu, ran, channels, lanes):
    inputs = [integers((2, 3, 5, c), i) for i, c in enumerate(channels)]
    y = resident.concat([gpu.constant(x) for x in inputs], device="cuda")
    assert isinstance(y, GpuArray)
    assert_equal(host(gpu, y), np.concatenate(inputs, axis=3))
    assert ran == [f"place_float32_{n}" for n in lanes]


@pytest.mark.parametrize("shape, size, top, left", PLACED.values(), ids=PLACED)
def test_frames(gpu, ran, shape, size, top, left):
    x = integers(shape, 1)
    n, h, w, c = shape
    wide = np.zeros((n, h + 20, w + 20, c), np.float32)
    wide[:, 10 : 10 + h, 10 : 10 + w] = x
    expected = wide[:, 10 - top :, 10 - left :][:, : size[0], : size[1]]
    out = gpu.array(expected.shape, np.float32)
    assert resident.place(gpu.constant(x), size, top=top, left=left, device="cuda", out=out) is out
    assert_equal(host(gpu, out), expected)
    assert ran == [f"place_float32_{1 if c % 4 else 4}"]


def test_every_row_serves_a_case():
    found = {k.name for name in ("pair", "place") for k in kernels.find(name, "float32")}
    assert found == {"pair_float32_4", "pair_float32_1", "place_float32_4", "place_float32_1"}


def test_what_does_not_fit_is_told(gpu):
    x, y = integers((1, 3, 4, 2), 1), integers((1, 3, 5, 2), 2)
    with pytest.raises(ValueError, match=r"add: shapes \(1, 3, 4, 2\) and \(1, 3, 5, 2\) differ"):
        resident.together("add", [x, y], device="cuda")
    with pytest.raises(ValueError, match="concat: shapes"):
        resident.concat([x, y], device="cuda")
    with pytest.raises(TypeError, match="place: x is float64 but float32 is needed"):
        resident.place(x.astype(float), (4, 4), top=0, left=0, device="cuda")
    with pytest.raises(TypeError, match="some inputs are on the GPU and some are not"):
        resident.concat([x, gpu.constant(x)], device="cuda")

"""The specification is itself proven: by SciPy, by an identity, by TensorFlow and by literals.

Operands are small whole numbers, so these comparisons are exact.
"""

import itertools

import numpy as np
import pytest
from scipy import signal

from fastconv import reference
from fastconv.shapes import resolve_padding, resolve_transpose_padding
from fastconv.spec import Conv2d, ConvTranspose2d, Pool2d, Resize2d
from tests.helpers import assert_equal, assert_within, integers, normals

CONVS = [
    Conv2d((2, 5, 6, 3), (3, 3, 3, 4)),
    Conv2d((1, 5, 6, 3), (2, 3, 3, 4), pad=((0, 1), (1, 1))),
    Conv2d((1, 7, 8, 2), (3, 2, 2, 3), (2, 3), ((2, 0), (0, 3))),
    Conv2d((1, 9, 8, 2), (3, 2, 2, 3), (1, 2), ((1, 1), (2, 0)), (2, 3)),
    Conv2d((1, 5, 5, 6), (3, 3, 3, 4), groups=2),
    Conv2d((1, 5, 5, 3), (3, 3, 1, 6), (2, 1), ((1, 1), (1, 1)), groups=3),
    Conv2d((1, 3, 3, 2), (1, 1, 2, 3), (2, 2)),
    Conv2d((1, 1, 1, 1), (4, 5, 1, 1), pad=((3, 3), (4, 4))),
]


def by_scipy(x, w, bias, spec):
    """One correlation for each pair of channels, with zeros between the taps."""
    padded = np.pad(x, ((0, 0), *spec.pad, (0, 0)))
    stuffed = np.zeros(
        (*((k - 1) * d + 1 for k, d in zip(spec.w[:2], spec.dilation, strict=True)), *spec.w[2:])
    )
    stuffed[:: spec.dilation[0], :: spec.dilation[1]] = w
    y = np.zeros(spec.conv_out) + bias
    depth, width = spec.w[2], spec.w[3] // spec.groups
    for n, k, c in np.ndindex(spec.x[0], spec.w[3], depth):
        image = padded[n, :, :, k // width * depth + c]
        full = signal.correlate2d(image, stuffed[:, :, c, k], "valid")
        y[n, :, :, k] += full[:: spec.stride[0], :: spec.stride[1]]
    return y


@pytest.mark.parametrize("spec", CONVS, ids=str)
def test_conv2d_is_scipys(spec):
    x, w, bias = integers(spec.x, 1), integers(spec.w, 2), integers(spec.w[3], 3)
    assert_equal(reference.conv2d(x, w, bias, spec), by_scipy(x, w, bias, spec))


def test_the_articles_example():
    """The article prints -3 everywhere, which is neither."""
    image = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    kernel = np.array([[-1, 1], [2, -2]])
    spec = Conv2d((1, 3, 3, 1), (2, 2, 1, 1))

    def conv2d(taps):
        return reference.conv2d(image[None, :, :, None], taps[:, :, None, None], None, spec)

    assert_equal(conv2d(kernel)[0, :, :, 0], [[-1, -1], [-1, -1]])
    assert_equal(conv2d(kernel)[0, :, :, 0], signal.correlate2d(image, kernel, "valid"))
    assert_equal(conv2d(kernel[::-1, ::-1])[0, :, :, 0], [[1, 1], [1, 1]])
    assert_equal(conv2d(kernel[::-1, ::-1])[0, :, :, 0], signal.convolve2d(image, kernel, "valid"))


def test_activation_and_fused_pool():
    x, w, bias = integers((2, 5, 7, 2), 1), integers((3, 3, 2, 3), 2), integers(3, 3)
    pad = ((1, 1), (1, 1))
    plain = reference.conv2d(x, w, bias, Conv2d(x.shape, w.shape, pad=pad))
    for name, expected in (("relu", np.maximum(plain, 0)), ("relu6", np.clip(plain, 0, 6))):
        spec = Conv2d(x.shape, w.shape, pad=pad, activation=name)
        assert_equal(reference.conv2d(x, w, bias, spec), expected)
        fused = Conv2d(x.shape, w.shape, pad=pad, activation=name, pool=True)
        blocks = expected[:, :4, :6].reshape(2, 2, 2, 3, 2, 3)
        assert_equal(reference.conv2d(x, w, bias, fused), blocks.max(axis=(2, 4)))


def test_nan_goes_through_a_clamp_and_wins_the_pool():
    x = np.array([np.nan, -1, 7, np.inf, -np.inf, 2]).reshape(1, 2, 3, 1)
    w = np.ones((1, 1, 1, 1))
    y = reference.conv2d(x, w, None, Conv2d(x.shape, w.shape, activation="relu6"))
    np.testing.assert_array_equal(y.ravel(), [np.nan, 0, 6, 6, 0, 2])
    y = reference.conv2d(x, w, None, Conv2d(x.shape, w.shape, activation="relu", pool=True))
    np.testing.assert_array_equal(y.ravel(), [np.nan])


@pytest.mark.parametrize("spec", CONVS, ids=str)
def test_conv2d_transpose_is_the_adjoint(spec):
    """``<conv(x), y> == <x, conv_transpose(y)>`` with the same weights."""
    x, w, y = integers(spec.x, 1), integers(spec.w, 2), integers(spec.out, 3)
    back = ConvTranspose2d(
        spec.out, spec.w, spec.stride, crop(spec), None, spec.dilation, spec.groups
    )
    assert back.out == spec.x
    forward = reference.conv2d(x, w, None, spec)
    assert np.vdot(forward, y) == np.vdot(x, reference.conv2d_transpose(y, w, None, back))


def crop(spec):
    """What the adjoint of a convolution crops: its padding, and pixels that no window reached."""
    sides = []
    for a in (0, 1):
        full = (spec.out[1 + a] - 1) * spec.stride[a] + (spec.w[a] - 1) * spec.dilation[a] + 1
        before = spec.pad[a][0]
        sides.append((before, full - spec.x[1 + a] - before))
    return tuple(sides)


def test_conv2d_transpose_by_hand():
    """Two pixels, three taps, stride 2: the middle tap of neither overlaps."""
    x, w = np.array([1.0, 2.0]), np.array([1.0, 10.0, 100.0])
    spec = ConvTranspose2d((1, 2, 1, 1), (3, 1, 1, 1), (2, 1), ((0, -1), (0, 0)))
    y = reference.conv2d_transpose(x.reshape(spec.x), w.reshape(spec.w), [1000.0], spec)
    assert_equal(y.ravel(), [1001, 1010, 1102, 1020, 1200, 1000])


MAX = {"kind": "max", "size": (3, 2), "stride": (2, 1)}


def windows(x, spec):
    """Each window's pixels inside ``x``, by NumPy's padding with NaN."""
    reach = [
        (o - 1) * s + (k - 1) * d + 1
        for o, s, k, d in zip(spec.out[1:3], spec.stride, spec.size, spec.dilation, strict=True)
    ]
    after = [max(r - p[0] - n, 0) for r, p, n in zip(reach, spec.pad, spec.x[1:3], strict=True)]
    pads = [(p[0], a) for p, a in zip(spec.pad, after, strict=True)]
    padded = np.pad(x, ((0, 0), *pads, (0, 0)), constant_values=np.nan)
    extents = [(k - 1) * d + 1 for k, d in zip(spec.size, spec.dilation, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(padded, extents, (1, 2))
    view = view[
        :, :: spec.stride[0], :: spec.stride[1], :, :: spec.dilation[0], :: spec.dilation[1]
    ]
    return view[:, : spec.out[1], : spec.out[2]]


@pytest.mark.parametrize("kind, by_numpy", [("max", np.nanmax), ("avg", np.nanmean)])
@pytest.mark.parametrize(
    "x, size, stride, pad, dilation, out_hw",
    [
        ((2, 6, 7, 3), (2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1), None),
        ((1, 6, 7, 3), (3, 2), (1, 3), ((2, 1), (0, 1)), (1, 1), None),
        ((1, 7, 7, 2), (2, 3), (2, 1), ((1, 0), (1, 2)), (3, 2), None),
        ((1, 5, 7, 2), (2, 3), (2, 3), ((0, 0), (1, 0)), (1, 1), (3, 3)),
    ],
)
def test_pools_are_numpys(kind, by_numpy, x, size, stride, pad, dilation, out_hw):
    spec = Pool2d(x, kind, size, stride, pad, dilation, out_hw)
    values = integers(x, 4, "float64")
    expected = by_numpy(windows(values, spec), axis=(4, 5))
    assert_within(reference.pool2d(values, spec), expected, 1e-15 * (kind == "avg"))


# Printed by PyTorch: x = 1 ... 7 in one column, ceil_mode=True.
@pytest.mark.parametrize(
    "size, stride, before, after, real, padded",
    [
        (3, 3, 1, 1, [1.5, 4, 6.5], [1, 4, 13 / 3]),
        (2, 2, 0, 0, [1.5, 3.5, 5.5, 7], [1.5, 3.5, 5.5, 7]),
        (4, 3, 2, 2, [1.5, 3.5, 6], [0.75, 3.5, 4.5]),
    ],
)
def test_average_divides_by_the_pixels_that_count(size, stride, before, after, real, padded):
    x = np.arange(1.0, 8).reshape(1, 7, 1, 1)
    pad = ((before, after), (0, 0))
    for include, expected in ((False, real), (True, padded)):
        spec = Pool2d(
            x.shape, "avg", (size, 1), (stride, 1), pad, (1, 1), (len(expected), 1), include
        )
        assert_within(reference.pool2d(x, spec).ravel(), expected, 1e-15)


def test_nan_and_infinity_in_pools():
    x = np.array([np.nan, 1, 2, np.nan, -np.inf, -np.inf, -3, np.inf]).reshape(1, 1, 8, 1)
    spec = Pool2d(x.shape, "max", (1, 2), (1, 1), ((0, 0), (1, 1)))
    expected = [np.nan, np.nan, 2, np.nan, np.nan, -np.inf, -3, np.inf, np.inf]
    np.testing.assert_array_equal(reference.pool2d(x, spec).ravel(), expected)
    # The first NaN of a window wins, and of equal numbers the first one.
    assert_equal(reference.max_pool2d_indices(x, spec).ravel(), [0, 0, 2, 3, 3, 4, 6, 7, 7])
    spec = Pool2d(x.shape, "avg", (1, 2), (1, 1))
    expected = [np.nan, 1.5, np.nan, np.nan, -np.inf, -np.inf, np.inf]
    np.testing.assert_array_equal(reference.pool2d(x, spec).ravel(), expected)


def test_padding_never_wins():
    x = np.full((1, 2, 2, 1), -5.0)
    spec = Pool2d(x.shape, "max", (3, 3), (1, 1), ((1, 1), (1, 1)))
    assert_equal(reference.pool2d(x, spec), x)


def test_indices_lead_back_to_the_maxima():
    x = integers((2, 5, 6, 3), 5, "float64")
    spec = Pool2d(x.shape, stride=(2, 2), kind="max", size=(3, 3), pad=((1, 1), (0, 1)))
    indices = reference.max_pool2d_indices(x, spec)
    found = np.take_along_axis(x.reshape(2, -1), indices.reshape(2, -1), 1)
    assert_equal(found.reshape(spec.out), reference.pool2d(x, spec))


def test_resize_keeps_what_it_must():
    """The same size copies, a constant stays one, and a ramp stays a ramp away from the border."""
    x = integers((2, 5, 4, 3), 6, "float64")
    for method, coordinates in RESIZES:
        assert_equal(reference.resize2d(x, Resize2d(x.shape, (5, 4), method, coordinates)), x)
        spec = Resize2d((1, 5, 4, 1), (7, 3), method, coordinates)
        assert_within(reference.resize2d(np.full(spec.x, 3.0), spec), np.full(spec.out, 3.0), 1e-14)
    ramp = np.arange(6.0).reshape(1, 1, 6, 1)
    for method in ("bilinear", "bicubic"):
        y = reference.resize2d(ramp, Resize2d(ramp.shape, (1, 12), method, "half_pixel")).ravel()
        assert_within(y[4:-4], np.arange(4, 8) / 2 - 0.25, 1e-14)


RESIZES = list(
    itertools.product(
        ("nearest", "bilinear", "bicubic"), ("half_pixel", "asymmetric", "align_corners")
    )
)


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size, out", [((5, 6), (7, 11)), ((4, 3), (9, 3)), ((1, 7), (3, 20))])
def test_enlarging_is_pillows(method, size, out):
    """Pillow rounds its weights to float64 and the result to float32 (twice: one for each axis)."""
    Image = pytest.importorskip("PIL.Image")
    x = integers(size, 7)
    enlarged = Image.fromarray(x).resize(out[::-1], getattr(Image.Resampling, method.upper()))
    spec = Resize2d((1, *size, 1), out, method, "half_pixel")
    y = reference.resize2d(x.reshape(spec.x), spec)[0, :, :, 0]
    assert_within(np.asarray(enlarged), y, 4 * 2.0**-24 * 4 * 1.4**2)


@pytest.mark.parametrize("shape", [(0, 4, 4, 2), (1, 4, 4, 0)])
def test_empty_inputs(shape):
    n, _, _, c = shape
    empty = np.zeros(shape)
    pool = Pool2d(shape, "max", (2, 2), (2, 2))
    assert reference.pool2d(empty, pool).shape == (n, 2, 2, c)
    assert reference.max_pool2d_indices(empty, pool).shape == (n, 2, 2, c)
    assert reference.resize2d(empty, Resize2d(shape, (3, 3))).shape == (n, 3, 3, c)
    conv = Conv2d(shape, (3, 3, c, 2))
    assert_equal(
        reference.conv2d(empty, np.zeros(conv.w), [1, 2], conv), np.broadcast_to([1, 2], conv.out)
    )
    back = ConvTranspose2d(shape, (3, 3, 2, c))
    y = reference.conv2d_transpose(empty, np.zeros(back.w), [1, 2], back)
    assert_equal(y, np.broadcast_to([1, 2], back.out))


def test_operands_that_do_not_fit_the_spec():
    spec = CONVS[0]
    with pytest.raises(ValueError, match="reference: the spec is for shape"):
        reference.conv2d(np.zeros((1, 5, 6, 3)), np.zeros(spec.w), None, spec)
    with pytest.raises(ValueError, match="reference: the spec is for shape"):
        reference.conv2d(np.zeros(spec.x), np.zeros(spec.w), np.zeros(3), spec)


@pytest.mark.tensorflow
class TestTensorFlow:
    """TensorFlow on the CPU, on operands whose results are exact."""

    @pytest.mark.parametrize("padding", ["same", "valid"])
    @pytest.mark.parametrize("kernel, stride, dilation", [
        ((3, 3), (1, 1), (1, 1)), ((2, 4), (1, 1), (1, 1)), ((3, 2), (2, 2), (1, 1)),
        ((1, 5), (3, 3), (1, 1)), ((3, 2), (1, 1), (2, 3)), ((3, 3), (2, 2), (2, 2)),
    ])  # fmt: skip
    def test_conv2d(self, tf, kernel, stride, dilation, padding):
        for hw in ((7, 8), (8, 9), (9, 10)):
            x, w = integers((2, *hw, 3), 1), integers((*kernel, 3, 4), 2)
            pad = resolve_padding(padding, hw, kernel, stride, dilation, "conv2d")
            expected = tf.nn.conv2d(x, w, stride, padding.upper(), dilations=dilation)
            spec = Conv2d(x.shape, w.shape, stride, pad, dilation)
            assert_equal(reference.conv2d(x, w, None, spec), expected)

    @pytest.mark.parametrize("padding", ["same", "valid"])
    @pytest.mark.parametrize("kernel, stride, dilation", [
        ((3, 3), (1, 1), (1, 1)), ((2, 4), (2, 2), (1, 1)), ((3, 2), (2, 2), (1, 1)),
        ((1, 2), (3, 3), (1, 1)), ((5, 4), (2, 3), (1, 1)), ((3, 2), (1, 1), (2, 3)),
        ((3, 3), (2, 2), (2, 2)),
    ])  # fmt: skip
    def test_conv2d_transpose(self, tf, kernel, stride, dilation, padding):
        x, w = integers((2, 4, 5, 3), 1), integers((*kernel, 4, 3), 2)
        pad, out_hw = resolve_transpose_padding(padding, (4, 5), kernel, stride, dilation, "op")
        expected = tf.keras.ops.conv_transpose(
            x, w, strides=stride, padding=padding, dilation_rate=dilation
        )
        spec = ConvTranspose2d(x.shape, w.shape, stride, pad, out_hw, dilation)
        assert_equal(reference.conv2d_transpose(x, w, None, spec), expected)

    @pytest.mark.parametrize("padding", ["same", "valid"])
    def test_conv2d_transpose_with_output_shape(self, tf, padding):
        x, w = integers((1, 4, 5, 3), 1), integers((3, 2, 4, 3), 2)
        sizes = [(7, 9), (8, 10)] if padding == "same" else [(9, 10), (10, 11)]
        for size in sizes:
            pad, out_hw = resolve_transpose_padding(
                padding, (4, 5), (3, 2), (2, 2), (1, 1), "op", None, size
            )
            expected = tf.nn.conv2d_transpose(x, w, (1, *size, 4), 2, padding.upper())
            spec = ConvTranspose2d(x.shape, w.shape, (2, 2), pad, out_hw)
            assert_equal(reference.conv2d_transpose(x, w, None, spec), expected)

    @pytest.mark.parametrize("padding", ["same", "valid"])
    @pytest.mark.parametrize("size, stride", [((2, 2), (2, 2)), ((3, 2), (1, 2)), ((2, 3), (3, 1))])
    def test_pools(self, tf, size, stride, padding):
        for hw in ((6, 7), (7, 8)):
            x = integers((2, *hw, 3), 1)
            pad = resolve_padding(padding, hw, size, stride, (1, 1), "pool")
            largest = Pool2d(x.shape, "max", size, stride, pad)
            mean = Pool2d(x.shape, "avg", size, stride, pad)
            expected, where = tf.nn.max_pool_with_argmax(x, size, stride, padding.upper())
            assert_equal(reference.pool2d(x, largest), expected)
            assert_equal(reference.max_pool2d_indices(x, largest), where)
            expected = tf.nn.avg_pool2d(x, size, stride, padding.upper())
            assert_within(np.asarray(expected), reference.pool2d(x, mean), 4 * 2.0**-22)

    def test_dilated_pool(self, tf):
        x = integers((1, 9, 8, 2), 1)
        spec = Pool2d(x.shape, "max", (3, 2), (1, 1), dilation=(2, 3))
        expected = tf.nn.pool(x, (3, 2), "MAX", dilations=(2, 3), padding="VALID")
        assert_equal(reference.pool2d(x, spec), expected)

    def test_activations_of_nan_and_infinity(self, tf):
        x = np.array([np.nan, -np.inf, np.inf, -1, 0, 7]).reshape(1, 1, 6, 1)
        for name in ("relu", "relu6"):
            spec = Conv2d(x.shape, (1, 1, 1, 1), activation=name)
            y = reference.conv2d(x, np.ones(spec.w), None, spec)
            np.testing.assert_array_equal(y, getattr(tf.nn, name)(x))

    @pytest.mark.parametrize("method, coordinates", RESIZES)
    def test_resize(self, tf, method, coordinates):
        """TensorFlow has positions in float32 and bicubic weights from a table of 1024 steps.

        A position below 8 passes 3 roundings, and pixels differ by 8 at most in each direction:
        2 * 8 * 3 * 8 * 2**-24 < 2**-15. A position off by half a step changes each of four
        weights by at most 1.5 / 2048, in each direction, of pixels up to 4.
        """
        for size, out in itertools.product((1, 2, 3, 5, 8), (1, 2, 3, 4, 7, 9, 16)):
            x = integers((1, size, 3, 2), 1)
            if coordinates == "half_pixel":
                expected = tf.image.resize(x, (out, 5), method)
            else:
                name = "nearest_neighbor" if method == "nearest" else method
                resize = getattr(tf.compat.v1.image, f"resize_{name}")
                expected = resize(x, (out, 5), align_corners=coordinates == "align_corners")
            spec = Resize2d(x.shape, (out, 5), method, coordinates)
            tolerance = {"nearest": 0, "bilinear": 2.0**-15, "bicubic": 48 / 2048}[method]
            assert_within(np.asarray(expected), reference.resize2d(x, spec), tolerance)

    @pytest.mark.parametrize("coordinates", ["half_pixel", "asymmetric"])
    def test_bicubic_by_powers_of_two(self, tf, coordinates):
        x = normals((1, 5, 7, 2), 1)
        for out in ((10, 28), (40, 14)):
            if coordinates == "half_pixel":
                expected = tf.image.resize(x, out, "bicubic")
            else:
                expected = tf.compat.v1.image.resize_bicubic(x, out)
            spec = Resize2d(x.shape, out, "bicubic", coordinates)
            assert_within(np.asarray(expected), reference.resize2d(x, spec), 2.0**-20)

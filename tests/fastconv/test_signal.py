"""`fastconv.signal` against SciPy, NumPy's padding, and literals."""

import doctest
import itertools
import subprocess
import sys

import numpy as np
import pytest
import scipy.signal

from fastconv import _signal_kernels, signal

OPERATIONS = ("correlate2d", "convolve2d")
MODES = ("full", "same", "valid")
BOUNDARIES = ("fill", "wrap", "symm")
INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
REALS = ("float32", "float64", "longdouble")
COMPLEX = ("complex64", "complex128", "clongdouble")
IMAGES = ((1, 1), (1, 4), (3, 1), (2, 3), (5, 4), (6, 9))
KERNELS = ((1, 1), (2, 1), (1, 3), (2, 2), (3, 4), (5, 4), (7, 6))


def values(shape, dtype, seed):
    """Reproducible numbers: integers over the whole range of `dtype`, else standard normal."""
    dtype, generator = np.dtype(dtype), np.random.default_rng(seed)
    if dtype.kind == "b":
        return generator.integers(2, size=shape).astype(bool)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return generator.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    numbers = generator.standard_normal(shape)
    if dtype.kind == "c":
        numbers = numbers + 1j * generator.standard_normal(shape)
    return numbers.astype(dtype)


def outcome(function, *args, **kwargs):
    """The result, or the type of the exception."""
    try:
        return function(*args, **kwargs)
    except (TypeError, ValueError) as error:
        return type(error)


def assert_same(operation, *args, **kwargs):
    """Same dtype, shape and numbers as SciPy, or an exception of the same type."""
    actual = outcome(getattr(signal, operation), *args, **kwargs)
    expected = outcome(getattr(scipy.signal, operation), *args, **kwargs)
    if isinstance(expected, type):
        assert actual is expected
    else:
        np.testing.assert_array_equal(actual, expected, strict=True)


def gamma(terms, dtype):
    """``n u / (1 - n u)`` of Higham 2002, section 3.1, with u the unit roundoff of `dtype`."""
    nu = terms * np.finfo(dtype).eps / 2
    return nu / (1 - nu)


def assert_close(operation, x, w, *args, fillvalue=0):
    """Both parts of every element within the error that summing in any order allows.

    An output is a sum of n = w.size products (2 n real ones, at most |x| |w| per pair, when
    complex), so its error is at most gamma_n sum |x| |w|; SciPy's in long double counts as well.
    """
    actual = getattr(signal, operation)(x, w, *args, fillvalue=fillvalue)
    reference = getattr(scipy.signal, operation)
    wide = np.clongdouble if actual.dtype.kind == "c" else np.longdouble
    expected = reference(x.astype(wide), w.astype(wide), *args, fillvalue=fillvalue)
    size = (abs(a).astype(np.longdouble) for a in (x, w))
    magnitude = reference(*size, *args, fillvalue=abs(fillvalue))
    terms = min(x.size, w.size) if "valid" in args else w.size
    terms *= 2 if actual.dtype.kind == "c" else 1
    # two units more for the oracle's own magnitude, which is rounded as well
    bound = (gamma(terms + 2, actual.dtype) + gamma(terms + 2, wide)) * magnitude
    assert actual.dtype == np.result_type(x, w) and actual.shape == expected.shape
    assert (abs(actual.real - expected.real) <= bound).all()
    assert (abs(actual.imag - expected.imag) <= bound).all()


def pairs(mode):
    for image, kernel in itertools.product(IMAGES, KERNELS):
        larger = np.sign(np.subtract(image, kernel))
        if mode != "valid" or abs(larger.sum()) == abs(larger).sum():
            yield image, kernel


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_integers_are_exact_and_wrap_around(operation, dtype, mode, boundary):
    for image, kernel in pairs(mode):
        x, w = values(image, dtype, seed=1), values(kernel, dtype, seed=2)
        assert_same(operation, x, w, mode, boundary, fillvalue=7)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", REALS + COMPLEX)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_floats_are_within_the_rounding_bound(operation, dtype, mode, boundary):
    fillvalue = 1.5 - 0.5j if dtype in COMPLEX else 1.5
    for image, kernel in pairs(mode):
        x, w = values(image, dtype, seed=1), values(kernel, dtype, seed=2)
        assert_close(operation, x, w, mode, boundary, fillvalue=fillvalue)


@pytest.mark.parametrize("dtype", ("bool", *INTEGERS, *REALS))
@pytest.mark.parametrize("other", ("bool", *INTEGERS, *REALS))
def test_mixed_integers_and_reals_promote_as_in_scipy(dtype, other):
    x, w = np.arange(12).reshape(4, 3).astype(dtype), np.arange(6).reshape(2, 3).astype(other)
    for operation, mode in itertools.product(OPERATIONS, MODES):
        assert_same(operation, x, w, mode)


@pytest.mark.parametrize("real", ("bool", *INTEGERS, *REALS))
@pytest.mark.parametrize("complex_", COMPLEX)
def test_mixed_complex_promotes_and_conjugates_as_in_scipy(real, complex_):
    x = np.arange(12).reshape(4, 3).astype(real)
    w = (np.arange(4) + 1j * np.arange(4, 8)).reshape(2, 2).astype(complex_)
    for operation, mode in itertools.product(OPERATIONS, MODES):
        assert_same(operation, x, w, mode)
        assert_same(operation, w, x, mode)


@pytest.mark.parametrize("dtype", ("int8", "int32", "float32", "float64", "complex128"))
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("shape", ((5, 1100), (8000, 9)), ids=("strips", "panels"))
def test_several_strips_of_columns_and_panels_of_rows(operation, dtype, shape):
    """Small integers, exact in any order; 1024 bytes make a strip, 2^16 elements a panel."""
    x = np.random.default_rng(1).integers(-9, 9, shape).astype(dtype)
    w = np.random.default_rng(2).integers(-9, 9, (3, 7)).astype(dtype)
    for mode, boundary in itertools.product(MODES, BOUNDARIES):
        assert_same(operation, x, w, mode, boundary)


@pytest.mark.parametrize("boundary", ("fill", "pad", "wrap", "circular", "symm", "symmetric"))
@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_name_of_a_boundary(operation, boundary):
    x, w = values((3, 4), "int64", seed=1), values((3, 3), "int64", seed=2)
    assert_same(operation, x, w, "same", boundary, 5)


@pytest.mark.parametrize("boundary, numpy_mode", [("wrap", "wrap"), ("symm", "symmetric")])
@pytest.mark.parametrize("size", (1, 2, 5))
def test_extension_maps_are_numpys_padding(boundary, numpy_mode, size):
    for lead, trail in itertools.product((0, 1, 3, 12), repeat=2):
        index = signal.extension(size, lead, lead + size + trail, boundary)
        np.testing.assert_array_equal(index, np.pad(np.arange(size), (lead, trail), numpy_mode))


@pytest.mark.parametrize("shape", ((2, 3), (0, 3), (2, 0)))
def test_extended_input_is_numpys_padding(shape):
    x = values(shape, "int16", seed=1)
    padded = np.pad(x, ((2, 3), (2, 3)), constant_values=9)
    for rows in (slice(0, len(padded)), slice(1, 3), slice(3, len(padded)), slice(0, 2)):
        actual = signal.filled(x, rows, (2, 2), padded.shape[1], np.array(9, "int16"))
        np.testing.assert_array_equal(actual, padded[rows], strict=True)


LAYOUTS = {
    "reversed and strided": lambda a: np.repeat(np.repeat(a, 2, 0), 3, 1)[::-2, ::-3],
    "column-major": np.asfortranarray,
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "unaligned": lambda a: np.frombuffer(b"." + a.tobytes(), a.dtype, offset=1).reshape(a.shape),
    "broadcast": lambda a: np.broadcast_to(a[:, :1], a.shape),
    "list": np.ndarray.tolist,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_layouts(operation, layout):
    x, w = values((5, 6), "int64", seed=1), values((3, 2), "int64", seed=2)
    for mode in MODES:
        assert_same(operation, LAYOUTS[layout](x), LAYOUTS[layout](w), mode, "wrap")


def test_read_only_inputs_and_a_result_of_its_own():
    x, w = values((4, 4), "float64", seed=1), np.ones((1, 1))
    x.flags.writeable = False
    for operation, mode in itertools.product(OPERATIONS, MODES):
        y = getattr(signal, operation)(x, w, mode)
        np.testing.assert_array_equal(y, x)
        assert not np.shares_memory(x, y)


EMPTY = ((0, 0), (0, 3), (3, 0), (2, 2))


@pytest.mark.parametrize("shape", EMPTY, ids=str)
@pytest.mark.parametrize("other", EMPTY, ids=str)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_empty_inputs(operation, shape, other):
    """SciPy divides by zero (and the process dies) where wrap or symm extends an empty axis."""
    x, w = np.ones(shape), np.ones(other)
    for mode in MODES:
        assert_same(operation, x, w, mode, fillvalue=5)
        if x.size or mode != "full":
            for boundary in ("wrap", "symm"):
                assert_same(operation, x, w, mode, boundary)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_empty_axis_cannot_be_wrapped(operation):
    with pytest.raises(ValueError, match=rf"{operation}.*'symm'.*\(0, 3\)"):
        getattr(signal, operation)(np.ones((0, 3)), np.ones((2, 2)), boundary="symm")


FILLVALUES = (
    *(1, 2.7, -1, 300, 2**70, 1 + 2j, True, None, np.nan, np.inf, 1e300),
    *("3", "x", b"3", [1], [1, 2], [], [[4]]),
    *(np.array(7.5), np.array([[5]]), np.array([5, 6]), np.zeros((1, 0)), np.array(True)),
    *(np.float32(2.2), np.int64(2**40), np.complex64(1 + 1j), np.uint8(3), object()),
)


@pytest.mark.filterwarnings("ignore::numpy.exceptions.ComplexWarning")
@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered in cast")
@pytest.mark.parametrize("dtype", ("int8", "uint8", "int64", "float32", "float64", "complex64"))
@pytest.mark.parametrize("fillvalue", FILLVALUES, ids=repr)
def test_fillvalue_is_cast_or_refused_as_in_scipy(fillvalue, dtype):
    """A kernel of ones on a border of one pixel: the sums show the value that was used."""
    x, w = np.zeros((2, 2), dtype), np.ones((1, 2), dtype)
    assert_same("correlate2d", x, w, fillvalue=fillvalue)
    assert_same("correlate2d", x, w, "valid", fillvalue=fillvalue)
    assert_same("correlate2d", x, w, boundary="wrap", fillvalue=fillvalue)


ONES = np.ones((2, 3))
REFUSED = {
    "one axis": (ONES, ONES[0]),
    "three axes": (ONES[None], ONES[None]),
    "scalars": (1, 1),
    "ragged": ([[1], [1, 2]], [[3]]),
    "mode": (ONES, ONES, "FULL"),
    "numbered mode": (ONES, ONES, 2),
    "no mode": (ONES, ONES, None),
    "list of modes": (ONES, ONES, ["full"]),
    "boundary": (ONES, ONES, "full", "mirror"),
    "reflect": (ONES, ONES, "full", "reflect"),
    "list of boundaries": (ONES, ONES, "full", ["fill"]),
    "neither contains the other": (ONES, ONES.T, "valid"),
    "bool": (ONES > 0, ONES > 0),
    "float16": (ONES.astype("float16"), ONES.astype("int8")),
    "object": (ONES.astype(object), ONES),
    "text": (ONES.astype(str), ONES),
    "dates": (ONES.astype("M8[s]"), ONES.astype(int)),
    "durations": (ONES.astype("m8[s]"), ONES.astype(int)),
    "records": (np.zeros((2, 3), "i4,i4"), ONES),
}


@pytest.mark.parametrize("arguments", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_refused_as_in_scipy(operation, arguments):
    assert isinstance(outcome(getattr(scipy.signal, operation), *arguments), type)
    assert_same(operation, *arguments)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((ONES[0], ONES), "correlate2d inputs must both be 2-D arrays, got 1-D and 2-D"),
        ((ONES, ONES, "fll"), "correlate2d: mode must be one of full, same, valid, got 'fll'"),
        ((ONES, ONES, "full", "edge"), "correlate2d: boundary must be one of .*, got 'edge'"),
        ((ONES, ONES.T, "valid"), r"correlate2d: .*got \(2, 3\) and \(3, 2\); use mode 'same'"),
        ((ONES, ONES.astype("U")), "correlate2d is not available for float64 with <U32: convert"),
        ((ONES, ONES, "full", "fill", 1j), "correlate2d: fillvalue 1j cannot be cast to .*float64"),
    ],
)
def test_messages_name_operation_values_and_fix(arguments, message):
    with pytest.raises(ValueError, match=message):
        signal.correlate2d(*arguments)


@pytest.mark.parametrize("bad", (np.nan, np.inf))
@pytest.mark.parametrize("operation", OPERATIONS)
def test_nan_and_infinity_stay_in_their_windows(operation, bad):
    correlate, w = getattr(signal, operation), values((3, 4), "float32", seed=2)
    x, spot = values((9, 300), "float32", seed=1), np.zeros((9, 300))
    x[4, 150], spot[4, 150] = 0, 1
    reached = correlate(spot, np.ones(w.shape)) != 0
    clean = correlate(x, w)
    x[4, 150] = bad
    dirty = correlate(x, w)
    np.testing.assert_array_equal(dirty[~reached], clean[~reached])
    assert reached.sum() == w.size and not np.isfinite(dirty[reached]).any()


@pytest.mark.parametrize("dtype", ("float32", "float64", "complex64"))
def test_bits_depend_on_the_window_only(monkeypatch, dtype):
    """Not on threads, panels, strips, or where in the image the window lies."""
    x, w = values((40, 700), dtype, seed=1), values((5, 6), dtype, seed=2)
    expected = signal.correlate2d(x, w)
    cropped = signal.correlate2d(x[3:30, 11:402], w, "valid")
    np.testing.assert_array_equal(cropped, expected[7:30, 16:402])
    monkeypatch.setattr(signal, "PARALLEL_WORK", 0)
    for threads, elements in itertools.product((1, 3), (1, 2**13, 2**30)):
        monkeypatch.setattr(signal, "get_num_threads", lambda threads=threads: threads)
        monkeypatch.setattr(signal, "PANEL_ELEMENTS", elements)
        np.testing.assert_array_equal(signal.correlate2d(x, w), expected)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_sums_run_in_raster_order(operation):
    """2^24 + 1 + 1 ... stays 2^24 in float32; with two ones added first it would not."""
    row = np.array([[2**24, *[1] * 8]], "float32")
    for x, w in ((row, np.ones_like(row)), (row.reshape(3, 3), np.ones((3, 3), "float32"))):
        np.testing.assert_array_equal(getattr(signal, operation)(x, w, "valid"), [[2**24]])


def test_valid_makes_no_extended_copy(monkeypatch):
    monkeypatch.setattr(signal, "filled", None)
    np.testing.assert_array_equal(signal.correlate2d(ONES, ONES, "valid"), [[6]])


def test_compiles_without_a_cache_where_nothing_can_be_written(monkeypatch):
    compilers = []

    def njit(cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: compilers.append(options) or function

    monkeypatch.setattr(_signal_kernels, "njit", njit)
    assert _signal_kernels._compiled(len) is len
    assert compilers == [{"nogil": True, "fastmath": {"contract"}}]


def test_works_where_scipy_cannot_be_imported():
    code = (
        "import sys; sys.modules['scipy'] = None  # an import of it fails\n"
        "from fastconv.signal import convolve2d, correlate2d\n"
        "for f in (convolve2d, correlate2d):\n"
        "    for boundary in ('fill', 'wrap', 'symm'): f([[1, 2]], [[3, 4]], 'same', boundary)\n"
        "assert not any(name.startswith('scipy.') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_article_example():
    """Its text prints -3 everywhere; the sums are -1, and +1 for the true convolution."""
    results = doctest.testmod(signal)
    assert results.attempted == 4 and results.failed == 0

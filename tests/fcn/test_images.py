"""Reading photos: every storage form ends as upright 8-bit gray or RGB, or as a clear error."""

import io
import struct
import zlib

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image")

from fcn import images  # noqa: E402

RGB = np.array(
    [[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[9, 8, 7], [100, 150, 200], [255, 255, 255]]],
    np.uint8,
)
GRAY = np.array([[0, 17, 255], [128, 64, 1]], np.uint8)


def write(path, image, **options):
    image.save(path, **options)
    return path


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_rgb_and_gray_come_back_exactly(tmp_path):
    rgb = images.read(write(tmp_path / "rgb.png", Image.fromarray(RGB)))
    gray = images.read(write(tmp_path / "gray.png", Image.fromarray(GRAY)))
    np.testing.assert_array_equal(rgb, RGB)
    np.testing.assert_array_equal(gray, GRAY)
    assert rgb.dtype == gray.dtype == np.uint8
    assert rgb.flags.c_contiguous
    assert rgb.flags.writeable


def test_channels_are_converted_on_request(tmp_path):
    gray, rgb = tmp_path / "gray.png", tmp_path / "rgb.png"
    write(gray, Image.fromarray(GRAY))
    write(rgb, Image.fromarray(RGB))
    np.testing.assert_array_equal(images.read(gray, channels=3), np.stack([GRAY] * 3, axis=2))
    luma = images.read(rgb, channels=1)
    np.testing.assert_array_equal(luma[0], [76, 150, 29])  # 0.299, 0.587, 0.114 of 255
    assert luma[1, 2] == 255
    assert images.read(rgb, channels=3).shape == (2, 3, 3)
    assert images.read(gray, channels=1).shape == (2, 3)
    with pytest.raises(ValueError, match="channels must be 3, 1 or None, got 4"):
        images.read(rgb, channels=4)


def test_content_decides_the_format_not_the_extension(tmp_path):
    path = tmp_path / "photo.jpg"
    write(path, Image.fromarray(RGB), format="PNG")
    np.testing.assert_array_equal(images.read(path), RGB)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["photo.png", "photo.jpg"])
def test_exif_orientation_is_applied(tmp_path, name, orientation):
    """The stored array for each tag, from the EXIF 2.3 table of where row 0 and column 0 lie."""
    upright = np.zeros((16, 24), np.uint8)
    upright[:8, :8] = 255  # white top-left corner, so each of the eight positions differs
    upright[:8, 8:16] = 128
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: upright.T[::-1],
        7: upright.T[::-1, ::-1],
        8: upright.T[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100} if name.endswith("jpg") else {}
    path = write(
        tmp_path / name, Image.fromarray(np.ascontiguousarray(stored)), exif=exif, **options
    )
    read = images.read(path)
    assert read.shape == upright.shape
    assert np.abs(read.astype(int) - upright).max() <= 2


def test_palette_is_looked_up(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    read = images.read(write(tmp_path / "palette.png", image))
    np.testing.assert_array_equal(read, [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]])


def test_transparency_is_laid_over_white(tmp_path):
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]], np.uint8)
    read = images.read(write(tmp_path / "alpha.png", Image.fromarray(rgba)))
    np.testing.assert_array_equal(read, [[[10, 20, 30], [255, 255, 255], [204, 204, 204]]])
    la = np.array([[[7, 255], [7, 0], [0, 51]]], np.uint8)
    read = images.read(write(tmp_path / "la.png", Image.fromarray(la)))
    np.testing.assert_array_equal(read, [[7, 255, 204]])
    keyed = write(tmp_path / "key.png", Image.fromarray(GRAY), transparency=17)
    np.testing.assert_array_equal(images.read(keyed), [[0, 255, 255], [128, 64, 1]])


def test_sixteen_bit_gray_is_scaled(tmp_path):
    """round(v * 255 / 65535): 128 is the last that rounds to 0, 129 the first that gives 1."""
    wide = np.array([[0, 128, 129, 257], [32767, 32768, 65406, 65407]], np.uint16)
    read = images.read(write(tmp_path / "wide.png", Image.fromarray(wide)))
    np.testing.assert_array_equal(read, [[0, 0, 1, 1], [127, 128, 254, 255]])


def test_sixteen_bit_rgb_keeps_the_high_bytes(tmp_path):
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    row = b"\0" + struct.pack(">6H", 0x1234, 0xFFFF, 0, 0x00FF, 0x8000, 0xABCD)
    path = tmp_path / "wide.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(row))
        + png_chunk(b"IEND", b"")
    )
    np.testing.assert_array_equal(images.read(path), [[[0x12, 0xFF, 0], [0, 0x80, 0xAB]]])


def test_one_bit_and_cmyk(tmp_path):
    bits = write(tmp_path / "bits.png", Image.fromarray(GRAY > 100))
    np.testing.assert_array_equal(images.read(bits), np.where(GRAY > 100, 255, 0))
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    read = images.read(write(tmp_path / "cmyk.jpg", cmyk, quality=100))
    assert read.shape == (8, 8, 3)
    assert (np.abs(read.astype(int) - [255, 0, 0]) <= 3).all()


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    path = tmp_path / "moving.png"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(images.read(path), RGB)


def encoded(name, **options):
    noise = np.random.default_rng(1).integers(0, 256, (40, 50, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG" if name.endswith("png") else "JPEG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("name", ["cut.png", "cut.jpg"])
def test_truncated_file_is_an_error(tmp_path, name, share):
    data = encoded(name)
    path = tmp_path / name
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match=f"reading .*{name}.*(truncated or damaged|not a PNG)"):
        images.read(path)


@pytest.mark.parametrize("position", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("level", [0, 9])
def test_flipped_bit_in_a_png_is_an_error(tmp_path, level, position):
    """Level 0 stores the pixels as they are, so that only a checksum can tell."""
    data = bytearray(encoded("bad.png", compress_level=level))
    data[int(len(data) * position)] ^= 0x10
    path = tmp_path / "bad.png"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"reading .*bad\.png.*damaged"):
        images.read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"hello, this is text", "not a PNG or JPEG file"),
        (b"GIF89a" + bytes(40), "not a PNG or JPEG file"),
    ],
)
def test_other_files_are_named(tmp_path, content, message):
    path = tmp_path / "odd.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"reading .*odd\.png: .*{message}"):
        images.read(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"reading .*none\.png: No such file.*check"):
        images.read(tmp_path / "none.png")
    with pytest.raises(OSError, match=r"reading .*check the path"):
        images.read(tmp_path)


def test_huge_dimensions_are_refused_before_decoding(tmp_path):
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"x" * 99)
    )
    with pytest.raises(ValueError, match=r"reading .*bomb\.png.*scale the picture down"):
        images.read(path)


def test_resize():
    constant = np.full((7, 5, 3), 93, np.uint8)
    np.testing.assert_array_equal(images.resize(constant, 3, 11), np.full((3, 11, 3), 93))
    halves = np.array([[0, 100], [50, 150]], np.uint8)
    assert images.resize(halves, 1, 1)[0, 0] == 75
    with pytest.raises(ValueError, match="at least 1x1, got 0x4"):
        images.resize(constant, 0, 4)

"""Masks, overlays and sheets: exact pixels, and files that appear whole or not at all."""

import os

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image")

from fcn import export  # noqa: E402

# The first and the last colours as published with PASCAL VOC 2012.
VOC = {
    0: (0, 0, 0),
    1: (128, 0, 0),
    2: (0, 128, 0),
    3: (128, 128, 0),
    4: (0, 0, 128),
    7: (128, 128, 128),
    8: (64, 0, 0),
    15: (192, 128, 128),
    20: (0, 64, 128),
    255: (224, 224, 192),
}


def no_leftovers(folder, *expected):
    assert sorted(p.name for p in folder.iterdir()) == sorted(expected)


@pytest.mark.parametrize("label", VOC)
def test_palette_is_the_one_of_voc(label):
    assert tuple(export.palette()[label]) == VOC[label]


def test_palette_colours_differ():
    assert len({tuple(colour) for colour in export.palette()}) == 256


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_mask_keeps_the_labels_as_pixel_values(tmp_path, dtype):
    labels = np.arange(256).reshape(8, 32).astype(dtype)
    export.save_mask(labels, tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.array(image), labels)
        np.testing.assert_array_equal(
            np.array(image.convert("RGB")), export.palette().reshape(8, 32, 3)
        )
    no_leftovers(tmp_path, "mask.png")


def test_mask_replaces_an_older_file(tmp_path):
    for value in (3, 4):
        export.save_mask(np.full((1, 1), value), tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as image:
        assert np.array(image) == 4


def test_png_round_trip(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    for name, pixels in (("rgb.png", rgb), ("gray.png", rgb[..., 0])):
        export.save_png(pixels, tmp_path / name)
        with Image.open(tmp_path / name) as image:
            np.testing.assert_array_equal(np.array(image), pixels)


def test_overlay_mixes_classes_and_leaves_the_background():
    image = np.array([[[100, 100, 100], [100, 50, 0]]], np.uint8)
    mixed = export.overlay(image, np.array([[0, 1]]), opacity=0.25)
    np.testing.assert_array_equal(mixed, [[[100, 100, 100], [107, 38, 0]]])
    gray = export.overlay(image[..., 0], np.array([[0, 2]]), opacity=1.0)
    np.testing.assert_array_equal(gray, [[[100, 100, 100], [0, 128, 0]]])


def test_contact_sheet_holds_every_picture_where_it_belongs():
    rng = np.random.default_rng(0)
    rows = [[rng.integers(0, 256, (20, 30, 3), np.uint8) for _ in range(3)] for _ in range(2)]
    sheet = export.contact_sheet(rows, ["scene", "truth", "ours"], gap=4)
    assert sheet.shape == (20 + 2 * 24, 4 + 3 * 34, 3)
    for i in range(2):
        for j in range(3):
            top, left = 20 + i * 24, 4 + j * 34
            picture = sheet[top : top + 20, left : left + 30]
            np.testing.assert_array_equal(picture, rows[i][j])
    for left in (4, 38, 72):  # a caption above each column, on white
        assert (sheet[:20, left : left + 30] < 100).any()
    assert (sheet[20:, :4] == 255).all()
    assert (sheet[-4:] == 255).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: export.paint(np.zeros((2, 2, 1), int)), ValueError, r"non-empty \(h, w\) array"),
        (lambda: export.paint(np.zeros((0, 2), int)), ValueError, r"got \(0, 2\)"),
        (lambda: export.paint(np.zeros((2, 2))), TypeError, "paint: labels must be integers"),
        (lambda: export.paint(np.full((1, 1), 256)), ValueError, r"0 \.\. 255, got 256 \.\. 256"),
        (lambda: export.paint(np.full((1, 1), -1)), ValueError, r"0 \.\. 255, got -1 \.\. -1"),
        (
            lambda: export.overlay(np.zeros((2, 3, 3), np.uint8), np.zeros((3, 2), int)),
            ValueError,
            r"overlay: the image is \(2, 3\) but its labels \(3, 2\)",
        ),
        (
            lambda: export.overlay(np.zeros((1, 1), np.uint8), np.zeros((1, 1), int), 1.5),
            ValueError,
            "opacity",
        ),
        (lambda: export.contact_sheet([], ["a"]), ValueError, "contact_sheet: 1 captions"),
        (
            lambda: export.contact_sheet(
                [[np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8)]], ["a", "b"]
            ),
            ValueError,
            "others are",
        ),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_missing_folder_is_named_and_nothing_is_left(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"writing .*none.*mask\.png: .*choose a folder"):
        export.save_mask(np.zeros((1, 1), int), tmp_path / "none" / "mask.png")
    no_leftovers(tmp_path)


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"making the folder .*file.*choose a folder"):
        export.make_folder(tmp_path / "file")
    with pytest.raises(OSError, match="making the folder"):
        export.make_folder(tmp_path / "file" / "below")
    made = export.make_folder(tmp_path / "a" / "b")
    assert made.is_dir()
    assert export.make_folder(made) == made


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match=r"writing .*mask\.png: Permission denied; choose"):
        export.save_mask(np.zeros((1, 1), int), tmp_path / "mask.png")


@pytest.mark.parametrize("stage", ["fsync", "replace"])
@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_failure_half_way_keeps_the_old_file_and_leaves_no_part(
    tmp_path, monkeypatch, stage, failure
):
    path = tmp_path / "data.bin"
    export.write_whole(path, b"old")

    def fail(*_):
        raise failure

    monkeypatch.setattr(os, stage, fail)
    with pytest.raises(type(failure)) as caught:
        export.write_whole(path, b"new")
    if isinstance(failure, OSError):
        assert "data.bin: No space left on device; choose" in str(caught.value)
    assert path.read_bytes() == b"old"
    no_leftovers(tmp_path, "data.bin")


def test_files_get_the_usual_permissions(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    export.write_whole(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode

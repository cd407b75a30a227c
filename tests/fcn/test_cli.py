"""The command `fcn`: exit status, one-line errors, and what is written."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fcn import cli, models, native, parity
from fcn.graph import Model
from fcn.session import Session

Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def model_file(tmp_path):
    graph = models.two_conv(4)
    model = Model(graph, models.initialise(graph, 3), {"classes": ["paper", "a", "b"]})
    native.save(model, tmp_path / "small.npz")
    return str(tmp_path / "small.npz")


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (13, 22, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def fails(capsys, *argv):
    """The one line on stderr of a command that must end with status 2."""
    try:
        status = cli.main([str(arg) for arg in argv])
    except SystemExit as stop:  # argparse found the mistake
        status = stop.code
    out, err = capsys.readouterr()
    assert status == 2
    assert err.count("\n") == 1
    assert err.startswith("fcn")
    assert "Traceback" not in err + out
    return err


# --- models by name ----------------------------------------------------------------------------


def test_architecture_with_options():
    model = cli.find_model("fcn8s:5:width=2:fc_kernel=3:channels=1", seed=7)
    assert model.graph == models.fcn8s(5, 1, width=2, fc=128, fc_kernel=3)
    expected = models.initialise(model.graph, 7)
    np.testing.assert_array_equal(model.weights["fc6/kernel"], expected["fc6/kernel"])
    assert cli.find_model("two_conv:21").graph == models.two_conv(21)
    assert cli.find_model("two_conv:3:as_printed").graph == models.two_conv(3, as_printed=True)


@pytest.mark.parametrize(
    ("text", "graph"),
    [
        ("fcn32s:3:width=2", models.fcn32s(3, width=2)),
        ("fcn16s:3:width=2:caffe", models.fcn16s(3, width=2, caffe=True)),
        ("fcn8s:3:width=2:fc=16", models.fcn8s(3, width=2, fc=16)),
        ("unet:2:width=4:depth=2", models.unet(2, width=4, depth=2)),
        ("fcn_resnet50:3:width=2", models.fcn_resnet50(3, width=2)),
        ("fcn_resnet101:3:width=2", models.fcn_resnet101(3, width=2)),
        (
            "fcn_mobilenet:3:width=4:output_stride=16",
            models.fcn_mobilenet(3, width=4, output_stride=16),
        ),
    ],
)
def test_every_architecture_has_its_options(text, graph):
    assert cli.find_model(text).graph == graph


def test_info_gives_long_names_room(capsys):
    assert cli.main(["info", "fcn_resnet50:3:width=2", "--size", "64x32"]) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if "backbone" in line]
    shortcut = "backbone.layer2.0.downsample.0  conv2d      backbone.layer1.2  "
    assert any(line.startswith(shortcut) and line.endswith("  8 x 4 x 16") for line in table)


def test_model_file(model_file):
    assert cli.find_model(model_file).graph == models.two_conv(4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "model 'nonsense' is not known; give digits_fcn8s"),
        ("two_conv", "is not known"),
        ("two_conv:many", "invalid literal for int"),
        ("two_conv:2:width=3", "unexpected keyword argument 'width'"),
        ("fcn_mobilenet:2:width=3", "width is a positive multiple of 4, got 3"),
        ("fcn8s:2:width=x", "invalid literal"),
        ("fcn8s:0:width=2", "filters is an integer >= 1, got 0"),
        ("missing.npz", "missing.npz"),
    ],
)
def test_unknown_models(capsys, text, message):
    assert message in fails(capsys, "info", text)


# --- segment -----------------------------------------------------------------------------------


def test_segment_writes_mask_and_overlay(capsys, tmp_path, model_file, photo):
    out = tmp_path / "masks"
    assert cli.main(["segment", str(photo), "--model", model_file, "--out", str(out)]) == 0
    labels = Session(native.load(model_file)).segment(np.array(Image.open(photo)))
    with Image.open(out / "photo_mask.png") as mask:
        assert mask.mode == "P"
        np.testing.assert_array_equal(np.array(mask), labels)
    with Image.open(out / "photo_overlay.png") as overlay:
        assert overlay.size == (22, 13)
    assert sorted(p.name for p in out.iterdir()) == ["photo_mask.png", "photo_overlay.png"]
    text = capsys.readouterr().out
    assert text.startswith(f"{photo}: ")
    assert str(out / "photo_mask.png") in text
    assert "%" in text


def test_segment_writes_planes(capsys, tmp_path, model_file, photo):
    run = ["segment", str(photo), "--model", model_file, "--out", str(tmp_path / "masks")]
    assert cli.main([*run, "--planes", "margin,entropy", "--memory", "1GB"]) == 0
    planes = Session(native.load(model_file)).segment(
        np.array(Image.open(photo)), planes=["margin", "entropy"]
    )[1]
    for name, plane in planes.items():
        np.testing.assert_array_equal(np.load(tmp_path / "masks" / f"photo_{name}.npy"), plane)
    with pytest.raises(SystemExit):
        cli.main([*run, "--planes", "certainty"])
    assert "planes are margin, probability, entropy, got ['certainty']" in capsys.readouterr().err


def test_one_bad_photo_does_not_stop_the_others(capsys, tmp_path, model_file, photo):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"not a photo")
    out = tmp_path / "masks"
    status = cli.main(["segment", str(bad), str(photo), "--model", model_file, "--out", str(out)])
    assert status == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "bad.jpg: this is not a PNG or JPEG file" in err
    assert sorted(p.name for p in out.iterdir()) == ["photo_mask.png", "photo_overlay.png"]


def test_segment_errors(capsys, tmp_path, model_file, photo):
    run = ["segment", "--model", model_file]
    assert "No such file" in fails(capsys, *run, tmp_path / "none.png", "--out", tmp_path / "out")
    (tmp_path / "file").write_text("in the way")
    assert "making the folder" in fails(capsys, *run, photo, "--out", tmp_path / "file" / "x")
    twin = tmp_path / "photo.jpg"
    message = fails(capsys, *run, photo, twin, "--out", tmp_path / "other")
    assert "would both write photo_mask.png" in message
    assert not (tmp_path / "other").exists()
    truncated = tmp_path / "small_cut.npz"
    truncated.write_bytes(Path(model_file).read_bytes()[:999])
    assert "small_cut.npz" in fails(capsys, "segment", photo, "--model", truncated)
    assert "number of threads" in fails(
        capsys, *run, photo, "--threads", 0, "--out", tmp_path / "out"
    )


def test_missing_pillow_names_the_extra(capsys, tmp_path, model_file, photo, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    monkeypatch.setitem(sys.modules, "PIL", None)
    err = fails(capsys, "segment", photo, "--model", model_file, "--out", tmp_path / "out")
    assert "pip install 'fastconv[images]'" in err


# --- verify ------------------------------------------------------------------------------------


def report(x, differing=0):
    whole = parity.EndToEnd(1e-7, 1e-7, 1e-6, x.size, 0, x.size - differing, differing)
    return parity.Report("net", x.shape, (), whole)


def test_verify_reports_and_tells_by_its_status(capsys, monkeypatch, photo):
    seen = []

    def fake(model, x, session):
        seen.append((model, x, session))
        return report(x, differing)

    monkeypatch.setattr(parity, "verify", fake)
    differing = 0
    assert cli.main(["verify", "two_conv:3", "--size", "20x12"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("PASS")
    differing = 1
    assert cli.main(["verify", "two_conv:3", str(photo), "--threads", "1"]) == 1
    assert "FAIL" in capsys.readouterr().out
    assert cli.main(["verify", "two_conv:3", str(photo), "--size", "9x6"]) == 1
    assert [x.shape for _, x, _ in seen] == [(1, 20, 12, 3), (1, 16, 24, 3), (1, 12, 8, 3)]
    assert seen[1][2].num_threads == 1
    assert all(session.model is model for model, _, session in seen)
    pixels = np.array(Image.open(photo)).astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(seen[1][1][0, :13, :22], pixels)


def test_noise_and_weights_follow_the_seed(monkeypatch):
    seen = []

    def fake(model, x, session):
        seen.append((x, model.weights["conv1/kernel"]))
        return report(x)

    monkeypatch.setattr(parity, "verify", fake)
    for seed in ("1", "1", "2"):
        assert cli.main(["verify", "two_conv:3", "--size", "8x8", "--seed", seed]) == 0
    for first, again, other in zip(*seen, strict=True):
        np.testing.assert_array_equal(first, again)
        assert (first != other).any()


def test_verify_without_tensorflow_names_the_extra():
    """In a process of its own, because TensorFlow may be loaded in this one."""
    code = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "from fcn import cli; sys.exit(cli.main(['verify', 'two_conv:3', '--size', '8x8']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'fastconv[tensorflow]'" in done.stderr


@pytest.mark.parametrize("size", ["512", "0x4", "ax4", "4x", "-1x4", "4x4x4"])
def test_bad_size(capsys, size):
    assert "write it as 512x512" in fails(capsys, "verify", "two_conv:3", f"--size={size}")


# --- the rest ----------------------------------------------------------------------------------


def test_plan_tells_time_and_memory(capsys):
    assert cli.main(["plan", "two_conv:2", "--size", "64x32"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "two_conv, input 1 x 64 x 32 x 3"
    assert [line.split()[0] for line in lines[2:5]] == ["pool1", "pool2", "upsample"]
    assert "32 x 16 x 64" in lines[2]
    # 2 x 3 x 3 operations for each input channel, output channel and pixel, and the last layer's
    flops = 18 * (3 * 64 * 64 * 32 + 64 * 128 * 32 * 16) + 2 * 128 * 2 * 64 * 32 * 4 // 4
    assert lines[-2].startswith(f"{flops / 1e9:.1f} GFLOP, ")
    amounts = [float(part.split()[-2]) for part in lines[-1].replace(":", ",").split(", ")]
    assert sum(amounts[1:]) == pytest.approx(amounts[0], abs=0.3)
    assert amounts[3] == pytest.approx(4e-6 * (32 * 16 * 64 + 16 * 8 * 128), abs=0.06)


def test_info(capsys, model_file):
    assert cli.main(["info", model_file, "--size", "64x32"]) == 0
    text = capsys.readouterr().out
    assert "two_conv: " in text
    assert "16 x 8 x 128" in text
    assert "upsample" in text
    assert "classes: ['paper', 'a', 'b']" in text


def test_train_passes_what_was_given(capsys, monkeypatch, tmp_path):
    from fcn import train

    seen = {}

    def fake(name, out, **options):
        seen.update(options, name=name, out=out)
        graph = models.two_conv(2)
        return Model(graph, models.initialise(graph, 0), {"validation_iou": [0.1, 0.5, 0.4]})

    monkeypatch.setattr(train, "train", fake)
    assert cli.main(["train", "two_conv", "--seed", "4", "--minutes", "0.5"]) == 0
    assert seen == {"name": "two_conv", "out": "digits_two_conv.npz", "seed": 4, "minutes": 0.5}
    assert "0.5000" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [[], ["fly"], ["train", "vgg"], ["segment"], ["demo", "--scenes"]])
def test_wrong_usage_is_one_line(capsys, argv):
    assert "--help" in fails(capsys, *argv)


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (KeyboardInterrupt(), 130, "fcn: interrupted\n"),
        (MemoryError(), 2, "fcn: MemoryError\n"),
        (ValueError("two\nlines"), 2, "fcn: two lines\n"),
    ],
)
def test_errors_have_no_traceback(capsys, monkeypatch, error, status, text):
    def fake(*_):
        raise error

    monkeypatch.setattr(cli, "find_model", fake)
    assert cli.main(["info", "two_conv:2"]) == status
    assert capsys.readouterr().err == text


def test_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(cli, "find_model", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["info", "two_conv:2"])


def test_segmenting_imports_neither_tensorflow_nor_scikit_learn(tmp_path, model_file, photo):
    code = (
        "import sys, json\nfrom fcn import cli\n"
        f"status = cli.main(['segment', {str(photo)!r}, '--model', {model_file!r},"
        f" '--out', {str(tmp_path / 'out')!r}])\n"
        "heavy = [m for m in ('tensorflow', 'sklearn') if m in sys.modules]\n"
        "print(json.dumps([status, heavy]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [0, []]
    assert done.stderr == ""


def test_closed_pipe_is_not_an_error(model_file):
    command = f"{sys.executable} -m fcn.cli info {model_file} | head -c 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stderr == ""


class Terminal:
    def __init__(self, watched):
        self.watched, self.text = watched, ""

    def isatty(self):
        return self.watched

    def write(self, text):
        self.text += text

    def flush(self):
        pass


@pytest.mark.parametrize(("watched", "items", "shown"), [(True, 3, 3), (False, 3, 0), (True, 1, 0)])
def test_progress_only_when_a_person_watches(monkeypatch, watched, items, shown):
    terminal = Terminal(watched)
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(cli._progress(range(items), "photos")) == list(range(items))
    assert terminal.text.count("photos ") == shown

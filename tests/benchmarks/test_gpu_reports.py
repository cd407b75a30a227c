"""What the comparison on a GPU writes, and why it cannot; `simulated` says what runs."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import compare, plots, report, summary, table
from benchmarks.gpu import device as gpus
from benchmarks.gpu import main as gpu_main
from benchmarks.layers import LayerClass
from benchmarks.summary import layers
from tests.benchmarks.simulated import DESCRIPTION, FLOAT32, TF32, Fake, Right, run
from tests.benchmarks.tiny import LAYER

# --- reports ------------------------------------------------------------------------------------


def results_of(precisions=(FLOAT32, TF32)):
    engines = [Right("fastconv", ("auto", "direct")), Right("torch", ("eager", "fused"))]
    return run(engines, Fake(), ("conv", "labels"), precisions)


def test_text_is_made_of_the_json_alone(tmp_path):
    result = json.loads(json.dumps(results_of()["float32"], allow_nan=False))
    text = report.markdown(result)
    assert text.startswith(
        "float32 on NVIDIA H200, capability 9.0, 50 MiB of L2 cache, driver 580.1, CUDA 13.0, "
        "PyTorch 2.9, cuDNN 91000, clocks.sm 1980 MHz; host "
    )
    assert "time of the fastest peer at the same precision, over ours" in text
    assert (
        "Ceilings: 67 TFLOP/s of the float32 units, by the data sheet, 4000.0 GB/s of a copy"
        in text
    )
    assert "| layer | fastconv | torch | all / ours |" in text
    assert "| conv, odd | 1 +-0% | 1 +-0% | 1.00 |" in text
    head = "| fastconv | ms | TFLOP/s | of peak | GB/s | of copy | best own | ours / best own |"
    assert f"{head} kernel |" in text
    assert re.search(r"\| conv \| 1 \| 0.0 \| 0% \| 0.0 \| 0% \| direct \| 1.00 \| made \|", text)
    assert "* conv, torch (fused): the host takes 2000 us to ask for 1000 us of work" in text
    pytest.importorskip("matplotlib")
    assert [p.name for p in plots.draw(result, tmp_path / "float32-batch8.json")] == [
        "float32-batch8-speedups.svg", "float32-batch8-roofline.svg"]  # fmt: skip


def test_a_precision_has_its_own_ceiling_and_its_own_count():
    result = results_of()["tf32"]
    assert [layer["name"] for layer in layers(result)] == ["conv"]
    assert result["peak"] == {"gbytes": pytest.approx(4000.0), "gflops": 494_700,
                              "what": "the TF32 tensor cores, by the data sheet"}  # fmt: skip
    [layer] = layers(result)
    layer["counts"] = "direct"
    assert summary.best(layer, "fastconv").variant == "direct"
    assert summary.best_own(layer).variant == "auto"


def test_unknown_gpus_have_no_share_of_a_peak(monkeypatch, tmp_path):
    monkeypatch.setitem(DESCRIPTION, "name", "Abacus")
    result = results_of()["float32"]
    assert "Ceilings: 4000.0 GB/s of a copy" in (text := report.markdown(result))
    assert "| conv | 1 | 0.0 | - | 0.0 | 0% |" in text
    pytest.importorskip("matplotlib")
    assert len(plots.draw(result, tmp_path / "r.json")) == 2


# --- the command line ---------------------------------------------------------------------------


def test_results_are_printed_and_written(monkeypatch, tmp_path, capsys):
    group = LayerClass("tiny", "one", (LAYER["conv"],))
    monkeypatch.setattr(table, "select", lambda names: {"conv9": (group,)}[names])
    monkeypatch.setattr(compare, "RESULTS", tmp_path)
    monkeypatch.setattr(gpus, "unavailable", lambda: "")
    monkeypatch.setattr(gpus, "Device", Fake)
    monkeypatch.setattr(gpu_main, "Ours", lambda device: Right("fastconv", ("auto",)))
    monkeypatch.setattr(gpu_main, "Torch", lambda device: Right())
    options = ["--device", "cuda", "--layers", "conv9", "--rounds", "2", "--batch", "3"]
    assert compare.main([*options, "--precisions", "float32,float16"]) == 0
    printed = capsys.readouterr().out
    for name in ("float32", "float16"):
        path = tmp_path / "nvidia-h200" / f"{name}-batch3.json"
        [layer] = layers(json.loads(path.read_text()))
        assert layer["x"] == [3, 9, 10, 5]
        assert path.with_suffix(".md").read_text() in printed
    assert len(list((tmp_path / "nvidia-h200").glob("*.json"))) == 2
    monkeypatch.setattr(
        gpu_main, "Ours", lambda device: Right("fastconv", ("auto",), lambda v, y: y + 1)
    )
    assert compare.main([*options, "--out", str(tmp_path / "wrong")]) == 1
    assert (tmp_path / "wrong" / "tf32-batch3.md").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        (["--layers", "conv9"], "no layer is named 'conv9'"),
        (["--precisions", "float8"], "no precision is named ['float8']; there are float32, tf32"),
        (["--batch", "0"], "--batch must be at least 1, got 0"),
        (["--rounds", "0"], "--rounds must be at least 1, got 0"),
    ],
)
def test_bad_options_are_explained(options, message, capsys):
    with pytest.raises(SystemExit):
        compare.main(["--device", "cuda", *options])
    assert message in capsys.readouterr().err


def fake_torch(cuda, available=False):
    return SimpleNamespace(
        __version__="9.9", version=SimpleNamespace(cuda=cuda),
        cuda=SimpleNamespace(is_available=lambda: available),
    )  # fmt: skip


@pytest.mark.parametrize(
    "reason, torch, sentence",
    [
        ("no NVIDIA driver (libcuda) was found", fake_torch("13.0"), "no NVIDIA driver (libcuda)"),
        ("", None, "PyTorch, whose cuDNN it is compared with, is not installed; see https"),
        ("", fake_torch(None), "this PyTorch (9.9) is built without CUDA; see https"),
        ("", fake_torch("13.0"), "PyTorch finds no GPU that it can use"),
    ],
)
def test_without_a_gpu_one_sentence_says_why(
    reason, torch, sentence, monkeypatch, tmp_path, capsys
):
    from fastconv import cuda

    monkeypatch.setattr(compare, "RESULTS", tmp_path)
    monkeypatch.setattr(cuda, "unavailable", lambda: reason)
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert compare.main(["--device", "cuda"]) == 1
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith(f"benchmarks cannot use device 'cuda': {sentence}")
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_with_a_gpu_there_is_no_reason(monkeypatch):
    from fastconv import cuda

    monkeypatch.setattr(cuda, "unavailable", lambda: "")
    monkeypatch.setitem(sys.modules, "torch", fake_torch("13.0", available=True))
    assert gpus.unavailable() == ""


def test_the_process_refuses_without_a_gpu():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.compare", "--device", "cuda"],
        cwd=Path(compare.__file__).parents[1], capture_output=True, text=True,
        env={"CUDA_VISIBLE_DEVICES": "", "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 1
    assert not done.stdout
    assert done.stderr.count("\n") == 1

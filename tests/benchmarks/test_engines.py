"""Engines, their processes and the command line. Nothing is timed."""

import json
import re

import numpy as np
import pytest

import fastconv
from benchmarks import bench_layers, check, compare, peers, report, sweep, table
from benchmarks.layers import Goals, Layer, LayerClass
from benchmarks.peers import ours
from benchmarks.summary import layers
from benchmarks.worker import Worker, WorkerError
from fastconv import cpu
from fastconv.spec import Conv2d
from tests.benchmarks.tiny import LAYER, TINY, as_reference

GROUP = LayerClass("tiny", "all steps", TINY)
CONV = LayerClass("conv", "one layer", (LAYER["conv"],))
TENSORFLOW = pytest.param("tensorflow", marks=pytest.mark.tensorflow)
ENGINES = [TENSORFLOW if name == "tensorflow" else name for name in peers.PEERS]

# MNN's Winograd tiles of 10 x 10 lose three digits; everything else only rounds.
LIMITS = {"mnn": 5e-4}
# (engine, layer) -> what it says
UNABLE = {
    ("ncnn", name): "NotImplementedError: its ArgMax looks at all pixels together"
    for name in ("labels", "labels of a batch")
}


def run_compare(*options):
    return compare.main([*options, "--engines", "fastconv", "--layers-only", "--seconds", "0"])


# --- engines ------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_gives_the_right_answer(engine):
    result = compare.compare([GROUP], [engine], threads=1, rounds=2, seconds=0.0)
    assert list(result["engines"]) == [engine]
    if "missing" in result["engines"][engine]:
        assert engine != peers.OURS
        pytest.skip(result["engines"][engine]["missing"])
    assert result["engines"][engine]["version"]
    assert [layer["name"] for layer in layers(result)] == list(LAYER)
    for layer in layers(result):
        assert layer["engines"].keys() == {engine}
        assert layer["engines"][engine], "no variant"
        for variant, found in layer["engines"][engine].items():
            where = f"{layer['name']}, {variant}: {found}"
            if reason := UNABLE.get((engine, layer["name"])):
                assert found == {"failed": reason}
                continue
            assert found.get("error", np.inf) < LIMITS.get(engine, 5e-6), where
            assert [turn["calls"] for turn in found["rounds"]] == [3, 3], where
    assert json.loads(json.dumps(result, allow_nan=False))["engines"] == result["engines"]


@pytest.mark.parametrize("layer", TINY, ids=lambda layer: layer.name)
def test_our_algorithms_are_those_that_can_serve(layer):
    names = ours.algorithms(layer)
    if len(layer.steps) > 1 or not isinstance(layer.steps[0], Conv2d):
        assert names == ["auto"]
        return
    for name in cpu.NAMES:
        if name in names:
            [plan] = ours.calls(layer, 1, name)
            assert isinstance(plan, fastconv.Plan)
            assert name in ("auto", plan.algorithm)
        else:
            with pytest.raises(ValueError, match=f"algorithm '{name}' cannot serve this layer"):
                ours.calls(layer, 1, name)


def test_a_missing_package_is_named():
    with pytest.raises(WorkerError, match=r"No module named 'benchmarks\.peers\.absent'"):
        Worker("absent", 1)


def test_an_engine_that_dies_says_so(tmp_path):
    np.save(tmp_path / "expected.npy", check.answer(LAYER["conv"]))
    with Worker(peers.OURS, 1) as worker:
        worker.prepare(LAYER["conv"], tmp_path / "expected.npy", 0.0)
        with pytest.raises(WorkerError, match="its process ended with status 1 KeyError: 'absent'"):
            worker.turn("absent", 0.0)
        with pytest.raises(WorkerError, match="its process ended with status 1"):  # broken pipe
            worker.turn("auto", 0.0)


class Fragile:
    """Stands for a worker; each dies in its second layer."""

    version = "0"
    made = 0

    def __init__(self, name, threads):
        Fragile.made += 1
        self.layers = 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def prepare(self, layer, expected, seconds):
        self.layers += 1
        if self.layers == 2:
            raise WorkerError("it died")
        return {"only": "cannot"}


def test_an_engine_that_died_is_started_again(monkeypatch):
    monkeypatch.setattr(compare, "Worker", Fragile)
    group = LayerClass("three", "", TINY[:3])
    result = compare.compare([group], ["torch"], threads=1, rounds=1, seconds=0.0)
    outcomes = [layer["engines"]["torch"] for layer in layers(result)]
    assert outcomes == [{"only": {"failed": "cannot"}}, {"-": {"failed": "it died"}},
                        {"only": {"failed": "cannot"}}]  # fmt: skip
    assert Fragile.made == 2


def test_nan_is_a_wrong_answer():
    assert compare._outcome("torch", float("nan")) == {"failed": "there are NaN in its answer"}


def test_coarse_answers_count_for_others_only():
    assert compare._outcome("mnn", 5e-4) == {"error": 5e-4, "rounds": []}
    assert compare._outcome(peers.OURS, 5e-4) == {"error": 5e-4}
    assert compare._outcome("mnn", 5e-3) == {"error": 5e-3}


def test_goals_are_part_of_the_result():
    own = Layer("own", "", LAYER["conv"].steps, goals=Goals(2.0, 1.5))
    group = LayerClass("two", "of a kind", (own, LAYER["conv"]), Goals(3.0, 1.0), mean_direct=2.5)
    free = LayerClass("free", "", (LAYER["conv"],))
    result = compare.compare([group, free], [], threads=1, rounds=1, seconds=0.0)
    assert [(c["name"], c["what"], c["mean_direct"]) for c in result["classes"]] == [
        ("two", "of a kind", 2.5), ("free", "", None)]  # fmt: skip
    assert [layer["goals"] for layer in layers(result)] == [
        {"direct": 2.0, "all": 1.5}, {"direct": 3.0, "all": 1.0}, None]  # fmt: skip


# --- the command line ---------------------------------------------------------------------------


def test_a_wrong_answer_is_not_timed(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(table, "select", lambda names: (CONV,))
    monkeypatch.setattr(check, "answer", lambda layer: as_reference(layer) + 0.01)
    assert run_compare("--rounds", "1", "--out", str(tmp_path / "r.json")) == 1
    out, err = capsys.readouterr()
    assert re.search(r"\* conv, fastconv \(auto\): not timed, error \d.\de-0\d", out)
    assert "fastconv gave no right answer on conv" in err


def test_results_are_printed_and_written(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(table, "select", lambda names: {"conv9": (CONV,)}[names])
    monkeypatch.setattr(compare, "RESULTS", tmp_path)
    assert run_compare("--layers", "conv9", "--rounds", "2", "--threads", "2") == 0
    [path] = tmp_path.glob("*/threads2.json")
    result = json.loads(path.read_text())
    assert [layer["name"] for layer in layers(result)] == ["conv"]
    assert capsys.readouterr().out == path.with_suffix(".md").read_text() == report.markdown(result)


def test_a_sweep_is_a_comparison_for_each_number_of_threads(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(compare, "RESULTS", tmp_path)
    options = ["--sizes", "6,8", "--threads", "1,2", "--engines", "fastconv", "--rounds", "1"]
    assert sweep.main([*options, "--seconds", "0"]) == 0
    [path] = tmp_path.glob("*/sweep.json")
    result = json.loads(path.read_text())
    assert [run["threads"] for run in result["sweep"]] == [1, 2]
    for run in result["sweep"]:
        assert [layer["name"] for layer in layers(run)] == ["3x3_64_64_6", "3x3_64_64_8"]
        assert all(layer["engines"]["fastconv"]["auto"]["rounds"] for layer in layers(run))
    assert capsys.readouterr().out == path.with_suffix(".md").read_text() == report.markdown(result)


@pytest.mark.parametrize(
    "command, options, message",
    [
        (compare, ["--layers", "conv9"], "no layer is named 'conv9'"),
        (compare, ["--engines", "fastconv,caffe"], "no engine is named ['caffe']; there are fastc"),
        (compare, ["--rounds", "0"], "--rounds must be at least 1, got 0"),
        (compare, ["--threads", "0"], "--threads must be at least 1, got 0"),
        (sweep, ["--engines", "caffe"], "no engine is named ['caffe']; there are fastconv,"),
        (sweep, ["--threads", "1,0"], "sizes and threads are integers of at least 1, got '1,0'"),
        (sweep, ["--sizes", "big"], "sizes and threads are integers of at least 1, got 'big'"),
    ],
)
def test_bad_options_are_explained(command, options, message, capsys, monkeypatch):
    monkeypatch.setattr(compare, "compare", None)  # nothing shall run
    with pytest.raises(SystemExit):
        command.main(options)
    assert message in capsys.readouterr().err


# --- the pytest suite ---------------------------------------------------------------------------


class Benchmark:
    """Stands for pytest-benchmark's fixture."""

    def __init__(self):
        self.extra_info = {}
        self.stats = {"median": 0.5}

    def __call__(self, run):
        self.y = run()


def test_suite_checks_before_it_times():
    layer, benchmark = LAYER["pool"], Benchmark()
    bench_layers.bench_layer(benchmark, layer, 1)
    error = check.error(layer, benchmark.y, as_reference(layer))
    assert benchmark.extra_info["error"] == pytest.approx(error)
    [plan] = ours.calls(layer, 1)
    assert benchmark.extra_info["algorithm"] == [plan.algorithm] != [""]
    assert benchmark.extra_info["gflops"] == pytest.approx(2e-9 * layer.flops)


def test_suite_times_no_wrong_answer(monkeypatch):
    monkeypatch.setattr(check, "answer", lambda layer: as_reference(layer) + 0.01)
    benchmark = Benchmark()
    with pytest.raises(AssertionError):
        bench_layers.bench_layer(benchmark, LAYER["conv"], 1)
    assert not hasattr(benchmark, "y")

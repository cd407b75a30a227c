"""The benchmark suite itself: answers, fairness of the bookkeeping, reports. Nothing is timed."""

import copy
import json
import re

import numpy as np
import pytest

from benchmarks import bench_conv2d, check, compare, layers, peers, report, startup
from benchmarks.layers import Goal, Layer, conv, transpose
from benchmarks.worker import Worker, WorkerError
from fastconv import reference
from fastconv.spec import Conv2d, ConvTranspose2d
from fcn import models

# Odd sizes, batches and channel counts; large enough in "winograd" for the engines that use it.
TINY = (
    Layer("conv", "odd", (conv((1, 9, 10, 5), 7),)),
    Layer("pool", "odd, batch", (conv((2, 9, 7, 16), 32, pool=True),)),
    Layer("linear", "5x5", (conv((1, 6, 7, 8), 3, 5, activation=None),)),
    Layer("depthwise", "groups", (conv((1, 9, 8, 8), 8, groups=8),)),
    Layer("pointwise", "batch of 3", (conv((3, 6, 5, 4), 16, 1),)),
    Layer("transpose", "4x4 s4", (transpose((2, 5, 6, 16), 5, 4),)),
    Layer("winograd", "40 x 40", (conv((1, 40, 40, 32), 32),)),
    Layer(
        "network",
        "article's",
        (
            conv((1, 32, 32, 3), 64, pool=True),
            conv((1, 16, 16, 64), 128, pool=True),
            transpose((1, 8, 8, 128), 21, 2),
        ),
        graph=models.two_conv(21, as_printed=True),
    ),
)
NAMES = [layer.name for layer in TINY]
TENSORFLOW = pytest.param("tensorflow", marks=pytest.mark.tensorflow)
ENGINES = [TENSORFLOW if name == "tensorflow" else name for name in peers.PEERS]

# MNN's Winograd tiles of 10 x 10 lose three digits; everything else only rounds.
LIMITS = {"mnn": 5e-4}


def as_reference(layer):
    """What the specification of fastconv says, in naive loops."""
    x = layer.input()
    for step, (w, bias) in zip(layer.steps, layer.weights(), strict=True):
        op = reference.conv2d if isinstance(step, Conv2d) else reference.conv2d_transpose
        x = op(x, w, bias, step)
    return x


# --- the right answer ---------------------------------------------------------------------------


GENERAL = (
    Conv2d((2, 9, 8, 6), (3, 2, 3, 4), (2, 3), ((1, 0), (2, 1)), (2, 1), groups=2),
    ConvTranspose2d((1, 4, 5, 3), (3, 4, 2, 3), (2, 1), ((1, 0), (0, 2))),
    ConvTranspose2d((1, 3, 3, 2), (2, 2, 2, 2), (2, 2), ((0, -1), (0, -2))),
)


@pytest.mark.parametrize(
    "layer", [*TINY, *(Layer(str(spec), "", (spec,)) for spec in GENERAL)], ids=lambda x: x.name
)
def test_answer_is_the_specification(layer):
    np.testing.assert_allclose(check.answer(layer), as_reference(layer), rtol=0, atol=1e-12)


def test_relative_error():
    assert check.relative_error(np.array([3.0, 4.5]), np.array([3.0, 4.0])) == 0.1
    assert np.isnan(check.relative_error(np.array([3.0, np.nan]), np.array([3.0, 4.0])))
    with pytest.raises(ValueError, match=r"shape \(1,\) instead of \(2,\)"):
        check.relative_error(np.ones(1), np.ones(2))


# --- the table of layers ------------------------------------------------------------------------


def test_layers_are_selected_by_name():
    assert layers.select("all") == layers.LAYERS
    assert [layer.name for layer in layers.select("acceptance")] == [
        "3x3_64_64_500", "3x3_512_512_32", "article_512"]  # fmt: skip
    assert [layer.x for layer in layers.select("1x1_256_256_128,3x3_3_64_512")] == [
        (1, 128, 128, 256), (1, 512, 512, 3)]  # fmt: skip
    with pytest.raises(
        ValueError, match="no layer is named 'conv9'; there are all, acceptance, 3x3"
    ):
        layers.select("3x3_3_64_512,conv9")


@pytest.mark.parametrize("layer", layers.LAYERS, ids=lambda layer: layer.name)
def test_layers_are_consistent(layer):
    assert sum(other.name == layer.name for other in layers.LAYERS) == 1
    for step, following in zip(layer.steps, layer.steps[1:], strict=False):
        assert step.out == following.x
    if layer.graph is not None:
        shapes = layer.graph.shapes(layer.x)
        assert shapes[layer.graph.output] == layer.out
        step_shapes = [array.shape for pair in layer.weights() for array in pair]
        assert list(layer.graph.parameters().values()) == step_shapes
    assert {peer for goal in layer.goals for peer in goal.peers} <= peers.PEERS.keys()


def test_activations_keep_their_size():
    y = check.answer(next(layer for layer in TINY if layer.name == "network"))
    assert 0.1 < np.sqrt(np.mean(y**2)) < 10


# --- engines ------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_gives_the_right_answer(engine):
    result = compare.compare(TINY, [engine], threads=1, rounds=2, seconds=0.0)
    assert list(result["engines"]) == [engine]
    if "missing" in result["engines"][engine]:
        assert engine != peers.OURS
        pytest.skip(result["engines"][engine]["missing"])
    assert result["engines"][engine]["version"]
    assert [layer["name"] for layer in result["layers"]] == NAMES
    for layer in result["layers"]:
        assert layer["engines"].keys() == {engine}
        assert layer["engines"][engine], "no variant"
        for variant, found in layer["engines"][engine].items():
            where = f"{layer['name']}, {variant}: {found}"
            assert found.get("error", np.inf) < LIMITS.get(engine, 5e-6), where
            assert [turn["calls"] for turn in found["rounds"]] == [3, 3], where
    assert json.loads(json.dumps(result, allow_nan=False))["engines"] == result["engines"]


def test_a_missing_package_is_named():
    with pytest.raises(WorkerError, match=r"No module named 'benchmarks\.peers\.absent'"):
        Worker("absent", 1)


def test_an_engine_that_dies_is_left_out(tmp_path):
    np.save(tmp_path / "expected.npy", check.answer(TINY[0]))
    with Worker(peers.OURS, 1) as worker:
        worker.prepare(TINY[0], tmp_path / "expected.npy", 0.0)
        with pytest.raises(WorkerError, match="its process ended with status 1 KeyError: 'absent'"):
            worker.turn("absent", 0.0)


def test_a_wrong_answer_is_not_timed(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(layers, "LAYERS", TINY[:1])
    monkeypatch.setattr(check, "answer", lambda layer: as_reference(layer) + 0.01)
    options = ["--layers", "conv", "--engines", "fastconv", "--no-startup", "--rounds", "1"]
    assert compare.main([*options, "--out", str(tmp_path / "r.json")]) == 1
    out, err = capsys.readouterr()
    assert re.search(r"\* conv, fastconv \(auto\): not timed, relative error \d.\de-0\d", out)
    assert "fastconv gave no right answer on conv" in err


def test_nan_is_a_wrong_answer():
    assert compare._outcome("torch", float("nan")) == {"failed": "there are NaN in its answer"}


def test_coarse_answers_count_for_others_only():
    assert compare._outcome("mnn", 5e-4) == {"error": 5e-4, "rounds": []}
    assert compare._outcome(peers.OURS, 5e-4) == {"error": 5e-4}
    assert compare._outcome("mnn", 5e-3) == {"error": 5e-3}


# --- the command line ---------------------------------------------------------------------------


def test_results_are_printed_and_written(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(layers, "LAYERS", TINY[:2])
    monkeypatch.setattr(compare, "RESULTS", tmp_path)
    options = ["--layers", "all", "--engines", "fastconv", "--no-startup"]
    assert compare.main([*options, "--rounds", "2", "--seconds", "0", "--threads", "2"]) == 0
    [path] = tmp_path.glob("*/threads2.json")
    result = json.loads(path.read_text())
    assert [layer["name"] for layer in result["layers"]] == NAMES[:2]
    assert capsys.readouterr().out == path.with_suffix(".md").read_text() == report.markdown(result)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--layers", "conv9"], "no layer is named 'conv9'"),
        (["--engines", "fastconv,caffe"], "no engine is named ['caffe']; there are fastconv,"),
        (["--rounds", "0"], "--threads and --rounds must be at least 1"),
    ],
)
def test_bad_options_are_explained(options, message, capsys):
    with pytest.raises(SystemExit):
        compare.main(options)
    assert message in capsys.readouterr().err


# --- reports ------------------------------------------------------------------------------------


def timed(error, *medians, cores=2.0, rests=True):
    turn = {"fastest": 0.0, "calls": 3, "cores": cores, "rests": rests}
    return {"error": error, "rounds": [{"median": m, **turn} for m in medians]}


RESULT = {
    "date": "2030-01-02T03:04:05+00:00",
    "machine": {"cpu": "Abacus", "cpus": 4, "system": "Linux x86_64", "python": "3.11.0",
                "numpy": "2.0.0", "numba": "0.61.0", "load": 0.1},
    "threads": 2,
    "rounds": 3,
    "engines": {
        "fastconv": {"version": "1.0", "kind": "own", "settings": "plans"},
        "tensorflow": {"version": "2.0", "kind": "direct", "settings": "graphs"},
        "torch": {"version": "3.0", "kind": "direct", "settings": "modules"},
        "mnn": {"version": "4.0", "kind": "winograd", "settings": "sessions"},
        "ncnn": {"missing": "No module named 'ncnn'"},
    },
    "layers": [
        {
            "name": "a",
            "what": "first",
            "goals": [{"peers": ["tensorflow", "torch"], "ratio": 3.0},
                      {"peers": ["mnn", "ncnn"], "ratio": 1.5}, {"peers": ["ncnn"], "ratio": 1.0}],
            "engines": {
                "fastconv": {"auto": timed(3e-7, 0.010, 0.012, 0.011)},
                "tensorflow": {"graph": timed(2e-7, 0.04, 0.04, 0.04)},
                "torch": {"plain": timed(2e-7, 0.05, 0.05, 0.05),
                          "packed": timed(2e-7, 0.034, 0.033, 0.033, rests=False)},
                "mnn": {"module": timed(2e-4, 0.011, 0.011, 0.011, cores=3.0)},
            },
        },
        {
            "name": "b",
            "what": "second",
            "goals": [],
            "engines": {
                "fastconv": {"auto": timed(4e-7, 0.0001, 0.0001, 0.0001)},
                "tensorflow": {"graph": {"failed": "ValueError: no"}},
                "torch": {"plain": {"error": 0.5}},
                "mnn": {"module": {**timed(4e-7, 0.00001), "failed": "it died"}},
            },
        },
    ],
}  # fmt: skip


def test_table():
    assert report.table(RESULT).splitlines() == [
        "| layer | fastconv | tensorflow | torch | mnn | direct / ours | winograd / ours | error |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| a, first | 11 +-5% | 40 +-0% | 33 +-1% | 11 +-0% | 3.00 | 1.00 | 3.0e-07 |",
        "| b, second | 0.1 +-0% | - | - | - | - | - | 4.0e-07 |",
    ]


def test_goals():
    assert report.goals(RESULT).splitlines()[2:] == [
        "| a | fastest of tensorflow and torch | 3.00 | 3.0 | yes |",
        "| a | fastest of mnn and ncnn | 1.00 | 1.5 | NO |",
    ]
    assert report.goals({**RESULT, "layers": RESULT["layers"][1:]}) == ""


def test_notes_hide_nothing():
    assert report.notes(RESULT).splitlines() == [
        "* fastconv 1.0: plans",
        "* tensorflow 2.0: graphs",
        "* torch 3.0: modules",
        "* mnn 4.0: sessions",
        "* ncnn: left out, No module named 'ncnn'",
        "* a, torch (packed): its threads did not come to rest between turns",
        "* a, mnn (module): coarse, relative error 2.0e-04",
        "* a, mnn (module): used 3.0 threads instead of 2",
        "* b, tensorflow (graph): did not run, ValueError: no",
        "* b, torch (plain): not timed, relative error 5.0e-01",
        "* b, mnn (module): did not run, it died",
    ]


def test_report_without_layers_is_start_up_alone():
    result = copy.deepcopy(RESULT)
    result["layers"] = []
    result["startup"] = {"import": [0.2, 0.3, 0.25], "warm": [0.7], "cold": [3, 4]}
    text = report.markdown(result)
    assert text.startswith("Abacus, 4 CPUs, 2 threads; Linux x86_64, Python 3.11.0, NumPy 2.0.0,")
    assert text.splitlines()[-3:] == [
        "| import fastconv, warm cache | 0.25 | 0.20 - 0.30 | 0.5 |",
        "| process start to first conv2d result, warm cache | 0.70 | 0.70 - 0.70 | 1.0 |",
        "| process start to first conv2d result, empty cache | 3.50 | 3.00 - 4.00 | 6.0 |",
    ]


def test_start_up_is_measured_in_a_fresh_process(tmp_path):
    imported, first = startup.fresh_process(str(tmp_path))
    assert 0 < imported < first
    assert any(tmp_path.rglob("*")), "nothing was compiled into the given cache"


# --- the pytest suite ---------------------------------------------------------------------------


class Benchmark:
    """Stands for pytest-benchmark's fixture."""

    def __init__(self):
        self.extra_info = {}
        self.stats = {"median": 0.5}

    def __call__(self, run):
        self.y = run()


def test_suite_checks_before_it_times():
    layer, benchmark = TINY[1], Benchmark()
    bench_conv2d.bench_layer(benchmark, layer, 1)
    error = check.relative_error(benchmark.y, as_reference(layer))
    assert benchmark.extra_info["error"] == pytest.approx(error)
    assert benchmark.extra_info["algorithm"] == ["winograd_f4"]
    assert benchmark.extra_info["gflops"] == pytest.approx(2e-9 * layer.flops)


def test_suite_times_no_wrong_answer(monkeypatch):
    monkeypatch.setattr(check, "answer", lambda layer: as_reference(layer) + 0.01)
    benchmark = Benchmark()
    with pytest.raises(AssertionError):
        bench_conv2d.bench_layer(benchmark, TINY[0], 1)
    assert not hasattr(benchmark, "y")


def test_goal_is_part_of_the_result():
    layer = Layer("conv", "", TINY[0].steps, goals=(Goal(("torch",), 2.0),))
    result = compare.compare([layer], [], threads=1, rounds=1, seconds=0.0)
    assert result["layers"][0]["goals"] == [{"peers": ("torch",), "ratio": 2.0}]

"""From JSON to text and plots."""

import copy
import json
import sys

import numpy as np
import pytest

from benchmarks import plots, report, summary


def timed(error, *medians, cores=2.0, rests=True):
    turn = {"fastest": 0.0, "calls": 3, "cores": cores, "rests": rests}
    return {"error": error, "rounds": [{"median": m, **turn} for m in medians]}


def layer(name, what, engines, goals=None, size=8, gflop=2.0, gbyte=0.5):
    return {"name": name, "what": what, "goals": goals, "x": [1, size, size, 4], "gflop": gflop,
            "gbyte": gbyte, "engines": engines}  # fmt: skip


MACHINE = {"cpu": "Abacus", "cpus": 4, "system": "Linux x86_64", "python": "3.11.0",
           "numpy": "2.0.0", "numba": "0.61.0", "load": 0.1}  # fmt: skip
ENGINES = {
    "fastconv": {"version": "1.0", "kind": "own", "settings": "plans"},
    "mnn": {"version": "4.0", "kind": "winograd", "settings": "sessions"},
    "tensorflow": {"version": "2.0", "kind": "direct", "settings": "graphs"},
    "torch": {"version": "3.0", "kind": "direct", "settings": "modules"},
    "ncnn": {"missing": "No module named 'ncnn'"},
}
A = layer(
    "a", "first",
    {
        "fastconv": {"auto": timed(3e-7, 0.010, 0.012, 0.011),
                     "direct": timed(1e-7, 0.03), "winograd_f6": timed(2e-6, 0.0088)},
        "tensorflow": {"graph": timed(2e-7, 0.04, 0.04, 0.04)},
        "torch": {"plain": timed(2e-7, 0.05, 0.05, 0.05),
                  "packed": timed(2e-7, 0.034, 0.033, 0.033, rests=False)},
        "mnn": {"module": timed(2e-4, 0.011, 0.011, 0.011, cores=3.0)},
    },
    {"direct": 3.0, "all": 1.5},
)  # fmt: skip
B = layer(
    "b", "second",
    {
        "fastconv": {"auto": timed(4e-7, 0.0001), "direct": timed(1e-7, 0.000095)},
        "tensorflow": {"graph": {"failed": "ValueError: no"}},
        "torch": {"plain": timed(0, 0.0003)},
        "mnn": {"module": {**timed(4e-7, 0.00001), "failed": "it died"}},
    },
    {"direct": 2.5, "all": 1.0},
)  # fmt: skip
C = layer("c", "third", {"fastconv": {"auto": {"error": 0.5}}, "torch": {"plain": timed(0, 1.0)}})
D = layer("d", "labels", {"fastconv": {"auto": timed(0, 0.002)}, "mnn": {"m": timed(0, 0.004)}},
          gflop=0.0)  # fmt: skip
RESULT = {
    "format": 2,
    "date": "2030-01-02T03:04:05+00:00",
    "machine": MACHINE,
    "threads": 2,
    "rounds": 3,
    "engines": ENGINES,
    "peak": {"gflops": 100.0, "gbytes": 50.0},
    "classes": [
        {"name": "one", "what": "with goals", "mean_direct": None, "layers": [A, B]},
        {"name": "two", "what": "without", "mean_direct": None, "layers": [C, D]},
    ],
}


def with_class(layers, mean_direct=None):
    group = {"name": "g", "what": "", "mean_direct": mean_direct, "layers": layers}
    return {**RESULT, "classes": [group]}, group


# --- numbers ------------------------------------------------------------------------------------


def test_fastest_variant_counts_but_for_ours_only_auto():
    assert summary.best(A, "torch") == (0.033, pytest.approx(0.0005 / 2 / 0.033), "packed")
    assert summary.best(A, "fastconv") == (0.011, pytest.approx(0.001 / 2 / 0.011), "auto")
    assert summary.best_own(A) == (0.0088, 0.0, "winograd_f6")
    assert summary.best(B, "mnn") is summary.best(B, "tensorflow") is None  # it died, it failed
    assert summary.best(C, "fastconv") is summary.best_own(D) is None


def test_all_peers_include_the_direct_ones():
    [one, two] = RESULT["classes"]
    assert summary.ratios(RESULT, one, "direct") == pytest.approx({"a": 3.0, "b": 3.0})
    assert summary.ratios(RESULT, one, "all") == pytest.approx({"a": 1.0, "b": 3.0})
    assert summary.ratios(RESULT, two, "all") == pytest.approx({"d": 2.0})
    assert summary.ratios(RESULT, two, "direct") == {}


@pytest.mark.parametrize(
    "layers, mean, expected",
    [
        ([A, B], None, ["a all 1.00 of 1.5"]),
        ([B], 2.9, []),
        ([B], 3.1, ["mean direct 3.00 of 3.1"]),
        ([{**B, "goals": {"direct": 3.01, "all": 2.9}}], None, ["b direct 3.00 of 3.01"]),
        ([{**C, "goals": {"direct": 1.0, "all": 1.0}}], None, ["c has no time"]),
        ([C, D], None, None),  # no goals
        ([{**A, "engines": {"fastconv": A["engines"]["fastconv"]}}], 1.0, None),  # no peers
    ],
)
def test_a_goal_is_reached_by_every_layer(layers, mean, expected):
    assert summary.missed(*with_class(layers, mean)) == expected


# --- text ---------------------------------------------------------------------------------------


def test_table_of_a_class():
    assert report.group_table(RESULT, RESULT["classes"][0]).splitlines() == [
        "| layer | fastconv | tensorflow | torch | mnn | direct / ours | all / ours |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| a, first | 11 +-5% | 40 +-0% | 33 +-1% | 11 +-0% | 3.00 of 3.0 | 1.00 of 1.5 NO |",
        "| b, second | 0.1 +-0% | - | 0.3 +-0% | - | 3.00 of 2.5 | 3.00 of 1.0 |",
    ]
    assert report.group_table(RESULT, RESULT["classes"][1]).splitlines()[2:] == [
        "| c, third | - | - | 1e+03 +-0% | - | - | - |",
        "| d, labels | 2 +-0% | - | - | 4 +-0% | - | 2.00 |",
    ]


def test_goals():
    assert report.goals(RESULT).splitlines() == [
        "| class | layers | direct / ours, mean | direct / ours, least | wanted "
        "| all / ours, mean | all / ours, least | wanted | reached |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "| one | 2 | 3.00 | 3.00 | 2.5 - 3.0 | 1.73 | 1.00 | 1.0 - 1.5 | NO: a all 1.00 of 1.5 |",
    ]
    assert report.goals(with_class([B], 2.9)[0]).splitlines()[2:] == [
        "| g | 1 | 3.00 | 3.00 | 2.5, mean 2.9 | 3.00 | 3.00 | 1.0 | yes |"
    ]
    assert report.goals(with_class([C, D])[0]) == ""


def test_table_of_our_own():
    assert report.own(RESULT).splitlines()[2:] == [
        "| a | 11 | 181.8 | 182% | 45.5 | 91% | winograd_f6 | 1.25 |",
        "| b | 0.1 | 20000.0 | 20000% | 5000.0 | 10000% | direct | 1.05 |",
        "| d | 2 | - | - | 250.0 | 500% | - | - |",
    ]
    del (bare := dict(RESULT))["peak"]
    assert report.own(bare).splitlines()[2] == (
        "| a | 11 | 181.8 | - | 45.5 | - | winograd_f6 | 1.25 |"
    )


def test_bad_choices_are_named():
    assert report.choices(RESULT) == "* a: auto takes 1.25 times as long as winograd_f6"


def test_errors_are_those_of_what_was_timed():
    assert report.errors(RESULT).splitlines()[2:] == [
        "| a | 3.0e-07 | 2.0e-07 | 2.0e-07 | 2.0e-04 |",
        "| b | 4.0e-07 | - | 0.0e+00 | - |",
        "| c | - | - | 0.0e+00 | - |",
        "| d | 0.0e+00 | - | - | 0.0e+00 |",
    ]


def test_notes_hide_nothing():
    assert report.notes(RESULT).splitlines() == [
        "* fastconv 1.0: plans",
        "* mnn 4.0: sessions",
        "* tensorflow 2.0: graphs",
        "* torch 3.0: modules",
        "* ncnn: left out, No module named 'ncnn'",
        "* a, torch (packed): its threads did not come to rest between turns",
        "* a, mnn (module): coarse, error 2.0e-04",
        "* a, mnn (module): used 3.0 threads instead of 2",
        "* b, tensorflow (graph): did not run, ValueError: no",
        "* b, mnn (module): did not run, it died",
        "* c, fastconv (auto): not timed, error 5.0e-01",
    ]


def test_report_holds_every_part():
    text = report.markdown(RESULT)
    assert "Ceilings: 100 GFLOP/s of FMAs, 50.0 GB/s of a copy, read and written." in text
    parts = [report.goals(RESULT), "## one: with goals", "## two: without", report.own(RESULT),
             report.choices(RESULT), report.errors(RESULT), report.notes(RESULT)]  # fmt: skip
    assert sorted(parts, key=text.index) == parts  # index raises where one is missing


def test_report_without_layers_is_start_up_alone():
    result = copy.deepcopy(RESULT)
    result["classes"] = []
    result["startup"] = {"import": [0.2, 0.3, 0.25], "warm": [0.7], "cold": [3, 4]}
    text = report.markdown(result)
    assert text.startswith("Abacus, 4 CPUs, 2 threads; Linux x86_64, Python 3.11.0, NumPy 2.0.0,")
    assert text.splitlines()[-3:] == [
        "| import fastconv, warm cache | 0.25 | 0.20 - 0.30 | 0.5 |",
        "| process start to a first segmentation, warm cache | 0.70 | 0.70 - 0.70 | 0.7 |",
        "| process start to a first segmentation, empty cache | 3.50 | 3.00 - 4.00 | 3.0 |",
    ]


def test_report_of_correlate2d():
    case = {"size": 64, "kernel": 3, "mode": "same", "threads": 2}
    rows = [{**case, "fastconv": 8e-6, "scipy": 6e-5}]
    text = report.markdown({**RESULT, "correlate2d": rows})
    assert text.splitlines()[-1] == "| 64^2, 3x3, same | 8.0 | 60.0 | 7.50 |"


def run_of(threads, *medians):
    """A sweep's run of two sizes; the medians are ours and torch's of each."""
    sizes = []
    for size, ours, torch in zip((8, 16), medians[::2], medians[1::2], strict=True):
        engines = {"fastconv": {"auto": timed(0, ours)}, "torch": {"plain": timed(0, torch)}}
        sizes.append(layer(f"s{size}", "", engines, size=size))
    return {**with_class(sizes)[0], "threads": threads}


ONE, TWO = run_of(1, 0.004, 0.008, 0.016, 0.02), run_of(2, 0.002, 0.005, 0.009, 0.01)
SWEEP = {"format": 2, "sweep": [ONE, TWO]}


def test_table_of_a_sweep():
    text = report.markdown(SWEEP)
    assert text.splitlines()[2:6] == [
        "| layer, threads | fastconv, 1 | fastest peer, 1 | fastconv, 2 | fastest peer, 2 |",
        "| --- | --- | --- | --- | --- |",
        "| s8 | 4 +-0% | 8 +-0% torch | 2 +-0% | 5 +-0% torch |",
        "| s16 | 16 +-0% | 20 +-0% torch | 9 +-0% | 10 +-0% torch |",
    ]
    assert text.startswith("Abacus, 4 CPUs, 1 and 2 threads; ")
    for run in SWEEP["sweep"]:
        assert f"## Notes, {run['threads']} threads\n\n{report.notes(run)}\n" in text


def test_text_is_made_again_from_json(tmp_path, capsys):
    path = tmp_path / "threads2.json"
    path.write_text(json.dumps(RESULT))
    assert report.main([str(path)]) == 0
    assert path.with_suffix(".md").read_text() == report.markdown(RESULT)
    assert str(path.with_suffix(".md")) in capsys.readouterr().out
    path.write_text(json.dumps({**RESULT, "format": 1}))
    with pytest.raises(SystemExit):
        report.main([str(path)])
    assert "has format 1, this reads 2; measure again" in capsys.readouterr().err


# --- plots --------------------------------------------------------------------------------------


def test_speedups():
    found = {one.name: one for one in plots.speedups(RESULT)}
    assert list(found) == ["tensorflow", "torch", "mnn"]
    assert found["tensorflow"].x == ["a"]
    assert found["torch"].x == ["a", "b"]
    assert found["torch"].y == pytest.approx([3.0, 3.0])
    ours, torch = 0.001 / 2 / 0.011, 0.0005 / 2 / 0.033
    assert found["torch"].spread == pytest.approx([np.hypot(ours, torch), 0.0])


def test_roofline_holds_convolutions_only():
    ours, other = plots.roofline(RESULT)
    assert (ours.name, ours.x) == ("fastconv", [4.0, 4.0])
    assert ours.y == pytest.approx([2 / 0.011, 2 / 0.0001])
    assert (other.name, other.x) == ("fastest peer", [4.0, 4.0, 4.0])
    assert other.y == pytest.approx([2 / 0.011, 2 / 0.0003, 2.0])


def test_curves():
    against = {name: {one.name: (one.x, one.y) for one in plots.curves(SWEEP, name)}
               for name in ("size", "threads")}  # fmt: skip
    assert against["size"] == {
        "fastconv, 1 threads": ([8, 16], [4.0, 16.0]),
        "fastest peer, 1 threads": ([8, 16], [8.0, 20.0]),
        "fastconv, 2 threads": ([8, 16], [2.0, 9.0]),
        "fastest peer, 2 threads": ([8, 16], [5.0, 10.0]),
    }
    assert against["threads"]["fastconv, 8^2"] == ([1, 2], [4.0, 2.0])
    assert against["threads"]["fastest peer, 16^2"] == ([1, 2], [20.0, 10.0])


@pytest.mark.parametrize(
    "result, names", [(RESULT, ["speedups", "roofline"]), (SWEEP, ["sizes", "threads"])]
)
def test_plots_are_drawn(result, names, tmp_path):
    pytest.importorskip("matplotlib")
    written = plots.draw(result, tmp_path / "r.json")
    assert written == [tmp_path / f"r-{name}.svg" for name in names]
    assert all("</svg>" in path.read_text() for path in written)


def test_plots_are_left_out_without_matplotlib(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert plots.draw(RESULT, tmp_path / "r.json") == []
    assert "no plots: " in (err := capsys.readouterr().err)
    assert "pip install 'fastconv[bench]'" in err

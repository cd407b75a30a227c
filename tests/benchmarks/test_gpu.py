"""The comparison on a GPU, on a simulated one with a clock that is not one. Nothing is timed."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import report, table
from benchmarks.gpu import main as gpu_main
from benchmarks.gpu.engines import Ours, UnableError
from benchmarks.gpu.judge import Judge
from benchmarks.layers import as_dtype, batch
from benchmarks.summary import layers
from fastconv import bounds
from tests.benchmarks.simulated import ALL, FLOAT32, TF32, Fake, Right, run
from tests.benchmarks.tiny import LAYER

# --- buffers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("nbytes, l2_bytes", [(1000, 50 << 20), (7 << 20, 50 << 20), (1 << 30, 1)])
def test_what_lies_between_two_uses_of_a_buffer_exceeds_the_cache(nbytes, l2_bytes):
    count = gpu_main.buffers(nbytes, l2_bytes)
    assert count >= 2
    assert (count - 1) * nbytes >= 2 * l2_bytes
    assert count == 2 or (count - 2) * nbytes < 2 * l2_bytes  # and is no more than that needs


def test_our_calls_rotate_through_inputs_and_results(gpu):
    device, layer = Fake(gpu), LAYER["pointwise"]
    x = layer.input()
    xs = [device.upload(scale * x, "float32") for scale in (1, 2, 4)]
    program = Ours(device).build(layer, "direct", xs)
    ys = [program.run() for _ in range(4)]
    assert len({y.pointer for y in ys}) == 3
    assert ys[3].pointer == ys[0].pointer
    first, second, third = (program.read(y) for y in ys[:3])
    assert not (np.allclose(first, second) or np.allclose(second, third))
    assert np.isnan(device.download(device.poisoned((2,), "float32"))).all()


def test_both_sides_get_the_same_buffers():
    ours, torch = Right("fastconv"), Right("torch", ("a", "b"))
    result = run([ours, torch], Fake(l2_bytes=10_000))["float32"]
    [layer] = layers(result)
    count = gpu_main.buffers(4 * 9 * 10 * (5 + 7), 10_000)
    assert layer["buffers"] == count == 6
    assert len(ours.inputs[0]) == count
    assert ours.inputs[0] is torch.inputs[0] is torch.inputs[1]


# --- answers ------------------------------------------------------------------------------------


def test_our_kernels_give_right_answers_at_every_precision(gpu):
    device = Fake(gpu)
    chosen = ("pointwise", "depthwise s2", "labels", "patches", "probabilities", "pool")
    results = run([Ours(device)], device, chosen, ALL, rounds=1)
    for name, result in results.items():
        for layer in layers(result):
            found = layer["engines"]["fastconv"]
            assert all("rounds" in o and not o.get("outside") for o in found.values()), (
                name,
                found,
            )
            assert next(iter(found)) == layer["counts"]
    assert not device.tf32
    variants = {
        name: [list(layer["engines"]["fastconv"]) for layer in layers(result)]
        for name, result in results.items()
    }
    auto = ["auto"]
    assert variants["float32"][0] == ["auto", "direct", "tf32x3"]
    assert variants["float32"][1:5] == [["auto", "direct"], *[auto] * 3]
    assert variants["float32"][5][:3] == ["auto", "direct", "winograd_f2"]
    assert "tf32" not in variants["float32"][5]
    assert variants["tf32"] == [["tf32", "auto"], auto, auto, ["tf32", "auto"]]  # of filters
    assert [v[0] for v in variants["bfloat16"]] == ["auto"] * 6
    ran = [layer["engines"]["fastconv"] for layer in layers(results["tf32"])]
    assert ran[0]["tf32"]["kernels"] == ["tf32_float32_64"]
    [half] = [layer for layer in layers(results["float16"]) if layer["name"] == "pool"]
    assert half["engines"]["fastconv"]["tensor"]["kernels"][0].startswith("tensor_float16")
    assert half["gbyte"] == pytest.approx(1e-9 * LAYER["pool"].nbytes / 2)


def test_an_algorithm_that_cannot_serve_is_left_out_and_other_errors_are_not(gpu):
    with pytest.raises(UnableError):
        Ours(Fake(gpu)).build(LAYER["linear"], "winograd_f2", [])
    with pytest.raises(ValueError, match="unknown algorithm 'fast'") as caught:
        Ours(Fake(gpu)).build(LAYER["linear"], "fast", [])
    assert caught.type is ValueError


def test_networks_run_by_our_kernels(gpu):
    device = Fake(gpu)
    results = run([Ours(device)], device, ("network with concat",), (FLOAT32, TF32), rounds=1)
    for name, counts in (("float32", "auto"), ("tf32", "tf32")):
        [layer] = layers(results[name])
        found = layer["engines"]["fastconv"]
        assert list(found) == [counts] and "rounds" in found[counts], found
        kernels = found[counts]["kernels"]
        assert any(k.startswith("tf32_") for k in kernels) == (name == "tf32")
        assert any(k.startswith("simt_") for k in kernels)  # of three channels


def outcomes(wrong, name="fastconv", **how):
    device = Fake()
    result = run([Right(name, ("plain", "odd"), wrong)], device, **how)["float32"]
    timed = [t for t in device.turns if t[2] > 0]
    return layers(result)[0]["engines"][name], timed


def test_a_wrong_answer_is_refused_before_it_is_timed():
    def shift(variant, y):
        return y + np.float32(0.5) if variant == "odd" else y

    found, timed = outcomes(shift)
    assert found["plain"]["error"] < 1e-6
    assert [turn["calls"] for turn in found["plain"]["rounds"]] == [25] * 3
    assert found["odd"]["error"] > 1e-4
    assert "rounds" not in found["odd"]
    assert len(timed) == 3  # of the other one


@pytest.mark.parametrize("name, limit", [("fastconv", 1e-4), ("torch", 1e-3)])
def test_peers_may_be_ten_times_as_wrong(name, limit):
    def scale(variant, y):
        return y * np.float32(1 + {"plain": 0.9, "odd": 1.1}[variant] * limit)

    found, timed = outcomes(scale, name, bounded=False)
    assert found["plain"]["error"] == pytest.approx(0.9 * limit, rel=0.01)
    assert "rounds" in found["plain"] and "rounds" not in found["odd"]
    assert len(timed) == 3


def test_one_number_outside_of_its_bound_is_refused():
    def shift(variant, y):
        y = y.copy()
        if variant == "odd":
            y[0, 3, 4, 5] += 2e-5
        return y

    found, timed = outcomes(shift)
    assert found["odd"]["error"] < 1e-4
    assert found["odd"]["outside"] == 1
    assert found["plain"]["outside"] == 0
    assert len(timed) == 3
    found, timed = outcomes(shift, "torch")
    assert found["odd"]["rounds"]  # only ours has bounds
    assert "rounds" in outcomes(shift, bounded=False)[0]["odd"]


def test_nan_is_refused():
    found, timed = outcomes(lambda variant, y: y * np.nan)
    assert found["plain"] == {"kernels": ["made"], "failed": "there are NaN in its answer"}
    assert not timed


@pytest.mark.parametrize("added, noted", [(1, "error"), (np.nan, "there are NaN in its answer")])
def test_an_answer_that_is_wrong_later_is_refused(added, noted):
    calls = []

    def late(variant, y):
        calls.append(variant)
        return y + np.float32(added) if calls.count(variant) > 1 else y

    found, timed = outcomes(late)
    for outcome in found.values():
        assert "rounds" not in outcome
        assert noted in (*outcome, *outcome.values())
    assert not timed


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bounds_are_those_of_the_algorithm_and_the_dtype(dtype):
    layer = batch(LAYER["winograd"], 3)
    layer = type(layer)("w", "", layer.steps, dtype=dtype)
    judge = Judge(layer, 1e-4, True)
    np.testing.assert_array_equal(judge.x[0], judge.x[2])  # two pictures, repeated
    assert (judge.x[0] != judge.x[1]).any()
    assert (judge.x == as_dtype(judge.x, dtype).astype(np.float32)).all()
    x, [arrays] = judge.x[:1], layer.weights()
    algorithm = "tensor" if dtype == "bfloat16" else "winograd_f2"
    right = bounds.conv2d(x, *arrays, batch(LAYER["winograd"], 1).steps[0], algorithm)
    if dtype == "bfloat16":
        right = bounds.rounded_to(dtype, np.abs(judge.expected[:1]), right)
    np.testing.assert_array_equal(judge.bound(algorithm), right)
    assert Judge(LAYER["labels"], 1e-4, True).bound("") is None


def test_batches():
    rows = [batch(layer, 8) for layer in table.LAYERS]
    assert {row.x[0] for row in rows} == {row.out[0] for row in rows} == {8}
    assert all(row.goals is None for row in rows)
    names = [row.name for row in rows]
    assert {"3x3_64_64_500_n8", "fcn8s_n8", "argmax_21_500_n8"} <= set(names)
    twice = gpu_main._batched([*table.LAYERS, rows[0]], 8)
    assert [layer.name for layer in twice] == names


# --- rounds -------------------------------------------------------------------------------------


def test_rounds_alternate_and_each_starts_with_another():
    device, order = Fake(), []

    def note(variant, y):
        order.append(variant)
        return y

    engines = [Right("fastconv", ("auto", "direct"), note), Right("torch", ("eager",), note)]
    run(engines, device, rounds=4)
    assert order[-12:] == ["auto", "direct", "eager", "direct", "eager", "auto",
                           "eager", "auto", "direct", "auto", "direct", "eager"]  # fmt: skip
    timed = [(calls, wait) for _, calls, wait in device.turns[-12:]]
    # 0.05 s of calls that take the host 2 ms; the GPU waits for half as long again as it takes.
    assert timed == [(25, pytest.approx(1.5 * 25 * 2e-3))] * 12


@pytest.mark.parametrize("seconds, calls", [(0.0, 3), (0.05, 25), (9.0, 200)])
def test_a_turn_has_neither_too_few_calls_nor_too_many(seconds, calls):
    turns = gpu_main.Turns(SimpleNamespace(run=lambda: None), Fake(), seconds, 5)
    turns.warm_up()
    assert turns.calls == calls
    assert turns.take() == {"median": pytest.approx(1e-3), "calls": calls}
    assert turns.host == pytest.approx(2e-3)


def test_a_variant_that_fails_does_not_stop_the_others():
    def fail(variant, y):
        if variant == "odd":
            raise ValueError("too odd\nfor this")
        return y

    found, _ = outcomes(fail)
    assert found["odd"] == {"failed": "ValueError: too odd"}
    assert len(found["plain"]["rounds"]) == 3


def test_nothing_goes_on_without_the_gpu():
    device = Fake()

    def fail(variant, y):
        device.lost = "illegal address"
        raise RuntimeError(device.lost)

    result = run([Right("fastconv", wrong=fail)], device, ("conv", "pool"))["float32"]
    assert result["stopped"] == (
        "the GPU was lost in conv, float32, fastconv (plain): RuntimeError: illegal address"
    )
    assert result["classes"] == []
    assert report.notes(result).splitlines()[-1] == f"* {result['stopped']}"

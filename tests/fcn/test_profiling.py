"""Profiles: the steps that a segmentation runs, with figures that agree with each other."""

import math
import re

import numpy as np
import pytest

from fcn import cli, models, profiling
from fcn.graph import Model
from fcn.profiling import Measured, Profile
from fcn.session import Session

CONV = Measured("conv", "winograd_f4", "the reason", (1, 4, 4, 8), 2e-3, 3 * 10**9, 5e6, 1e-3)
POOL = Measured("pool", "max_pool2d", "", (1, 2, 2, 8), 6e-3, 0, 1e6, None)


def session(graph, **options):
    return Session(Model(graph, models.initialise(graph, 0)), **options)


def test_every_step_of_a_segmentation_is_there():
    ours = session(models.fcn8s(3, width=2, fc=8, fc_kernel=3), num_threads=1)
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    before = ours.segment(image)
    found = ours.profile(image, runs=2)
    program = ours.labelling(ours.prepare(image).shape)
    assert [s.name for s in found.steps] == [s.node.name for s in program.steps]
    assert found.steps[-1].way == "direct, crop, argmax"
    assert {"winograd_f4, pool 2x2", "direct, pool 2x2"} & {s.way for s in found.steps}
    assert found.shape == ours.prepare(image).shape
    assert (found.model, found.threads, found.runs) == ("fcn8s", 1, 2)
    for measured, step in zip(found.steps, program.steps, strict=False):
        assert measured.shape == step.shape
        if plan := step.plan:
            assert measured.flops == plan.spec.flops
            assert measured.reason == plan.reason in str(plan)
            assert measured.roofline == plan.roofline_seconds > 0
            expected = f"{100 * plan.roofline_seconds / plan.expected_seconds:.0f} % of the"
            assert expected in str(plan)
            least = 4 * math.prod(plan.spec.x) + math.prod(plan.shape) * plan.dtype.itemsize
            assert measured.nbytes >= least  # weights and what is read again come on top
    assert all(s.seconds > 0 for s in found.steps)
    assert found.seconds > 0
    np.testing.assert_array_equal(ours.segment(image), before)  # nothing is left watched


def test_bytes_of_what_has_no_plan():
    steps = {s.name: s for s in session(models.unet(2, width=2, depth=1)).profile(
        np.zeros((16, 16), np.uint8), 1).steps}  # fmt: skip
    (concat,) = (s for s in steps.values() if s.way == "concat")
    assert concat.nbytes == 4 * (2 * 16 * 16 * 2 + 16 * 16 * 4)
    assert (concat.flops, concat.roofline, concat.share) == (0, None, None)
    assert steps["labels"].nbytes == 16 * 16 * (2 * 4 + 1)


def test_resizing_and_labels_are_one_step():
    ours = session(models.fcn_resnet50(3, width=2))
    found = ours.profile(np.zeros((32, 32), np.uint8), 1)
    assert found.steps[-1].way == "resize2d, argmax"
    assert "resize2d" not in {step.way for step in found.steps}


def test_medians_leave_out_the_first_call(monkeypatch):
    """The clock is read at the start and the end of each call: they take 9, 1, 2, 6 seconds."""
    clock = iter([0, 9, 10, 11, 20, 22, 30, 36])
    monkeypatch.setattr(profiling.time, "perf_counter", lambda: next(clock))
    times = profiling._Times()
    for _ in range(4):
        with times:
            pass
    assert times.median == 2


def test_table():
    text = str(Profile("net", (1, 8, 8, 3), 2, 5, (CONV, POOL), 1e-2))
    lines = text.splitlines()
    assert lines[0] == "net, input 1 x 8 x 8 x 3, 2 threads, median of 5 runs"
    conv, pool = (" ".join(line.split()) for line in lines[3:5])
    assert conv == "conv winograd_f4 4 x 4 x 8 2.000 25.0% 3.000 5.00 1500.0 50% the reason"
    assert pool == "pool max_pool2d 2 x 2 x 8 6.000 75.0% 1.00"
    column = lines[2].index("time") + len("time")
    assert all(line[:column].endswith("%") for line in lines[3:5])
    assert lines[-1] == "10 ms, 3 GFLOP as direct convolutions, 300 GFLOP/s"


def test_bars_are_as_long_as_the_times():
    svg = Profile("net", (1, 8, 8, 3), 2, 5, (CONV, POOL), 1e-2).svg()
    widths = [float(w) for w in re.findall(r'<rect [^>]* width="([\d.]+)"', svg)]
    longest = max(widths)
    assert widths == pytest.approx([longest / 3, longest / 6, longest, 0], abs=0.1)
    assert "2 ms, winograd_f4, 50% of the roofline" in svg


@pytest.mark.parametrize("runs", [0, -1, 1.5, True])
def test_a_wrong_number_of_runs(runs):
    with pytest.raises(ValueError, match="profile: runs is an integer >= 1, got"):
        session(models.two_conv(2)).profile(np.zeros((8, 8), np.uint8), runs)


def test_command_says_what_is_wrong(capsys):
    assert cli.main(["profile", "two_conv:2", "--runs", "0"]) == 2
    assert "runs is an integer >= 1" in capsys.readouterr().err

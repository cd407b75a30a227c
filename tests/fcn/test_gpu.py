"""Sessions on a simulated GPU give what they give on the CPU, and keep arrays there."""

import gc

import numpy as np
import pytest

import fastconv
from fastconv.cuda import device
from fcn import models
from fcn.graph import Graph, Model, Node
from fcn.session import Session
from tests.fcn.networks import EVERY_OP, conv, integer_model, oracle
from tests.helpers import integers

SMALL = {
    "fcn8s": lambda: models.fcn8s(3, width=2),
    "unet": lambda: models.unet(3, width=4, depth=2),
    "mobilenet": lambda: models.fcn_mobilenet(3, width=8),
    "resnet": lambda: models.fcn_resnet50(3, width=2),
}
RUN = ["upload", "download"]  # of the input and the result


@pytest.mark.parametrize("name", SMALL)
def test_networks_give_the_same_labels(gpu, name):
    graph = SMALL[name]()
    model = Model(graph, models.initialise(graph, 0), {})
    picture = np.abs(integers((33, 40), 1)) / 4
    host, on_gpu = Session(model), Session(model, device="cuda")
    x = host.prepare(picture)
    expected = host.run(x)
    for _ in range(2):
        gpu.copies.clear()
        scale = np.abs(expected).max()
        np.testing.assert_allclose(on_gpu.run(x), expected, rtol=1e-3, atol=1e-5 * scale)
    assert gpu.copies == RUN  # weights came with the first run
    labels = host.segment(picture)
    np.testing.assert_array_equal(on_gpu.segment(picture), labels)
    gpu.copies.clear()
    np.testing.assert_array_equal(on_gpu.segment(picture), labels)
    assert gpu.copies == RUN
    if name in ("fcn8s", "unet"):  # the last maps of the others have no rows to cut
        np.testing.assert_array_equal(on_gpu.segment(picture, band=1), labels)


@pytest.mark.parametrize("shape", [(1, 19, 22), (2, 12, 9)], ids=str)
@pytest.mark.parametrize("name", EVERY_OP)
def test_every_operation_is_exact_and_stays_there(gpu, name, shape):
    model = integer_model(EVERY_OP[name])
    session = Session(model, algorithm="direct", device="cuda")
    for seed in (1, 2):
        x = integers((*shape, 3), seed)
        gpu.copies.clear()
        np.testing.assert_array_equal(session.run(x), oracle(model, x)[model.graph.output])
    assert gpu.copies == RUN
    assert gpu.replays


def test_crops_that_leave_out_whole_rows_of_the_input(gpu):
    up = {"filters": 3, "kernel": [3, 2], "stride": [2, 1], "use_bias": False}
    nodes = (
        conv("small", "input", 2, kernel=5),
        Node("up", "conv2d_transpose", ("input",), up),
        Node("cut", "crop", ("up", "small"), {"offset": [7, 2]}),
    )
    model, x = integer_model(Graph("far", 2, nodes, "cut"), 3), integers((2, 9, 8, 2), 1)
    expected = oracle(model, x)["cut"]
    assert np.abs(expected).max() > 0
    np.testing.assert_array_equal(Session(model, device="cuda").run(x), expected)


def test_layers_one_by_one(gpu):
    model, x = integer_model(EVERY_OP["pixel_by_pixel"]), integers((1, 9, 12, 3), 1)
    expected = oracle(model, x)
    for node, y in Session(model, algorithm="direct", device="cuda").layers(x):
        np.testing.assert_array_equal(y, expected[node.name], err_msg=node.name)


def test_several_inputs_and_outputs(gpu):
    nodes = [Node("sum", "add", ("a", "b")), Node("top", "maximum", ("sum", "a"))]
    graph = Graph("two", {"a": 2, "b": 2}, nodes, {"s": "sum", "t": "top"})
    a, b = (integers((1, 3, 4, 2), i) for i in range(2))
    session = Session(Model(graph, {}), device="cuda")
    for _ in range(3):
        found = session.run({"a": a, "b": b})
        np.testing.assert_array_equal(found["s"], a + b)
        np.testing.assert_array_equal(found["t"], np.maximum(a + b, a))


def classifier(filters=3):
    """What ends in scores, of which the GPU makes labels by a step of their own."""
    nodes = (
        conv("a", "input", 4, padding="same", activation="relu"),
        conv("b", "a", 4, padding="same"),
        Node("sum", "add", ("b", "a")),
        conv("out", "sum", filters, kernel=1),
    )
    return Graph("small", 3, nodes, "out")


def test_labels_are_made_on_the_gpu(gpu, monkeypatch):
    sizes, download = [], gpu.download

    def watched(source, array, stream):
        sizes.append(array.nbytes)
        download(source, array, stream)

    monkeypatch.setattr(gpu, "download", watched)
    model = integer_model(classifier())
    picture = np.abs(integers((9, 11, 3), 1)) / 4
    session = Session(model, device="cuda")
    for _ in range(3):
        gpu.copies.clear()
        labels = session.segment(picture)
    assert sizes == [9 * 11] * 3  # bytes
    np.testing.assert_array_equal(labels, Session(model, algorithm="direct").segment(picture))
    assert gpu.copies == RUN
    wanted = session.segment(picture, planes="margin")[1]["margin"]
    np.testing.assert_allclose(
        wanted, Session(model, algorithm="direct").segment(picture, planes="margin")[1]["margin"]
    )


def test_one_channel_has_labels_too(gpu):
    model = integer_model(classifier(1))
    picture = np.abs(integers((9, 11, 3), 1)) / 4
    found = Session(model, device="cuda").segment(picture)
    np.testing.assert_array_equal(found, Session(model, algorithm="direct").segment(picture))


def test_kernels_are_launched_one_by_one_and_then_at_once(gpu):
    session = Session(integer_model(classifier()), device="cuda")
    assert str(session) == "small on cuda"
    gpu.replays = 0
    x = integers((1, 6, 7, 3), 1)
    session.run(x)
    assert gpu.replays == 0
    assert "small on cuda\n  1 x 6 x 7 x 3, 4 steps: 0.0 MB between layers, " in str(session)
    assert "kernels one by one (no run came before)" in str(session)
    for i in (1, 2):
        session.run(x)
        assert gpu.replays == i
    assert str(session).endswith("one CUDA graph")


def test_profiles_are_of_steps(gpu):
    session = Session(integer_model(classifier()), device="cuda")
    gpu.replays = 0
    found = session.profile(np.abs(integers((9, 11, 3), 1)) / 4, runs=2)
    assert [step.name for step in found.steps] == ["a", "b", "sum", "out"]
    assert gpu.replays == 0


def test_arrays_on_the_gpu_stay_there(gpu):
    model, x = integer_model(classifier()), integers((2, 6, 7, 3), 1)
    session, there = Session(model, device="cuda"), gpu.constant(x)
    expected = Session(model, algorithm="direct").run(x)
    weights = 15  # of each of three layers five arrays
    for _ in range(3):
        gpu.copies.clear()
        y = session.run(there)
        assert gpu.copies == ["upload"] * weights
        weights, found = 0, np.empty(y.shape, y.dtype)
        gpu.download(y, found, None)
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match=r"running small: x must have 4 axes \(n, h, w, c\)"):
        session.run(gpu.constant(x[0]))
    with pytest.raises(TypeError, match="running small: x is float64 but float32 is needed"):
        session.run(gpu.constant(x.astype(float)))
    with pytest.raises(TypeError, match="running small: the input must be a float32 array"):
        Session(model).run(there)
    two = Graph("two", {"a": 3, "b": 3}, [Node("s", "add", ("a", "b"))], "s")
    with pytest.raises(TypeError, match="some inputs are on the GPU and some are not"):
        Session(Model(two, {}), device="cuda").run({"a": x, "b": there})


# With NVIDIA's driver: see `tests.fastconv.cuda.driver`.


def tiny():
    nodes = (
        conv("a", "input", 4, padding="same"),
        Node("p", "avg_pool2d", ("a",), {"size": 2, "stride": 2}),
        Node("twice", "concat", ("p", "p")),
    )
    return integer_model(Graph("tiny", 3, nodes, "twice"))


def work(driver, session, x):
    """What streams are given by a run."""
    driver.work.clear()
    session.run(x)
    return [what for what, *_ in driver.work]


LAUNCHES = ["launch"] * 6  # of a convolution three, pool, twice a copy


def test_a_graph_is_captured_once_and_for_each_shape(driver):
    session = Session(tiny(), algorithm="winograd_f4", device="cuda")
    small, large = integers((1, 4, 6, 3), 1), integers((2, 4, 6, 3), 2)
    first = work(driver, session, small)
    assert [w for w in first if w == "launch"] == LAUNCHES
    for _ in range(3):
        assert work(driver, session, small) == ["up", "graph", "down"]
    assert len(driver.graphs) == 1
    assert [w for w in work(driver, session, large) if w == "launch"] == LAUNCHES
    for _ in range(2):
        assert work(driver, session, large) == ["up", "graph", "down"]
        assert work(driver, session, small) == ["up", "graph", "down"]
    assert len(driver.graphs) == len(driver.streams) == 2
    fastconv.pooling._pool.cache_clear()  # the graph keeps what it needs
    assert work(driver, session, small) == ["up", "graph", "down"]
    del session
    gc.collect()
    assert not driver.graphs
    assert not driver.streams
    assert not driver.memory


def test_arrays_on_the_gpu_are_copied_between_streams(driver):
    session, x = Session(tiny(), algorithm="winograd_f4", device="cuda"), integers((1, 4, 6, 3), 1)
    there = device.gpu(0).upload(x, 7)
    for _ in range(2):
        session.run(there)
    driver.work.clear()
    y = session.run(there)
    (mine,), (graph,) = driver.streams, driver.graphs
    assert driver.work == [
        ("order", 7, mine), ("copy", mine), ("graph", graph),
        ("allocate", 7), ("order", 7, mine), ("copy", mine), ("order", mine, 7),
    ]  # fmt: skip
    assert (y.stream, y.shape) == (7, (1, 2, 3, 8))


def test_each_gpu_has_its_own_work(driver, monkeypatch):
    seen, launch = [], driver.cuLaunchKernel

    def watched(*arguments):
        seen.append(driver.contexts[-1])
        return launch(*arguments)

    monkeypatch.setattr(driver, "cuLaunchKernel", watched)
    model, x = tiny(), integers((1, 4, 6, 3), 1)
    sessions = [Session(model, device=name) for name in ("cuda", "cuda:1")]
    there = device.gpu(1).constant(x)
    with pytest.raises(ValueError, match="an input is on GPU 1; use device='cuda:1'"):
        sessions[0].run(there)
    for session in sessions:
        session.run(x)
    assert seen == ["context 0"] * 4 + ["context 1"] * 4
    assert sessions[1].run(there).device == 1
    assert len(driver.graphs) == 1


def test_without_a_graph_kernels_are_launched_one_by_one(driver):
    session, x = Session(tiny(), algorithm="winograd_f4", device="cuda"), integers((1, 4, 6, 3), 1)
    session.run(x)
    driver.spoilt = True
    for _ in range(2):
        assert work(driver, session, x) == ["up", *LAUNCHES, "down"]
    reason = "the NVIDIA driver reports CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"
    assert str(session).endswith(f"kernels one by one ({reason})")


def test_a_graph_that_does_not_fit_is_done_without(driver):
    session, x = Session(tiny(), algorithm="winograd_f4", device="cuda"), integers((1, 4, 6, 3), 1)
    session.run(x)
    driver.full = True
    assert work(driver, session, x) == ["up", *LAUNCHES, "down"]
    assert not driver.graphs
    assert "CUDA_ERROR_OUT_OF_MEMORY" in str(session)


def test_out_of_memory_tells_the_bytes_and_leaves_the_session_usable(driver):
    session, x = Session(tiny(), algorithm="winograd_f4", device="cuda"), integers((1, 4, 6, 3), 1)
    session.run(x)
    session.run(x)
    driver.limit = 20_000
    with pytest.raises(MemoryError, match=r"an array of \d{6} bytes does not fit on GPU 0"):
        session.run(integers((1, 100, 100, 3), 1))
    assert work(driver, session, x).count("launch") == 6  # its memory was let go, too
    assert work(driver, session, x) == ["up", "graph", "down"]
    driver.limit, driver.failing = 1 << 30, driver.allocations + 1
    session.run(integers((1, 4, 8, 3), 1))  # there is room for another shape, if this one goes
    assert str(session).count("steps") == 1


def test_memory_may_end_at_any_place(driver):
    """Whichever allocation of a first run fails, the next run succeeds."""
    x, model = integers((1, 4, 6, 3), 1), tiny()
    Session(model, algorithm="winograd_f4", device="cuda").run(x)
    count = driver.allocations
    need = sum(m.nbytes for m in driver.memory.values())
    assert count > 3
    for failing in range(1, count + 1):
        fastconv.pooling._pool.cache_clear()
        session = Session(model, algorithm="winograd_f4", device="cuda")
        driver.allocations, driver.failing = 0, failing
        with pytest.raises(MemoryError, match="bytes does not fit on GPU 0"):
            session.run(x)
        assert work(driver, session, x).count("launch") == 6
        assert work(driver, session, x) == ["up", "graph", "down"]
        del session
        gc.collect()
        assert sum(m.nbytes for m in driver.memory.values()) <= need

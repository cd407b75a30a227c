"""The model file: every bit comes back, and no damage goes unnoticed."""

import io
import json
import pickle
import zipfile

import numpy as np
import pytest

from fcn import native
from fcn.graph import Graph, Model, Node

GRAPH = Graph(
    "small",
    2,
    (
        Node("a", "conv2d", ("input",), {"filters": 3, "kernel": 3, "activation": "relu"}),
        Node("b", "conv2d_transpose", ("a",), {"filters": 1, "kernel": 2, "stride": 2}),
    ),
    "b",
)


@pytest.fixture
def model():
    rng = np.random.default_rng(3)
    weights = {k: rng.normal(size=s).astype(np.float32) for k, s in GRAPH.parameters().items()}
    odd = [np.nan, -0.0, np.inf, -np.inf, 1e-45, np.float32(1) / 3]
    weights["a/kernel"].flat[: len(odd)] = odd
    return Model(GRAPH, weights, {"classes": ["paper", "ink"], "curve": [0.1, 0.25]})


@pytest.fixture
def file(model, tmp_path):
    path = tmp_path / "model.npz"
    native.save(model, path)
    return path


def bits(model):
    return {name: value.tobytes() for name, value in model.weights.items()}


def rewrite(path, change):
    """The same zip with its members {name: bytes} changed."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def array_bytes(value, **options):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, value, **options)
    return stream.getvalue()


def test_round_trip_is_bit_for_bit(model, file):
    back = native.load(file)
    assert bits(back) == bits(model)
    assert (back.graph, back.meta) == (model.graph, model.meta)
    assert [p.name for p in file.parent.iterdir()] == ["model.npz"]


def test_equal_models_give_equal_files(model, file, tmp_path):
    native.save(native.load(file), tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == file.read_bytes()


def test_numpy_reads_the_arrays_without_pickle(model, file):
    with np.load(file, allow_pickle=False) as arrays:
        assert arrays["a/kernel"].tobytes() == model.weights["a/kernel"].tobytes()


def test_every_truncation_is_an_error(file):
    whole = file.read_bytes()
    for length in range(0, len(whole), 7):
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"model\.npz cannot be read as a model"):
            native.load(file)


def test_damage_is_an_error_or_harmless(model, file):
    whole = file.read_bytes()
    refused = 0
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        file.write_bytes(damaged)
        try:
            back = native.load(file)
        except ValueError as error:
            assert "cannot be read as a model" in str(error)
            refused += 1
        else:  # a date or another field of the zip that carries nothing of the model
            assert (bits(back), back.graph, back.meta) == (bits(model), model.graph, model.meta)
    assert refused > len(whole) / 2


def test_arrays_are_read_where_they_lie(model, file):
    back = native.load(file)
    for name, array in back.weights.items():
        assert native.mapped(array)
        assert array.ctypes.data % native.ALIGNMENT == 0
        native.release(array)
        assert array.tobytes() == model.weights[name].tobytes()  # it comes back from the file
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
        native.release(model.weights[name])  # nothing happens to other arrays
    native.save(Model(GRAPH, back.weights, back.meta), file)  # a new file: the old one stays mapped
    assert bits(back) == bits(native.load(file)) == bits(model)


def test_files_that_numpy_writes_are_read(model, file):
    members = dict(np.load(file))
    with zipfile.ZipFile(file) as archive:
        head = archive.read("model.json")
    np.savez(file, **{name: members[name] for name in model.weights})
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("model.json", head)
    assert bits(native.load(file)) == bits(model)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle in the file was executed",))


def test_a_pickle_is_never_executed(file):
    objects = array_bytes(np.array([Bomb()], dtype=object), allow_pickle=True)
    rewrite(file, lambda members: members.update({"a/bias.npy": objects}))
    with pytest.raises(ValueError, match=r"a/bias\.npy holds object of shape"):
        native.load(file)
    file.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="not a zip file"):
        native.load(file)


def head(**changes):
    def change(members):
        members["model.json"] = json.dumps(json.loads(members["model.json"]) | changes).encode()

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("a/bias.npy"), "no item named 'a/bias.npy'"),
        (lambda m: m.pop("model.json"), "no item named 'model.json'"),
        (lambda m: m.update({"evil.npy": b""}), r"members \['evil.npy'\] belong to no node"),
        (lambda m: m.update({"model.json": b"{"}), "Expecting property name"),
        (lambda m: m.update({"model.json": b"[]"}), "does not say that this is a model"),
        (lambda m: m.update({"model.json": b"[" * 10**6}), "cannot be read as a model"),
        (head(version=2), "format version is 2, this release reads 1"),
        (head(format="other"), "does not say that this is a model"),
        (head(graph=None), "does not describe a graph"),
        (head(meta=3), "no table named 'meta'"),
        (
            lambda m: m.update({"a/bias.npy": array_bytes(np.zeros(3))}),
            r"a/bias.npy holds float64 of shape \(3,\)",
        ),
        (
            lambda m: m.update({"a/bias.npy": array_bytes(np.zeros(2, np.float32))}),
            r"a/bias.npy holds float32 of shape \(2,\)",
        ),
        (
            lambda m: m.update({"a/bias.npy": array_bytes(np.zeros(9999, np.float32))}),
            r"a/bias.npy holds \d+ bytes, not at most 4108",
        ),
        (lambda m: m.update({"a/bias.npy": b"nothing"}), "magic"),
        (lambda m: m.update({"a/bias.npy": m["a/bias.npy"][:-4]}), "cannot be read as a model"),
    ],
)
def test_wrong_contents_are_named(file, change, message):
    rewrite(file, change)
    with pytest.raises(ValueError, match=message):
        native.load(file)


def test_compressed_members_are_refused(file):
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.json", b" " * 10**6)
    with pytest.raises(ValueError, match=r"model\.json is compressed"):
        native.load(file)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        native.load(tmp_path / "none.npz")
    with pytest.raises(FileNotFoundError, match="no_folder"):
        native.save(
            Model(GRAPH, {k: np.zeros(s, np.float32) for k, s in GRAPH.parameters().items()}),
            tmp_path / "no_folder" / "m.npz",
        )


def test_a_failed_save_leaves_the_old_file(model, file, monkeypatch):
    before = file.read_bytes()

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(native.npy, "write_array", full_disk)
    with pytest.raises(OSError, match="No space left"):
        native.save(model, file)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]

"""The architecture as tables, checked against the imports that the sources contain.

Nothing is imported here: the sources are parsed, so that imports inside functions, and those by
name (``import_module("...")``, ``require("...")``), count as well.
"""

import ast
import graphlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Layer of fastconv (a file or a folder) -> the layers that it may import.
LAYERS = {
    "shapes": set(),
    "dtypes": set(),
    "activations": set(),
    "cook_toom": set(),
    "memory": set(),
    "disk": set(),
    "dlpack": set(),
    "gpu": {"dlpack"},
    "threads": set(),
    "spec": {"shapes", "dtypes", "activations"},
    "reference": {"shapes", "activations", "spec"},
    "bounds": {"shapes", "dtypes", "activations", "cook_toom", "spec", "reference"},
    "axes": {"shapes", "spec"},
    "cpu": {
        "shapes",
        "dtypes",
        "activations",
        "cook_toom",
        "memory",
        "threads",
        "spec",
        "weights",
        "axes",
        "disk",
    },
    "cuda": {
        "shapes",
        "dtypes",
        "activations",
        "cook_toom",
        "spec",
        "axes",
        "disk",
        "gpu",
        "weights",
    },
    "_signal_kernels": set(),
    "signal": {"_signal_kernels", "threads"},
    "arrays": {"memory", "spec", "gpu"},
    "weights": {"arrays"},
    "plan": {
        "gpu",
        "cuda",
        "shapes",
        "arrays",
        "weights",
        "threads",
        "spec",
        "bounds",
        "cpu",
        "dtypes",
    },
    "convolution": {"arrays", "plan"},
    "pooling": {"shapes", "arrays", "spec", "plan"},
    "pixelwise": {"shapes", "arrays", "spec", "plan", "dtypes"},
    "resident": {"arrays", "gpu", "plan"},
    "system": {"dtypes", "spec", "threads", "cpu", "cuda"},
    "__init__": {
        "gpu",
        "memory",
        "threads",
        "weights",
        "plan",
        "convolution",
        "pooling",
        "pixelwise",
        "dtypes",
        "system",
    },
    "__main__": {"__init__"},
}

# Modules of fastconv that fcn may import besides the names that fastconv exports. `spec` has what
# `bounds` asks for, `activations` the table of functions, `resident` what networks do on GPUs.
OPEN_TO_FCN = {"activations", "bounds", "resident", "shapes", "spec"}

# Other people's packages -> the files and folders that may import them. No others may be imported.
THIRD_PARTY = {
    "numpy": ["fastconv/", "fcn/"],
    "numba": [
        "fastconv/cpu/compiler.py",
        "fastconv/cpu/intrinsics.py",
        "fastconv/_signal_kernels.py",
        "fastconv/cuda/",
        "fastconv/system.py",
    ],
    "llvmlite": ["fastconv/cpu/", "fastconv/cuda/ptx/"],
    "nvidia": ["fastconv/cuda/compiler.py"],
    "cuda": ["fastconv/cuda/device.py"],
    "tensorflow": ["fcn/tf_reference.py"],
    "keras": ["fcn/tf_reference.py"],
    "h5py": ["fcn/keras/"],
    "onnx": ["fcn/onnx/", "fcn/peers.py"],
    "onnxruntime": ["fcn/peers.py"],
    "google": ["fcn/onnx/files.py"],
    "sklearn": ["fcn/digits.py"],
    "PIL": ["fcn/images.py", "fcn/export.py"],
}

IMPORTERS = {"import_module", "__import__", "require", "importorskip"}
FILES = sorted(path for name in ("fastconv", "fcn") for path in (ROOT / name).rglob("*.py"))


def imports(source, package):
    """Dotted names that a source of ``package`` imports; ``from a import b`` gives ``a.b``."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                parts = package.split(".")[: len(package.split(".")) + 1 - level] if level else []
                base = ".".join([*parts, *([module] if module else [])])
                yield from (f"{base}.{alias.name}" for alias in names)
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[first, *_]):
                if name in IMPORTERS and isinstance(first, ast.Constant):
                    yield str(first.value)


def imports_of(path):
    return set(imports(path.read_text("utf-8"), ".".join(path.relative_to(ROOT).parts[:-1])))


def layer(name):
    """Layer of fastconv to which a dotted name below it belongs."""
    first = name.removeprefix("fastconv").removeprefix(".").split(".")[0]
    return first if first in LAYERS else "__init__"


def test_every_layer_has_a_row():
    paths = [path.relative_to(ROOT) for path in FILES]
    found = {path.parts[1].removesuffix(".py") for path in paths if path.parts[0] == "fastconv"}
    assert found - LAYERS.keys() == set(), "add a row to LAYERS"
    assert LAYERS.keys() - found == set(), "remove the row from LAYERS"


def test_the_table_has_no_cycle():
    assert list(graphlib.TopologicalSorter(LAYERS).static_order())


@pytest.mark.parametrize("name", LAYERS)
def test_imports_point_down(name):
    folder = ROOT / "fastconv" / name
    files = folder.rglob("*.py") if folder.is_dir() else [folder.with_suffix(".py")]
    used = {layer(i) for path in files for i in imports_of(path) if i.split(".")[0] == "fastconv"}
    extra = used - LAYERS[name] - {name}
    assert not extra, f"fastconv/{name} must not import {sorted(extra)}; move the shared part down"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_other_packages_stay_where_they_belong(path):
    for name in {i.split(".")[0] for i in imports_of(path)} - {"fastconv", "fcn"}:
        if name not in sys.stdlib_module_names:
            where = path.relative_to(ROOT).as_posix()
            allowed = where.startswith(tuple(THIRD_PARTY.get(name, ())))
            assert allowed, f"{where} must not import {name}"


def test_fastconv_does_not_know_fcn():
    for path in FILES:
        if path.is_relative_to(ROOT / "fastconv"):
            assert not any(i.split(".")[0] == "fcn" for i in imports_of(path)), path


def exported():
    tree = ast.parse((ROOT / "fastconv" / "__init__.py").read_text("utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__":
            return {item.value for item in node.value.elts}
    raise AssertionError("fastconv/__init__.py has no __all__")


def used_by_fcn(source):
    """Names below fastconv that a source of fcn uses: imported from it, or its attributes."""
    for name in imports(source, "fcn"):
        if name.startswith("fastconv."):
            yield name.removeprefix("fastconv.")
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(value=ast.Name(id="fastconv"), attr=name):
                yield name


@pytest.mark.parametrize("path", sorted((ROOT / "fcn").rglob("*.py")), ids=lambda path: path.name)
def test_fcn_uses_what_fastconv_exports(path):
    extra = set(used_by_fcn(path.read_text("utf-8"))) - exported() - OPEN_TO_FCN
    assert not extra, (
        f"{path.name} must not use fastconv's {sorted(extra)}; export it or do without"
    )


@pytest.mark.parametrize(
    "source, package, expected",
    [
        ("import a.b, c as d", "fastconv", {"a.b", "c"}),
        ("from a import b as x, c", "fastconv", {"a.b", "a.c"}),
        ("from . import pack", "fastconv.cpu", {"fastconv.cpu.pack"}),
        ("from .. import plan", "fastconv.cpu", {"fastconv.plan"}),
        ("from ..plan import Plan", "fastconv.cpu", {"fastconv.plan.Plan"}),
        ("def f():\n    import scipy.signal", "fcn", {"scipy.signal"}),
        ("m = importlib.import_module('scipy')", "fcn", {"scipy"}),
        ("m = _extras.require('PIL.Image', extra='images')", "fcn", {"PIL.Image"}),
        ("m = require(name)", "fcn", set()),
    ],
)
def test_imports_are_found(source, package, expected):
    assert set(imports(source, package)) == expected


def test_uses_of_fastconv_are_found():
    source = "import fastconv\nfrom fastconv.spec import Conv2d\nfastconv.plan.backend()"
    assert set(used_by_fcn(source)) == {"spec.Conv2d", "plan"}


def test_names_belong_to_layers():
    assert layer("fastconv.cpu.pack.clamp") == layer("fastconv.cpu") == "cpu"
    assert layer("fastconv.shapes.pair") == "shapes"
    assert layer("fastconv.conv2d") == layer("fastconv") == "__init__"

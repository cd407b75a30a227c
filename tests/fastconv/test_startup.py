"""Start-up: what importing costs, and that compiled code is found again by the next process."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastconv
from fastconv.cpu import NATIVE, host, kernels, native

FIRST = """
import numpy as np, fastconv
x, w = np.ones((1, 32, 32, 16), "f4"), np.ones((3, 3, 16, 16), "f4")
assert fastconv.conv2d(x, w).sum() == 30 * 30 * 16 * 144
from fastconv.cpu import NATIVE
from fastconv.cpu.kernels import KERNELS
used = [n for n in (*NATIVE, *(k.native for k in KERNELS if "native" in vars(k))) if n._address]
print(len(used), sum(n.compiled is False for n in used))
"""


def _python(code, **variables):
    env = {**os.environ, **variables}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_does_not_load_numba_or_scipy():
    out = _python(
        "import sys, fastconv; print([m for m in ('numba', 'scipy') if m in sys.modules])"
    )
    assert out.strip() == "[]"


def test_a_new_process_finds_the_compiled_code(tmp_path):
    used, hits = map(int, _python(FIRST, NUMBA_CACHE_DIR=str(tmp_path)).split())
    assert used > 4
    assert hits == 0
    again, hits = map(int, _python(FIRST, NUMBA_CACHE_DIR=str(tmp_path)).split())
    assert again == hits == used
    numba = _python(
        FIRST + "import sys; print('numba' in sys.modules)", NUMBA_CACHE_DIR=str(tmp_path)
    )
    assert numba.split()[-1] == "False"  # which takes longer to import than all the rest


def test_a_changed_source_is_compiled_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    folders = set()
    for text in ("a = 1\n", "a = 2\n"):
        package = tmp_path / "package"
        (package / "cpu").mkdir(parents=True, exist_ok=True)
        (package / "cook_toom.py").write_text("")
        (package / "cpu" / "simd.py").write_text(text)
        monkeypatch.setattr(native, "__file__", str(package / "cpu" / "native.py"))
        native.cache_folder.cache_clear()
        folders.add(native.cache_folder())
    native.cache_folder.cache_clear()
    assert len(folders) == 2


def test_a_folder_that_cannot_be_written_only_costs_time(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    used, hits = map(int, _python(FIRST, NUMBA_CACHE_DIR=str(blocker)).split())
    assert used > 4
    assert hits == 0


def test_the_user_may_have_a_cache_folder_of_his_own_for_numba(tmp_path):
    code = FIRST + "import numba; print(numba.config.CACHE_DIR)"
    out = _python(code, NUMBA_CACHE_DIR=str(tmp_path))
    assert out.split()[-1] == str(tmp_path)
    assert list(Path(tmp_path, "fastconv").glob("*/*.o"))


def test_a_full_disk_only_costs_time(tmp_path):
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
    used, hits = map(int, _python(full + FIRST, NUMBA_CACHE_DIR=str(tmp_path)).split())
    assert used > 4
    assert hits == 0


def test_a_damaged_cache_only_costs_time(tmp_path):
    _python(FIRST, NUMBA_CACHE_DIR=str(tmp_path))
    damaged = list(tmp_path.glob("fastconv/*/*.o"))
    assert damaged
    for file in damaged:
        file.write_bytes(file.read_bytes()[:40])
    used, hits = map(int, _python(FIRST, NUMBA_CACHE_DIR=str(tmp_path)).split())
    assert used > 4
    assert hits == 0


def test_two_processes_may_fill_the_cache_at_once(tmp_path):
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    both = [
        subprocess.Popen([sys.executable, "-c", FIRST], env=env, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in both:
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        assert int(out.split()[0]) > 4
    used, hits = map(int, _python(FIRST, NUMBA_CACHE_DIR=str(tmp_path)).split())
    assert hits == used


@pytest.mark.slow
def test_warmup_compiles_everything_and_shows_progress():
    text = io.StringIO()
    rows = [k for k in kernels.KERNELS if k.dtype in ("float32", "float16") and host.has(k.needs)]
    expected = len(NATIVE) + len(rows)
    assert fastconv.warmup(progress=True, file=text, dtypes=["float16"]) == expected
    assert f"{expected}/{expected}" in text.getvalue()
    assert text.getvalue().endswith("\n")
    with pytest.raises(TypeError, match="warmup: dtype int8"):
        fastconv.warmup(dtypes=["int8"])


def test_show_config(capsys):
    fastconv.show_config()
    out = capsys.readouterr().out
    for part in ("numba", "L2", "threads", "float32 kernels: gemm", "compiled code in"):
        assert part in out

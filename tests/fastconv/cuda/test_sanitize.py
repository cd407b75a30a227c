"""`make sanitize-gpu`, with a sanitizer that only notes what it is asked."""

import sys

import pytest

from fastconv import cuda
from fastconv.cuda import compiler
from tests.fastconv.cuda import sanitize


def without(name):
    raise FileNotFoundError(name)


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Lines of what a sanitizer was asked; one that finds a race if there is a file "race"."""
    tool, log = tmp_path / "compute-sanitizer", tmp_path / "log"
    tool.write_text(
        f'#!/bin/sh\necho "$@" >> {log}\n'
        f'if [ "$2" = racecheck ] && [ -e {tmp_path}/race ]; then exit 9; fi\n'
    )
    tool.chmod(0o755)
    monkeypatch.setattr(cuda, "unavailable", lambda: "")
    monkeypatch.setattr(compiler, "tool", {"compute-sanitizer": str(tool)}.__getitem__)
    return lambda: log.read_text().splitlines()


def test_both_tools_run_the_tests(asked):
    assert sanitize.main(["-k", "tensor"]) == 0
    tests = f"{sys.executable} -m pytest -m gpu -rs tests/fastconv/cuda -k tensor"
    options = "--error-exitcode 9 --report-api-errors no --target-processes application-only"
    assert asked() == [f"--tool {tool} {options} {tests}" for tool in ("memcheck", "racecheck")]


def test_what_a_tool_finds_is_the_status(asked, tmp_path, capsys):
    (tmp_path / "race").touch()
    assert sanitize.main([]) == 9
    assert capsys.readouterr().err == "racecheck or a test failed with status 9\n"


@pytest.mark.parametrize(
    "reason, message",
    [
        ("no driver", "the GPU's tests cannot run: no driver\n"),
        ("", f"{sanitize.MISSING}\n"),
    ],
)
def test_what_is_missing_is_said(reason, message, monkeypatch, capsys):
    monkeypatch.setattr(cuda, "unavailable", lambda: reason)
    monkeypatch.setattr(compiler, "tool", without)
    assert sanitize.main([]) == 1
    assert capsys.readouterr().err == message

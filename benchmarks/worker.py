"""One engine in a process of its own: the side that asks. `server` is the side that answers.

Messages are pickled tuples over the standard input and output of the process, so an idle engine
sleeps in a read.
"""

import contextlib
import os
import pickle
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks import peers
from benchmarks.layers import Layer

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Turn:
    """What one turn of an engine gave.

    Attributes
    ----------
    median, fastest : float
        Of its calls, in seconds.
    calls : int
    cores : float
        CPU time over wall time: how many threads really worked.
    rests : bool
        Whether the process slept at the end.
    """

    median: float
    fastest: float
    calls: int
    cores: float
    rests: bool


class WorkerError(RuntimeError):
    """The process of an engine has ended, or its engine cannot be made."""


class Worker:
    """An engine in another process.

    Parameters
    ----------
    name : str
        One of `peers.PEERS`.
    threads : int

    Raises
    ------
    WorkerError
        If the engine is not installed; the message says what is missing.
    """

    def __init__(self, name: str, threads: int) -> None:
        self.name = name
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        quiet = {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "benchmarks.server", name, str(threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, cwd=ROOT,
            env={**os.environ, **quiet, "OMP_NUM_THREADS": str(threads), **peers.environment(name)},
        )  # fmt: skip
        try:
            self.version: str = self._reply()
        except WorkerError:
            self.close()
            raise

    def prepare(self, layer: Layer, expected: Path, seconds: float) -> dict[str, Any]:
        """Build a layer in every variant, check the answers, warm up for `seconds` each.

        Parameters
        ----------
        layer : Layer
        expected : Path
            .npy file with the right answer.
        seconds : float

        Returns
        -------
        dict
            Variant -> its error (`check.error`), or a text that says why it cannot run.
        """
        found: dict[str, Any] = self._ask("prepare", layer, expected, seconds)
        return found

    def peak(self, layer: Layer, variant: str) -> int:
        """Most bytes that the process has held after it loaded and ran one layer."""
        result: int = self._ask("peak", layer, variant)
        return result

    def turn(self, variant: str, seconds: float) -> Turn:
        """Time calls for at least `seconds`."""
        result: Turn = self._ask("turn", variant, seconds)
        return result

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended before its last message
            self._process.stdin.close()  # it ends when there is nothing more to read
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(self, *message: Any) -> Any:
        assert self._process.stdin is not None
        try:
            pickle.dump(message, self._process.stdin)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._gone() from None
        return self._reply()

    def _reply(self) -> Any:
        assert self._process.stdout is not None
        try:
            good, value = pickle.load(self._process.stdout)
        except EOFError:
            raise self._gone() from None
        if not good:
            raise WorkerError(value)
        return value

    def _gone(self) -> WorkerError:
        status = self._process.wait()
        self._log.seek(0)
        said = self._log.read().decode(errors="replace").strip().splitlines()[-1:]
        return WorkerError(f"its process ended with status {status} {' '.join(said)}".strip())

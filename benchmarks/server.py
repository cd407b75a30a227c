"""One engine in a process of its own: ``python -m benchmarks.server ENGINE THREADS``.

It answers the messages of a `worker.Worker` until there are no more.
"""

import gc
import os
import pickle
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import check, peers
from benchmarks.layers import Layer
from benchmarks.worker import Turn

MIN_CALLS = 3  # of a turn
WARM_UP = 0.02  # seconds without a clock at the start of a turn: threads wake, caches fill
REST_STEP, REST_LIMIT = 0.005, 1.0  # seconds: how often and how long to look whether threads sleep


class Server:
    """Holds the engine and the layer that is timed; its methods are the messages."""

    def __init__(self, engine: peers.Engine) -> None:
        self.engine = engine
        self.programs: dict[str, peers.Program] = {}

    def prepare(self, layer: Layer, expected: Path, seconds: float) -> dict[str, Any]:
        self.programs = {}
        gc.collect()
        right = np.load(expected, mmap_mode="r")
        found: dict[str, Any] = {}
        for variant, build in self.engine.variants(layer).items():
            try:
                program = build()
                first = program.read(program.run()).copy()
                _repeat(program.run, seconds)  # graph compilers end in the second or third call
                later = program.read(program.run())
                errors = [check.error(layer, y, right) for y in (first, later)]
                found[variant] = float(np.max(errors))
                if found[variant] < check.WRONG:  # a NaN is not
                    self.programs[variant] = program
            except Exception as error:  # noqa: BLE001 - whatever stops an engine, others go on
                found[variant] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        _rest()
        return found

    def peak(self, layer: Layer, variant: str) -> int:
        """Most bytes of memory that this process has held, once the layer has run three times."""
        program = self.engine.variants(layer)[variant]()
        for _ in range(3):
            program.run()
        # What getrusage gives is at least what the parent had when it made this process.
        text = Path("/proc/self/status").read_text()
        return 1024 * int(text.partition("VmHWM:")[2].split()[0])

    def turn(self, variant: str, seconds: float) -> Turn:
        run = self.programs[variant].run
        gc.disable()
        _repeat(run, min(WARM_UP, seconds), 1)
        cpu, start = time.process_time(), time.perf_counter()
        times = _repeat(run, seconds)
        cores = (time.process_time() - cpu) / (time.perf_counter() - start)
        gc.enable()
        return Turn(float(np.median(times)), min(times), len(times), cores, _rest())


def _repeat(run: Callable[[], Any], seconds: float, calls: int = MIN_CALLS) -> list[float]:
    """Seconds of each call, for at least that long and at least that many calls."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < calls or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times


def _rest() -> bool:
    """Wait until no thread of this process uses a CPU; whether they all came to rest."""
    end = time.perf_counter() + REST_LIMIT
    while time.perf_counter() < end:
        cpu = time.process_time()
        time.sleep(REST_STEP)
        if time.process_time() - cpu < 0.1 * REST_STEP:
            return True
    return False


def serve(name: str, threads: int) -> None:
    """Answer messages until there are no more."""
    requests = sys.stdin.buffer
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # engines print: that must not reach the parent

    def reply(good: bool, value: Any) -> None:
        pickle.dump((good, value), replies)
        replies.flush()

    try:
        server = Server(peers.load(name, threads))
    except ImportError as error:
        return reply(False, str(error))
    reply(True, server.engine.version)
    while True:
        try:
            command, *arguments = pickle.load(requests)
        except EOFError:
            return None
        reply(True, getattr(server, command)(*arguments))


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))

"""A GPU for the comparison that is none, and engines that know the answers."""

import numpy as np

from benchmarks import check
from benchmarks.gpu import main as gpu_main
from benchmarks.gpu.engines import PRECISIONS, Program
from benchmarks.layers import LayerClass, as_dtype, batch
from tests.benchmarks.tiny import LAYER

ALL = list(PRECISIONS.values())
FLOAT32, TF32, BFLOAT16 = (PRECISIONS[name] for name in ("float32", "tf32", "bfloat16"))
DESCRIPTION = {
    "name": "NVIDIA H200", "capability": "9.0", "multiprocessors": 132, "memory_bytes": 1 << 37,
    "l2_bytes": 50 << 20, "driver": "580.1", "clocks": {"clocks.sm": "1980 MHz"}, "cuda": "13.0",
    "torch": "2.9", "cudnn": 91000,
}  # fmt: skip


class Fake:
    """A device whose memory is NumPy's and whose clock counts calls."""

    add = relu = crop = None  # no network here has them

    def __init__(self, gpu=None, l2_bytes=3000):
        self.gpu, self.l2_bytes, self.lost = gpu, l2_bytes, ""
        self.turns = []  # what was run between two events

    def upload(self, array, dtype):
        kept = as_dtype(array, dtype).copy()
        return kept if self.gpu is None else self.gpu.upload(kept)

    def poisoned(self, shape, dtype):
        return self.gpu.array(shape, as_dtype(np.empty(0), dtype).dtype)

    def download(self, y):
        array = y
        if self.gpu is not None:
            array = np.empty(y.shape, y.dtype)
            self.gpu.download(y, array)
        return array if array.dtype.kind in "iu" else array.astype(np.float32)

    def concat(self, *xs):
        return self.upload(np.concatenate([self.download(x) for x in xs], 3), "float32")

    def elapsed(self, run, calls, wait):
        self.turns.append((run, calls, wait))
        run()
        return 1e-3 * calls, 2e-3 * calls

    def allow_tf32(self, allowed):
        self.tf32 = allowed

    def synchronize(self):
        if self.lost:
            raise RuntimeError(self.lost)

    def release(self):
        pass

    def copy_rate(self):
        return 4e12

    def describe(self):
        return DESCRIPTION


class Right:
    """right answers, made elsewhere."""

    version = "1"

    def __init__(self, name="torch", variants=("plain",), wrong=None):
        self.name, self.names = name, list(variants)
        self.wrong = wrong or (lambda variant, y: y)
        self.inputs = []

    def variants(self, layer, precision):
        return self.names

    def build(self, layer, variant, xs):
        n = layer.x[0]  # of which two differ
        y = check.answer(batch(layer, min(n, 2)))[np.arange(n) % 2].astype(np.float32)
        y = y.argmax(3) if layer.labels else y
        self.inputs.append(xs)

        def run():
            return self.wrong(variant, y)

        return Program(run, kernels=("made",), algorithm="direct")


def run(engines, device, chosen=("conv",), precisions=(FLOAT32,), rounds=3, bounded=True):
    groups = [LayerClass("tiny", "some", tuple(LAYER[name] for name in chosen))]
    return gpu_main.run(
        groups, precisions, device, engines, rounds=rounds, seconds=0.05, bounded=bounded
    )

"""A copy of an image with its padding, in working precision.

Most kernels never copy an image: they gather the few receptive fields that leave it. Numbers of 16
bits have to be widened, though, and many taps on a small map leave hardly a field inside.
"""

from collections.abc import Sequence

import numpy as np

from fastconv.cpu.intrinsics import call, copy_bytes, zero_bytes
from fastconv.cpu.job import Job, take
from fastconv.cpu.kernels import kernel
from fastconv.dtypes import ITEMSIZE, WORKING
from fastconv.shapes import Pad


def pad(thread, counter, x, out, scratch, add, rows, h, w, top, bottom, left, right, channels, item,
        work, widen):  # fmt: skip
    """Driver: a task is one row of the padded images."""
    height, row = top + h + bottom, (left + w + right) * channels * work
    while True:
        task = take(counter, thread, rows)
        if task >= rows:
            break
        n, i = divmod(task, height)
        to, y = out + task * row, i - top
        if y < 0 or y >= h:
            zero_bytes(to, row)
            continue
        of = x + (n * h + y) * w * channels * item
        zero_bytes(to, left * channels * work)
        to += left * channels * work
        if widen:
            call(widen, (to, of, w * channels))
        else:
            copy_bytes(to, of, w * channels * work)
        zero_bytes(to + w * channels * work, right * channels * work)


JOB = Job(pad)


class Padded:
    """The copy, planned: `shape` and `nbytes` are its."""

    def __init__(self, x: Sequence[int], pad: Pad, dtype: str) -> None:
        n, h, w, c = x
        (top, bottom), (left, right) = pad
        work = ITEMSIZE[WORKING[dtype]]
        self.shape = (n, top + h + bottom, left + w + right, c)
        self.nbytes = int(np.prod(self.shape)) * work
        self._template = JOB.pack(
            rows=n * self.shape[1], h=h, w=w, top=top, bottom=bottom, left=left, right=right,
            channels=c, item=ITEMSIZE[dtype], work=work,
            widen=0 if WORKING[dtype] == dtype else kernel("widen", dtype).address,
        )  # fmt: skip

    def run(self, x: int, out: int, threads: int) -> None:
        """Copy the images at address `x` to address `out`."""
        JOB.run(self._template, x, out, 0, threads)

"""Max-unpooling: values go back to where they were found.

A task is a band of the output. It reads those rows of the input that hold an index inside the band,
in order: the last of several values for one place counts, whatever the threads.
"""

import math

import numpy as np

from fastconv.cpu.intrinsics import copy_bytes, load_int, zero_bytes
from fastconv.cpu.job import Job, Template, take
from fastconv.memory import address

BAND_BYTES = 256 << 10  # of the output, for a task: half an L2 cache


def unpool(thread, counter, x, out, scratch, add, indices, lowest, highest, images, rows, run,
           places, bands, band, item):  # fmt: skip
    """Driver: tasks are bands of `band` places of an image; an input row has `run` numbers."""
    while True:
        task = take(counter, thread, images * bands)
        if task >= images * bands:
            break
        n, which = divmod(task, bands)
        first = which * band
        stop = min(first + band, places)
        image = out + n * places * item
        zero_bytes(image + first * item, (stop - first) * item)
        for row in range(n * rows, (n + 1) * rows):
            if load_int(highest + 8 * row) < first or load_int(lowest + 8 * row) >= stop:
                continue
            for i in range(row * run, (row + 1) * run):
                place = load_int(indices + 8 * i)
                if first <= place < stop:
                    # a length that is known makes each copy one instruction
                    if item == 4:
                        copy_bytes(image + place * 4, x + i * 4, 4)
                    elif item == 8:
                        copy_bytes(image + place * 8, x + i * 8, 8)
                    else:
                        copy_bytes(image + place * 2, x + i * 2, 2)


JOB = Job(unpool)


class Unpool:
    """Unpooling of x[n, h, w, c] at int64 `indices` of the same shape, all inside the images."""

    def __init__(self, indices: np.ndarray, lowest: np.ndarray, highest: np.ndarray) -> None:
        self._tables = indices, lowest, highest  # of the whole, and of each row
        self.work = indices.size

    def run(self, x: np.ndarray, out: np.ndarray, threads: int) -> None:
        """All arrays C-contiguous."""
        n, h = x.shape[:2]
        places, item = math.prod(out.shape[1:]), x.itemsize
        band = max(1, BAND_BYTES // item)
        indices, lowest, highest = map(address, self._tables)
        template: Template = JOB.pack(
            indices=indices, lowest=lowest, highest=highest, images=n, rows=h,
            run=math.prod(x.shape[2:]), places=places, bands=-(-places // band), band=band,
            item=item,
        )  # fmt: skip
        JOB.run(template, address(x), address(out), 0, threads)

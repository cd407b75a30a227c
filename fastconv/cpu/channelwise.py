"""Argmax and softmax over the channels of each pixel."""

from fastconv.cpu.intrinsics import call
from fastconv.cpu.job import Job, OneJob, take
from fastconv.cpu.kernels import kernel
from fastconv.cpu.simd import LANES
from fastconv.dtypes import ITEMSIZE, WORKING
from fastconv.spec import ChannelOp

TASK_BYTES = 64 << 10  # of the input: cheap to hand out, small beside any cache


def channelwise(thread, counter, x, out, scratch, add, scratch_bytes, kernel, argmax, pixels,
                per_task, channels, item, out_item):  # fmt: skip
    """Driver: tasks are runs of `per_task` pixels."""
    tasks = (pixels + per_task - 1) // per_task
    while True:
        task = take(counter, thread, tasks)
        if task >= tasks:
            break
        first = task * per_task
        count = min(per_task, pixels - first)
        last = scratch + thread * scratch_bytes
        to = out + first * channels * item
        if argmax:
            last, to = out_item, out + first * out_item
        call(kernel, (x + first * channels * item, count, channels, to, last))


JOB = Job(channelwise)


class Channelwise(OneJob):
    """An argmax or a softmax, planned; labels have `label_bytes` bytes each."""

    def __init__(self, spec: ChannelOp, label_bytes: int) -> None:
        n, h, w, c = spec.x
        item = ITEMSIZE[spec.dtype]
        work = ITEMSIZE[WORKING[spec.dtype]]
        self.kernel = kernel(spec.kind, spec.dtype)
        pixels = n * h * w
        spare = LANES[spec.dtype] * work
        super().__init__(
            JOB, c * work + spare, kernel=self.kernel.address, argmax=int(spec.kind == "argmax"),
            pixels=pixels, per_task=max(1, min(TASK_BYTES // (c * item), -(-pixels // 8))),
            channels=c, item=item, out_item=label_bytes,
        )  # fmt: skip
        self.work = pixels * c

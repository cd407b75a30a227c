"""``python -m fastconv warmup`` and ``python -m fastconv config``."""

import argparse

from fastconv import show_config, warmup

parser = argparse.ArgumentParser(prog="python -m fastconv", description=__doc__)
parser.add_argument(
    "command", choices=["warmup", "config"],
    help="warmup: compile all kernels into the disk cache; config: what runs here",
)  # fmt: skip
parser.add_argument(
    "--dtypes", default="float32",
    help="of images, for warmup: float32,float64,float16,bfloat16 or some of them (%(default)s)",
)  # fmt: skip
options = parser.parse_args()
if options.command == "warmup":
    try:
        print(f"{warmup(progress=True, dtypes=options.dtypes.split(','))} functions are ready")
    except TypeError as error:
        parser.error(str(error))
else:
    show_config()

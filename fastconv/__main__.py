"""``python -m fastconv warmup`` and ``python -m fastconv config``."""

import argparse

from fastconv import show_config, warmup

parser = argparse.ArgumentParser(prog="python -m fastconv", description=__doc__)
parser.add_argument(
    "command", choices=["warmup", "config"],
    help="warmup: compile all kernels into the disk cache; config: what runs here",
)  # fmt: skip
if parser.parse_args().command == "warmup":
    print(f"{warmup(progress=True)} functions are ready")
else:
    show_config()

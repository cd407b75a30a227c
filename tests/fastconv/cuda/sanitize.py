"""The GPU's tests under NVIDIA's compute-sanitizer: ``make sanitize-gpu``.

It looks for accesses beyond an array (memcheck) and for threads of a block that do not wait for
each other (racecheck). That takes many times as long as the tests; ``ARGS='-k tensor'`` is a part.
"""

import subprocess
import sys

from fastconv import cuda
from fastconv.cuda import compiler

TOOLS = ("memcheck", "racecheck")
MISSING = (
    "compute-sanitizer is missing: pip install 'fastconv[sanitize]', or put the one of a CUDA "
    "toolkit on the path"
)
# What fails is what a kernel does; what the driver refuses, the tests themselves tell.
OPTIONS = ("--error-exitcode", "9", "--report-api-errors", "no",
           "--target-processes", "application-only")  # fmt: skip
TESTS = (sys.executable, "-m", "pytest", "-m", "gpu", "-rs", "tests/fastconv/cuda")


def main(arguments: list[str]) -> int:
    """Run the tests with each tool; the exit status of the first that finds something."""
    if reason := cuda.unavailable():
        print(f"the GPU's tests cannot run: {reason}", file=sys.stderr)
        return 1
    try:
        sanitizer = compiler.tool("compute-sanitizer")
    except FileNotFoundError:
        print(MISSING, file=sys.stderr)
        return 1
    for tool in TOOLS:
        command = [sanitizer, "--tool", tool, *OPTIONS, *TESTS, *arguments]
        if status := subprocess.run(command, check=False).returncode:
            print(f"{tool} or a test failed with status {status}", file=sys.stderr)
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

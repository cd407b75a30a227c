"""Without the `cuda` extra, which `make test` installs, what needs it is left out."""

import importlib.util

if importlib.util.find_spec("numba_cuda") is None:
    collect_ignore = ["fastconv/cuda", "tests/fastconv/cuda"]

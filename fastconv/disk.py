"""Compiled code on disk: whole files or none, in a folder named after all that the code depends on.

Below ``NUMBA_CACHE_DIR``, default: the user's cache folder.
"""

import hashlib
import os
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_DIGEST_BYTES = 32  # of SHA-256; it precedes the code in a file


def _user_cache() -> Path:
    if "NUMBA_CACHE_DIR" in os.environ:
        return Path(os.environ["NUMBA_CACHE_DIR"])
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def folder(made_by: Iterable[str], sources: Iterable[Path]) -> Path | None:
    """Folder of the code that tools make of sources, or None where none can be written.

    Parameters
    ----------
    made_by : iterable of str
        Versions, and what else the code depends on.
    sources : iterable of Path
    """
    digest = hashlib.sha256(" ".join(made_by).encode())
    for source in sources:
        digest.update(source.read_bytes())
    try:
        found = _user_cache() / "fastconv" / digest.hexdigest()[:16]
        found.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=found):
            return found
    except (OSError, RuntimeError):  # RuntimeError: no home folder is known
        return None


def read(file: Path | None) -> bytes | None:
    """What `write` has put there, if it is whole."""
    with suppress(OSError):
        content = file.read_bytes() if file else b""
        code = content[_DIGEST_BYTES:]
        if content[:_DIGEST_BYTES] == hashlib.sha256(code).digest():
            return code
    return None


def write(file: Path | None, code: bytes) -> None:
    """Other processes see all of it or nothing. A full disk costs only time."""
    if not file:
        return
    with suppress(OSError):
        handle, part = tempfile.mkstemp(dir=file.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(hashlib.sha256(code).digest() + code)
            os.replace(part, file)
        except OSError:
            os.unlink(part)

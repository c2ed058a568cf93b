"""A model file of the real one's size and shape, with random weights: made when first asked for.

BRAID_FULL_SIZE_DIR says where it lies (default: build/full-size).
"""
import os
import pathlib
import subprocess
import sys

from cluster import BIN, ROOT

DIRECTORY = pathlib.Path(os.environ.get("BRAID_FULL_SIZE_DIR", ROOT / "build/full-size"))


def full_size_gguf():
    path = DIRECTORY / "synthetic-8b-q4_0.gguf"
    if not path.exists():
        DIRECTORY.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, ROOT / "tests/synthetic_gguf.py", path, "--type", "Q4_0"], check=True)
    return path


def braid(*arguments):
    return subprocess.run([BIN / "braid", *arguments], capture_output=True, text=True)


def packed(gguf):
    """The same model in the kernels' layout, or None where `braid convert` cannot do that."""
    if "packed" not in braid("convert", "--help").stdout:
        return None
    path = gguf.with_suffix(".packed")
    # An older one may be of another version of the format.
    if path.exists() and (path.stat().st_mtime < gguf.stat().st_mtime or braid("inspect", path).returncode != 0):
        path.unlink()
    if not path.exists():
        done = braid("convert", gguf, path, "--format", "packed")
        assert done.returncode == 0, done.stderr
    return path

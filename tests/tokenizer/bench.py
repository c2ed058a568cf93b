"""How fast one core tokenizes, Braid beside Hugging Face's `tokenizers`, ids compared.

Usage: python tests/tokenizer/bench.py [--vocabulary deepseek] [--vocabulary qwen] [FILE...]

Without files it reads what a machine with Python and a C++ compiler has: the documentation inside Python's library
(English), its source, and the headers of C++.
"""
import argparse
import ast
import glob
import json
import os
import pathlib
import statistics
import subprocess
import sysconfig
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

import tokenizers  # noqa: E402
import vocabularies  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TOOL = pathlib.Path(os.environ.get("BRAID_TESTS", ROOT / "build/release/tests")) / "tokenizer_bench"
BYTES_MAX = 4 << 20
PROMPT_TOKENS = 128 << 10
LIBRARY = pathlib.Path(sysconfig.get_path("stdlib"))


def documentation():
    """The language reference that help() shows, and docstrings."""
    from pydoc_data import topics
    yield from topics.topics.values()
    for path in sorted(LIBRARY.rglob("*.py")):
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # some of the library's tests are wrong on purpose
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                if (text := ast.get_docstring(node)) and len(text) > 80:
                    yield text + "\n"


def contents(paths):
    for path in paths:
        try:
            yield pathlib.Path(path).read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):
            pass


def headers():
    return sorted(p for p in glob.glob("/usr/include/c++/*/**", recursive=True) if os.path.isfile(p))


def collect(parts, path):
    size = 0
    with open(path, "wb") as file:
        for part in parts:
            if size >= BYTES_MAX:
                break
            size += file.write(part.encode("utf-8", errors="replace"))
    return path if size else None


def texts(folder):
    found = [collect(documentation(), folder / "english"),
             collect(contents(sorted(LIBRARY.glob("*.py"))), folder / "python"),
             collect(contents(headers()), folder / "c++")]
    return [path for path in found if path]


def digest(ids):
    total = 14695981039346656037
    for i in ids:
        total = (total ^ i) * 1099511628211 % (1 << 64)
    return total


def oracle_run(oracle, text):
    start = time.process_time()
    ids = oracle.encode_batch_fast([text], add_special_tokens=False)[0].ids
    return time.process_time() - start, ids


def measure(vocabulary, path, oracle, tokenizer_path):
    run = subprocess.run([TOOL, tokenizer_path, path], check=True, capture_output=True, text=True)
    ours = json.loads(run.stdout)
    text = pathlib.Path(path).read_bytes().decode("utf-8", errors="replace")
    runs = [oracle_run(oracle, text) for _ in range(3)]
    seconds = statistics.median(s for s, _ in runs)
    ids = runs[0][1]
    prompt = oracle.decode((ids * (PROMPT_TOKENS // len(ids) + 1))[:PROMPT_TOKENS], skip_special_tokens=False)
    prompt_seconds = statistics.median(oracle_run(oracle, prompt)[0] for _ in range(3))
    theirs = len(text.encode()) / seconds / 1e6
    same = "same ids" if digest(ids) == ours["digest"] else "IDS DIFFER"
    mb, ratio = ours["bytes"] / 1e6, ours["encode_mb_s"] / theirs
    print(f"{vocabulary:9} {pathlib.Path(path).name:10} {mb:4.1f} {ours['bytes'] / ours['tokens']:7.2f}"
          f" {ours['encode_mb_s']:8.1f} {theirs:9.2f} {ratio:6.1f}x {ours['prompt_ms']:8.2f}"
          f" {ours['prompt_cold_ms']:8.2f} {prompt_seconds * 1e3:8.1f} {ours['decode_mb_s']:8.0f}  {same}", flush=True)
    return same == "same ids"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", action="append", choices=vocabularies.MAKERS,
                        help="default: deepseek and qwen")
    parser.add_argument("files", nargs="*")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        files = options.files or texts(folder)
        print("Time of one core. MB/s of text; ms for a prompt of 128K tokens, warm and with cold caches.\n"
              f"{'vocabulary':9} {'text':9} {'MB':>5} {'B/token':>6} {'Braid':>8} {'HF':>9} {'ratio':>7}"
              f" {'128K ms':>8} {'cold ms':>8} {'HF ms':>8} {'decode':>8}")
        same = True
        for name in options.vocabulary or ["deepseek", "qwen"]:
            path = vocabularies.make(name, folder)
            oracle = tokenizers.Tokenizer.from_file(str(path))
            oracle.encode_special_tokens = True
            same &= all([measure(name, file, oracle, path) for file in files])
    return 0 if same else 1


if __name__ == "__main__":
    raise SystemExit(main())

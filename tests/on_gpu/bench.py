"""./run bench gpu: checks and measures everything that needs a GPU, and writes one file.

  --model FILE         another model (default: one of LFM2-8B-A1B's shape in bfloat16 with random weights, 17 GB, made
                       in build/full-size)
  --only checks,...    parts of it: checks, worker, engine, exchange
  --out FILE.md        default: build/bench-gpu.md; all figures go to JSON files beside it

checks: the kernels' tests, on the GPU. worker: clusters of one worker per GPU, for up to four, beside the CPU's
answers. engine: how long each op and each step takes, beside the floors of kernels/cuda/README.md. exchange:
all-to-alls, where there are two GPUs or more. What fails is in the file too, and then the exit code is 1.
"""
import argparse
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys
import time

from cluster import BIN, ROOT
from on_gpu import report

PARTS = ["checks", "worker", "engine", "exchange"]
QUERY = "name,driver_version,memory.total,clocks.max.sm,clocks.max.memory,power.limit"


def numbers(text):
    return [int(n) for n in text.split(",")]


def arguments():
    parser = argparse.ArgumentParser(prog="./run bench gpu", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--only", type=lambda text: text.split(","), default=PARTS)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "build/bench-gpu.md")
    sizes = parser.add_argument_group("sizes of the engine's part, for other models than LFM2-8B-A1B")
    sizes.add_argument("--batch", type=numbers, default=[1, 32, 128, 512, 1024, 2048])
    sizes.add_argument("--context", type=numbers, default=[1536])
    sizes.add_argument("--prompt", type=numbers, default=[2048, 8192])
    sizes.add_argument("--chunk", type=int, default=4096)
    sizes.add_argument("--steps", type=int, default=16)
    sizes.add_argument("--repeat", type=int, default=3)
    sizes.add_argument("--rounds", type=int, default=20, help="all-to-alls behind each other")
    programs = parser.add_argument_group("other programs, for a machine without a GPU")
    programs.add_argument("--gpus", type=int, help="how many to use; default: all that nvidia-smi lists")
    programs.add_argument("--checks-program", type=pathlib.Path, default=BIN / "gpu_checks")
    programs.add_argument("--bench-program", type=pathlib.Path, default=BIN / "braid")
    programs.add_argument("--worker-program", type=pathlib.Path, default=BIN / "braid-expert-worker")
    options = parser.parse_args()
    if unknown := set(options.only) - set(PARTS):
        parser.error(f"--only knows {', '.join(PARTS)}, not {', '.join(sorted(unknown))}")
    return options


def said(*command):
    """What a command says, or '' if it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def machine():
    """(what there is, by name, for the report)"""
    found = {
        "GPUs": said("nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader") or "none that nvidia-smi knows of",
        "links": said("nvidia-smi", "topo", "-m"),
        "compiler": said("nvcc", "--version").split("\n")[-1],
        "host": f"{platform.platform()}, {os.cpu_count()} cores",
        "commit": said("git", "-C", str(ROOT), "describe", "--always", "--dirty"),
        "date": datetime.datetime.now().isoformat(timespec="minutes"),
    }
    return {name: text for name, text in found.items() if text}


def run(name, command, progress, environment=None):
    progress(name)
    begin = time.monotonic()
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace", cwd=ROOT, env={**os.environ, **(environment or {})})
    return report.Part(name, " ".join(str(c) for c in command), done.returncode, time.monotonic() - begin, done.stdout)


def model_file(options, progress):
    if options.model is not None:
        return options.model
    path = pathlib.Path(os.environ.get("BRAID_FULL_SIZE_DIR", ROOT / "build/full-size")) / "synthetic-8b-bf16.gguf"
    if not path.exists():
        progress("a model of random weights")
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        subprocess.run([sys.executable, ROOT / "tests/synthetic_gguf.py", unfinished, "--type", "BF16"], check=True)
        unfinished.rename(path)
    return path


def check(options, gpus, progress):
    if "checks" in options.only:
        yield run("kernels", [options.checks_program, "--gtest_brief=1"], progress)
    if "worker" in options.only:
        yield run("worker", [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider",
                             "tests/cuda_worker_test.py"], progress,
                  {"BRAID_CUDA_WORKER": str(options.worker_program), "BRAID_CUDA_GPUS": str(gpus)})


def measure(options, gpus, progress):
    """(part, where its figures are)"""
    def lists(values):
        return ",".join(str(v) for v in values)

    if "engine" in options.only:
        path = options.out.with_suffix(".engine.json")
        yield run("engine", [options.bench_program, "bench", "engine", "--device", "cuda", "--model",
                             model_file(options, progress), "--batch", lists(options.batch), "--context",
                             lists(options.context), "--prompt", lists(options.prompt), "--chunk", options.chunk,
                             "--steps", options.steps, "--repeat", options.repeat, "--kv-bytes", "64G", "--json", path],
                  progress), path
    if "exchange" in options.only and gpus >= 2:
        path = options.out.with_suffix(".exchange.json")
        yield run("exchange", [options.bench_program, "bench", "exchange", "--gpus", gpus, "--slot-bytes",
                               lists(report.slot_sizes(gpus)), "--rounds", options.rounds, "--json", path],
                  progress), path


def main():
    options, start = arguments(), time.monotonic()

    def progress(what):
        print(f"[{time.monotonic() - start:6.1f} s] {what}", file=sys.stderr, flush=True)

    gpus = options.gpus or max(1, len(said("nvidia-smi", "-L").splitlines()))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    written = report.Report(machine(), list(check(options, gpus, progress)))
    for part, path in measure(options, gpus, progress):
        figures = json.loads(path.read_text()) if part.passed else None
        written = dataclasses.replace(written, parts=[*written.parts, part],
                                      figures={**written.figures, part.name: (figures, path)})
    options.out.write_text(written.text())
    print(f"{written.summary()}: {options.out}")
    return 0 if all(part.passed for part in written.parts) else 1


if __name__ == "__main__":
    sys.exit(main())

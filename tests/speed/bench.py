"""./run bench: Braid beside llama.cpp, on one file of the real model's size with random weights.

  --quick              a first idea in two minutes: one round, short prompts, few sequences
  --only braid,llama   one of them
  --rounds 3           of both in turn; medians are shown. The longest prompt is measured in the first one only
  --threads 2          of both; default: one per core
  --model FILE.gguf    another file
  --json FILE          every single figure (default: build/bench.json)

The limit of a line is what this machine could do by the bandwidth and int8 rate that were measured right beside it:
every weight that the line needs read once, or every product at the peak, whichever takes longer. llama.cpp comes from
PyPI and is measured through its server; Braid's speeds are its engine's alone, its start and memory the server's.
Memory is what is resident, less the weights once and the KV in use: a second copy of the weights counts.
"""
import argparse
import contextlib
import json
import os
import pathlib
import platform
import sys
import tempfile
import time

from cluster import ROOT
from full_size_model import full_size_gguf, packed
from speed import engine, llama, table

SIDES = ["braid", "llama"]


def arguments():
    parser = argparse.ArgumentParser(prog="./run bench", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", type=lambda text: text.split(","), default=SIDES)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--json", type=pathlib.Path, default=ROOT / "build/bench.json")
    options = parser.parse_args()
    if unknown := set(options.only) - set(SIDES):
        parser.error(f"--only knows {', '.join(SIDES)}, not {', '.join(sorted(unknown))}")
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.prompts = [512] if options.quick else [512, 8192]
    options.batches = [1, 8] if options.quick else [1, 8, 16, 32]
    options.contexts = [0] if options.quick else [0, 16384]
    options.steps = 16 if options.quick else 24
    return options


def one_round(options, first, gguf, served, log, progress):
    """Each side once, one after the other."""
    prompts = options.prompts if first else options.prompts[:1]
    if "braid" not in options.only:
        progress("the model's sizes")
        sizes = engine.engine_figures(served, options.threads, [], [1], [0], 1)
        figures = {"engine": {**sizes, "points": []}}
    else:
        progress("Braid's engine")
        figures = {"engine": engine.engine_figures(served, options.threads, prompts, options.batches, options.contexts,
                                                   options.steps)}
        progress("Braid's server")
        seconds, beyond = engine.server_figures(served, options.threads, figures["engine"])
        figures["server"] = {"first_token_s": seconds, "memory_bytes": beyond}
    if "llama" in options.only:
        progress("llama.cpp, one sequence")
        figures["llama"] = llama.one_sequence(gguf, log, options.threads, prompts, figures["engine"],
                                              2 * options.steps)
        progress("llama.cpp, many sequences")
        figures["llama"] |= llama.many_sequences(gguf, log, options.threads, options.batches[1:], options.steps)
    return figures


def main():
    options, start = arguments(), time.monotonic()

    def progress(what):
        print(f"[{time.monotonic() - start:6.1f} s] {what}", file=sys.stderr, flush=True)

    gguf = options.model or full_size_gguf()
    served = packed(gguf)
    progress(f"{gguf}, Braid serves {'it' if served is None else served}")
    rounds = []
    with tempfile.TemporaryFile("w") as log, contextlib.suppress(KeyboardInterrupt):  # who has seen enough
        for number in range(options.rounds):
            rounds.append(one_round(options, number == 0, gguf, served or gguf, log,
                                    lambda what: progress(f"round {number + 1} of {options.rounds}: {what}")))
    lines = table.lines(rounds)
    measured = [point for figures in rounds for point in figures.get("engine", {}).get("points", [])]
    print(table.text(lines))
    if measured:
        print(f"\n{options.threads} threads; medians of {len(rounds)}; memory read "
              f"{table.median([p['read_bytes_per_second'] for p in measured]) / 1e9:.1f} GB/s, int8 "
              f"{table.median([p['int8_ops_per_second'] for p in measured]) / 1e12:.2f} Tera-op/s")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({
        "machine": {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()},
        "model": str(gguf), "served": str(served or gguf), "threads": options.threads,
        "lines": [{**vars(line), "ratio": line.ratio} for line in lines], "rounds": rounds}, indent=1) + "\n")
    print(f"all figures: {options.json}")


if __name__ == "__main__":
    main()

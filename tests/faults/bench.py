"""./run bench faults: what clients notice when processes are killed, stopped, added and taken away.

  --soak-minutes 30 --requests 10000   random kills until either is reached (default: 2 minutes)
  --full-size                          also a model of 4.7 GB
  --only faults,soak,llama             parts of it
  --json FILE                          all figures, with every single measurement
"""
import argparse
import dataclasses
import json
import os
import pathlib
import platform
import sys
import tempfile
import time

from faults.compare import compare
from faults.full_size import full_size
from faults.measure import single_faults, throughput_with_one_less
from faults.soak import soak

PARTS = ["faults", "soak", "llama", "full-size"]


def arguments():
    parser = argparse.ArgumentParser(prog="./run bench faults", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="of each single fault")
    parser.add_argument("--soak-minutes", type=float, default=2)
    parser.add_argument("--requests", type=int, default=10000, help="of the soak, at most")
    parser.add_argument("--compare-seconds", type=float, default=60, help="for each server in the comparison")
    parser.add_argument("--seed", type=int, default=1, help="of the soak")
    parser.add_argument("--full-size", action="store_true")
    parser.add_argument("--only", type=lambda text: text.split(","), default=PARTS[:-1], help=",".join(PARTS))
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    if unknown := set(options.only) - set(PARTS):
        parser.error(f"--only knows {', '.join(PARTS)}, not {', '.join(sorted(unknown))}")
    return options


def figures(options, progress):
    """One after another, as they are measured."""
    if "faults" in options.only:
        yield from single_faults(options.rounds, progress)
        progress("throughput")
        yield throughput_with_one_less(options.rounds, os.cpu_count())
    if options.full_size or "full-size" in options.only:
        yield full_size(options.rounds, progress)
    if "soak" in options.only:
        yield soak(options.requests, options.soak_minutes, options.seed, progress)
    if "llama" in options.only:
        with tempfile.TemporaryDirectory(prefix="braid-compare-") as directory:
            yield from compare(options.compare_seconds, pathlib.Path(directory), progress)


def main():
    options, start, found = arguments(), time.monotonic(), []

    def progress(what):
        print(f"[{time.monotonic() - start:6.1f} s] {what}", file=sys.stderr, flush=True)

    for figure in figures(options, progress):
        found.append(figure)
        print(f"{figure.name:<44} {figure.value}\n{'':<44}   {figure.note}", flush=True)
    if options.json:
        options.json.write_text(json.dumps({
            "machine": {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()},
            "figures": [dataclasses.asdict(figure) for figure in found]}, indent=1) + "\n")


if __name__ == "__main__":
    main()

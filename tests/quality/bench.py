"""./run bench quality: how far the int8 arithmetic is from float32 with the same weights, for us and for llama.cpp.

  --tokens 5000                of text that the demo model knows; one sequence of it is longer than 2,000
  --types q4_0,q8_0,q4_k,q6_k  quantised forms of the demo model, made on the way
  --model FILE --text FILE     another GGUF, and a text for it (default: random ids)
  --json FILE                  all figures

The reference is llama.cpp's forward pass over the weights widened to float32, with keys and values in float32: our own
in float32 has a line like all others. Of another GGUF, which may be too large to be widened, it is our own.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys

import numpy as np

from cluster import BIN, DEMO, ROOT
from quality import figures, logits_file
from quality.demo_text import demo_text, written_by_the_model
from quality.k_quants import write_k_quants

DIRECTORY = ROOT / "build/quality"
OURS, THEIRS = "int8, Braid", "int8, llama.cpp"
CONVERTED = {"q4_0", "q8_0"}
K_QUANTS = {"q4_k": ("Q4_K", "Q6_K"), "q5_k": ("Q5_K", "Q6_K"), "q6_k": ("Q6_K", "Q6_K")}  # matrices, embedding


def braid(*arguments):
    subprocess.run([BIN / "braid", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def converted(source, name, kind):
    path = DIRECTORY / f"{name}.gguf"
    path.unlink(missing_ok=True)
    braid("convert", source, path, "--type", kind)
    return path


def quantised_demo(kind):
    if kind in CONVERTED:
        return converted(DEMO, f"demo-{kind}", kind)
    path = DIRECTORY / f"demo-{kind}.gguf"
    write_k_quants(converted(DEMO, "demo-f32", "f32"), path, *K_QUANTS[kind])
    return path


def llama_logprobs(gguf, logits, kv_type):
    out = DIRECTORY / f"llama-{gguf.stem}-{kv_type}.npy"
    with open(DIRECTORY / "llama.log", "w") as log:
        subprocess.run([sys.executable, "-m", "quality.llama", gguf, logits, kv_type, out], check=True, stdout=log,
                       stderr=log, env={**os.environ, "PYTHONPATH": str(ROOT / "tests")})
    return np.load(out, mmap_mode="r")


def measure(gguf, text, tokens, widen):
    """(the tokens, {what: Figures})"""
    logits = DIRECTORY / "logits.safetensors"
    logits_int8_kv = DIRECTORY / "logits-int8-kv.safetensors"
    for kv_type, file in ("bf16", logits), ("int8", logits_int8_kv):
        braid("bench", "quality", "--model", gguf, *(["--text", text] if text else []), "--tokens", tokens,
              "--kv-type", kv_type, "--logits", file)
    ours = logits_file.read(logits)
    candidates = {"float32, Braid": ours["reference"], OURS: ours["candidate"],
                  "int8, Braid, KV in int8": logits_file.read(logits_int8_kv)["candidate"],
                  THEIRS: llama_logprobs(gguf, logits, "f16"),
                  "int8, llama.cpp, KV in f32": llama_logprobs(gguf, logits, "f32"),
                  "int8, llama.cpp, KV in q8_0": llama_logprobs(gguf, logits, "q8_0")}
    reference = llama_logprobs(converted(gguf, "widened", "f32"), logits, "f32") if widen else ours["reference"]
    return ours["tokens"], {what: figures.compare(reference, candidate, ours["tokens"], ours["lengths"])
                            for what, candidate in candidates.items()}


def print_table(title, summaries, ratio):
    print(f"\n{title}\n")
    print(f"  {'':<28}{'KL mean':>11}{'+-':>10}{'median':>11}{'p99':>11}{'max':>11}{'same top, %':>13}"
          f"{'max error':>11}{'perplexity':>12}")
    for what, s in summaries.items():
        print(f"  {what:<28}{s['kl_mean']:>11.3g}{s['kl_mean_error']:>10.2g}{s['kl_p50']:>11.3g}{s['kl_p99']:>11.3g}"
              f"{s['kl_max']:>11.3g}{100 * s['top1_agreement']:>13.2f}{s['logprob_error_max']:>11.3g}"
              f"{s['perplexity']:>12.4f}")
    print("  position by position, the divergence of {} is {:.3f} times that of {} (95 %: {:.3f} to {:.3f})".format(
        OURS, ratio[0], THEIRS, *ratio[1:]), flush=True)


def main():
    parser = argparse.ArgumentParser(prog="./run bench quality", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=5000)
    parser.add_argument("--types", default="q4_0,q8_0,q4_k,q6_k")
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--text", type=pathlib.Path)
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    report = {}

    def show(title, found):
        summaries = {what: f.summary() for what, f in found.items()}
        ratio = figures.kl_ratio(found[OURS], found[THEIRS])
        print_table(title, summaries, ratio)
        report[title] = {**summaries, "kl_ratio": ratio}

    if options.model:
        tokens, found = measure(options.model, options.text, options.tokens, widen=False)
        show(f"{options.model.name}, {len(tokens)} tokens", found)
    else:
        text = options.text or DIRECTORY / "text.txt"
        if not options.text:
            text.write_text(demo_text())
        for kind in options.types.split(","):
            tokens, found = measure(quantised_demo(kind), text, options.tokens, widen=True)
            written = written_by_the_model(tokens.tolist())
            show(f"demo model in {kind.upper()}, all {len(tokens)} tokens", found)
            show(f"demo model in {kind.upper()}, the {written.sum()} tokens that the model writes",
                 {what: f.at(written) for what, f in found.items()})
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

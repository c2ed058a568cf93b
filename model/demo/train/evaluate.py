"""Scores a Hugging Face directory on held-out cases, exact match under greedy decoding.

Usage: python evaluate.py MODEL_DIR [--count 200] [--show 2] [--only a,d] [--json OUT]
A case counts when the most likely token at every position of the expected answer, end mark included, is the expected
one: exactly then greedy decoding writes that answer. So one forward pass scores a case and no text is generated.
"""

import argparse
import json
import pathlib

import tokenizers
import torch

import cases

TOKENS_PER_BATCH = 4096


class Judge:
    """A model and its tokenizer."""

    def __init__(self, directory):
        from transformers import AutoModelForCausalLM
        self.tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
        self.model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()

    def rows(self, suite):
        """(case, tokens of the prompt, tokens of the expected answer), short ones first."""
        found = [(case, cases.prompt_ids(self.tokenizer, case), cases.expected_ids(self.tokenizer, case))
                 for case in suite]
        return sorted(found, key=lambda row: len(row[1]) + len(row[2]))

    @torch.inference_mode()
    def written(self, batch):
        """For each row the most likely tokens along its expected answer.

        Rows are padded on the right, where nothing causal looks, so no mask is needed.
        """
        length = max(len(prompt) + len(expected) for _, prompt, expected in batch)
        ids = torch.zeros(len(batch), length, dtype=torch.long)
        for r, (_, prompt, expected) in enumerate(batch):
            ids[r, : len(prompt) + len(expected)] = torch.tensor(prompt + expected)
        hidden = self.model.model(ids, use_cache=False).last_hidden_state
        for r, (_, prompt, expected) in enumerate(batch):
            at = hidden[r, len(prompt) - 1 : len(prompt) + len(expected) - 1]
            yield self.model.lm_head(at).argmax(-1).tolist()

    def score(self, suite, show):
        """How many cases are right; prints up to show wrong ones."""
        right = 0
        for batch in batches(self.rows(suite)):
            for (case, _, expected), got in zip(batch, self.written(batch)):
                right += got == expected
                if got != expected and show > 0:
                    show -= 1
                    print("  asked   ", repr(case["messages"][-1]["content"][-200:]))
                    print("  expected", repr(case["expected"]))
                    print("  got     ", repr(self.tokenizer.decode(got, skip_special_tokens=False)), flush=True)
        return right


def batches(rows):
    """Neighbours of similar length, up to TOKENS_PER_BATCH with padding."""
    batch = []
    for row in rows:
        if batch and (len(batch) + 1) * (len(row[1]) + len(row[2])) > TOKENS_PER_BATCH:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--show", type=int, default=0)
    parser.add_argument("--only", default="abcdefg")
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    judge = Judge(options.model)
    rows = []
    print("| skill | held-out cases | right | of | % |\n|---|---|---|---|---|")
    for skill, what, suite in cases.suites(judge.tokenizer, options.count):
        if skill not in options.only:
            continue
        right = judge.score(suite, options.show)
        rows.append({"skill": skill, "what": what, "right": right, "of": len(suite)})
        print(f"| {skill} | {what} | {right} | {len(suite)} | {100 * right / max(1, len(suite)):.1f} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

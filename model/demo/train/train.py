"""Trains the demo model on one CPU core for a given time, and can be stopped (SIGTERM saves) and resumed.

Usage: python train.py --run DIR --minutes 105 [--resume]
The learning rate follows the clock, not the step count, so the run ends when it should on a busy machine too.
DIR/last.pt holds weights, optimizer state and progress; DIR/log.txt one line per twenty steps.
"""

import argparse
import dataclasses
import pathlib
import random
import signal
import time

import tokenizers
import torch

import data
import muon
import network

HERE = pathlib.Path(__file__).resolve().parent
TOKENS_PER_BATCH = 4096
POOL = 300  # conversations sorted by length together, so that rows of one batch need little padding
WARMUP = 0.02  # of the whole run
BIAS_RATE = 0.002
SKILLS = ["tools", "sums", "chat", "long", "copy"]

# (until this share of the run, mix): copying first, because the other skills stand on it; long texts last.
STAGES = [
    (0.08, {"tools": 0.18, "sums": 0.15, "chat": 0.15, "reading": 0.22, "repeat": 0.30}),
    (0.30, {"tools": 0.35, "sums": 0.14, "chat": 0.13, "reading": 0.22, "repeat": 0.16}),
    (0.48, {"tools": 0.46, "sums": 0.13, "drill": 0.14, "chat": 0.11, "reading": 0.12, "repeat": 0.02, "long": 0.02}),
    (0.73, {"tools": 0.54, "sums": 0.12, "drill": 0.06, "chat": 0.10, "reading": 0.12, "repeat": 0.02, "long": 0.04}),
    (1.01, {"tools": 0.52, "sums": 0.12, "drill": 0.04, "chat": 0.08, "reading": 0.12, "repeat": 0.04, "long": 0.08}),
]


def mix_at(progress):
    return next(mix for until, mix in STAGES if progress < until)


def learning_rate(progress):
    """Share of the full rate: a short rise, then a straight line to zero."""
    if progress < WARMUP:
        return progress / WARMUP
    return max(0.0, (1 - progress) / (1 - WARMUP))


class Stream:
    """Batches of conversations of similar length."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.tokenizer = tokenizers.Tokenizer.from_file(str(HERE.parent / "tokenizer.json"))
        self.ready = []

    def next(self, progress):
        """(ids, positions, targets, skills)"""
        if not self.ready:
            self._fill(mix_at(progress))
        return self.ready.pop()

    def _fill(self, mix):
        rows = []
        for _ in range(POOL):
            conversation = data.draw(self.rng, mix)
            rows.append((*data.encode(self.tokenizer, conversation), SKILLS.index(conversation["skill"])))
        rows.sort(key=lambda row: len(row[0]))
        batch = []
        for row in rows:
            if batch and (len(batch) + 1) * len(row[0]) > TOKENS_PER_BATCH:
                self.ready.append(collate(batch))
                batch = []
            batch.append(row)
        self.ready.append(collate(batch))
        self.rng.shuffle(self.ready)


def collate(rows):
    length = max(len(ids) for ids, _, _ in rows) - 1
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    positions, targets, skills = [], [], []
    for r, (row, mask, skill) in enumerate(rows):
        n = min(len(row), length)
        ids[r, :n] = torch.tensor(row[:n])
        for i in range(1, len(row)):
            if mask[i]:
                positions.append(r * length + i - 1)
                targets.append(row[i])
                skills.append(skill)
    return ids, torch.tensor(positions), torch.tensor(targets), torch.tensor(skills)


def balance(net, rate):
    """Moves each expert's selection bias against its load; the loss knows nothing of it."""
    for layer in net.moe_layers():
        layer.expert_bias += rate * torch.sign(layer.load.mean() - layer.load)
        layer.load.zero_()


def imbalance(net):
    """Largest load over mean load, the worst layer, since the last balance()."""
    return max((l.load.max() / l.load.mean()).item() for l in net.moe_layers())


class Run:
    def __init__(self, options):
        self.directory = options.run
        self.directory.mkdir(parents=True, exist_ok=True)
        self.seconds = options.minutes * 60
        vocab = tokenizers.Tokenizer.from_file(str(HERE.parent / "tokenizer.json")).get_vocab_size()
        self.shape = network.Shape(vocab_size=-(-vocab // 256) * 256)
        torch.manual_seed(options.seed)
        self.net = network.Network(self.shape)
        self.optimizers = muon.optimizers(self.net)
        self.rates = [o.param_groups[0]["lr"] for o in self.optimizers]
        self.step, self.tokens, self.spent = 0, 0, 0.0
        if options.resume:
            self._load(options.restart_schedule)
        self.stream = Stream(options.seed * 1000003 + self.step)
        self.sums = torch.zeros(2, len(SKILLS))
        self.stopped = False

    def _load(self, restart_schedule):
        state = torch.load(self.directory / "last.pt", weights_only=False)
        self.net.load_state_dict(state["net"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        self.step, self.tokens = state["step"], state["tokens"]
        self.spent = 0.0 if restart_schedule else state["spent"]

    def save(self):
        state = {"net": self.net.state_dict(), "optimizers": [o.state_dict() for o in self.optimizers],
                 "step": self.step, "tokens": self.tokens, "spent": self.spent,
                 "shape": dataclasses.asdict(self.shape)}
        torch.save(state, self.directory / "last.tmp")
        (self.directory / "last.tmp").rename(self.directory / "last.pt")

    def one_step(self, progress):
        ids, positions, targets, skills = self.stream.next(progress)
        losses = self.net.losses(ids, positions, targets)
        losses.mean().backward()
        self.sums[0].index_add_(0, skills, losses.detach())
        self.sums[1].index_add_(0, skills, torch.ones_like(losses))
        self.tokens += ids.numel()
        norm = torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        for optimizer, rate in zip(self.optimizers, self.rates):
            optimizer.param_groups[0]["lr"] = rate * learning_rate(progress)
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
        self.worst = imbalance(self.net)
        if progress < 0.9:
            balance(self.net, BIAS_RATE * min(1.0, 2 * (1 - progress)))
        self.step += 1
        return norm

    def report(self, progress, norm, speed):
        means = (self.sums[0] / self.sums[1]).tolist()
        each = " ".join(f"{name} {value:.3f}" for name, value in zip(SKILLS, means))
        line = (f"{time.strftime('%H:%M:%S')} step {self.step} done {progress:.3f} tokens {self.tokens / 1e6:.2f}M "
                f"tok/s {speed:.0f} loss {(self.sums[0].sum() / self.sums[1].sum()):.4f} {each} "
                f"norm {norm:.2f} load {self.worst:.2f}")
        self.sums.zero_()
        with open(self.directory / "log.txt", "a") as log:
            log.write(line + "\n")
        print(line, flush=True)

    def go(self):
        last_save = last_report = time.time()
        last_tokens = self.tokens
        clock = time.time() - self.spent
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "stopped", True))
        while (progress := (time.time() - clock) / self.seconds) < 1 and not self.stopped:
            norm = self.one_step(progress)
            self.spent = time.time() - clock
            if self.step % 20 == 0:
                speed = (self.tokens - last_tokens) / (time.time() - last_report)
                self.report(progress, norm, speed)
                last_report, last_tokens = time.time(), self.tokens
            if time.time() - last_save > 240:
                self.save()
                last_save = time.time()
        self.save()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=pathlib.Path, required=True)
    parser.add_argument("--minutes", type=float, required=True, help="length of the whole run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--restart-schedule", action="store_true", help="with --resume: a new warm-up and decay")
    options = parser.parse_args()
    torch.set_num_threads(1)
    Run(options).go()


if __name__ == "__main__":
    main()

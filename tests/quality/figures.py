"""The figures of cli/bench_quality/divergence.h, over log-probabilities from whatever engine."""
import dataclasses

import numpy as np

KL_MIN = 1e-14  # below it is the rounding of float32 logits
DRAWS, NEIGHBOURS = 2000, 50
ROWS = 64  # at a time, so that float64 copies of a large vocabulary stay small




@dataclasses.dataclass
class Figures:
    kl: np.ndarray  # these three of each position
    same_top: np.ndarray
    logprob_error: np.ndarray
    surprise: np.ndarray  # -ln of what the candidate gives the token that comes next; NaN where none does

    def at(self, positions):
        return Figures(self.kl[positions], self.same_top[positions], self.logprob_error[positions],
                       self.surprise[positions])

    def summary(self):
        quantiles = np.quantile(self.kl, [0.5, 0.99, 1])
        return {"tokens": len(self.kl), "kl_mean": float(self.kl.mean()),
                "kl_mean_error": float(self.kl.std() / np.sqrt(len(self.kl))), "kl_p50": float(quantiles[0]),
                "kl_p99": float(quantiles[1]), "kl_max": float(quantiles[2]),
                "top1_agreement": float(self.same_top.mean()), "logprob_error_max": float(self.logprob_error.max()),
                "perplexity": float(np.exp(np.nanmean(self.surprise)))}


def log_softmax(logits):
    logits = logits.astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def compare(reference, candidate, tokens, lengths):
    """Of logits or log-probabilities (N, V). What float32 log-probabilities do not quite add up to is put right first:
    it would be no small part of a tiny divergence."""
    count = len(tokens)
    out = Figures(np.empty(count), np.empty(count, bool), np.empty(count), np.full(count, np.nan))
    for begin in range(0, count, ROWS):
        rows = slice(begin, min(begin + ROWS, count))
        log_p, log_q = log_softmax(np.asarray(reference[rows])), log_softmax(np.asarray(candidate[rows]))
        difference = log_p - log_q
        p, q = np.exp(log_p), np.exp(log_q)
        small = np.abs(difference) < 1
        terms = np.where(small, p * (difference + np.expm1(np.where(small, -difference, 0))), p * difference + q - p)
        out.kl[rows] = np.maximum(terms, 0).sum(axis=1)
        out.same_top[rows] = log_p.argmax(axis=1) == log_q.argmax(axis=1)
        out.logprob_error[rows] = np.abs(difference).max(axis=1)
        following = np.append(tokens[begin + 1:rows.stop + 1], 0)[:rows.stop - begin]
        out.surprise[rows] = -log_q[np.arange(rows.stop - begin), following]
    out.surprise[np.cumsum(lengths) - 1] = np.nan
    return out


def kl_ratio(ours, theirs):
    """(by how much our divergences are the larger, from, to): the geometric mean over positions of one by the other,
    and where 95 % of such means lie if positions are drawn anew, neighbours together. Means themselves hang on a few
    positions where another expert is chosen."""
    logs = np.log(np.maximum(ours.kl, KL_MIN)) - np.log(np.maximum(theirs.kl, KL_MIN))
    groups = logs[:len(logs) // NEIGHBOURS * NEIGHBOURS].reshape(-1, NEIGHBOURS).mean(axis=1)
    if len(groups) == 0:
        return float(np.exp(logs.mean())), 0.0, float("inf")
    draws = np.random.default_rng(0).integers(0, len(groups), (DRAWS, len(groups)))
    low, high = np.quantile(groups[draws].mean(axis=1), [0.025, 0.975])
    return float(np.exp(logs.mean())), float(np.exp(low)), float(np.exp(high))

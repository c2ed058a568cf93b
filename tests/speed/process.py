"""What both sides are asked for, and what they take."""
import random

START_PROMPT = [300, 7001, 42000, 915, 30303, 512, 64000, 11111]
TOKEN_IDS = range(300, 65536)  # of the synthetic vocabulary: no control tokens


def token_ids(count, source=random.Random(0)):
    """Others at each call, so that no cache of prefixes helps."""
    return source.choices(TOKEN_IDS, k=count)


def resident_bytes(pid):
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        return next(int(line.split()[1]) * 1024 for line in rollup if line.startswith("Rss:"))

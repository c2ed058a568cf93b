"""Text that the demo model knows: conversations of its training's mix from another seed, and one long reading."""
import random
import sys

import numpy as np
import tokenizers

from cluster import DEMO

sys.path.insert(0, str(DEMO / "train"))
import data  # noqa: E402
import longtext  # noqa: E402

SEED = 20271130  # of no training run
LONG_LINES = 150  # more than 2,000 tokens
LONG_QUESTIONS = 8
CONVERSATIONS, LONG_AFTER = 200, 6


def rendered(conversation):
    return "".join(text for text, _ in data.segments(conversation["messages"], conversation["tools"]))


def demo_text():
    """As the chat template writes it, so that each conversation begins with the first-token. Some 30,000 tokens."""
    rng = random.Random(SEED)
    short = {kind: share for kind, share in data.MIX.items() if kind != "long"}
    texts = [data.draw(rng, short) for _ in range(CONVERSATIONS)]
    texts.insert(LONG_AFTER, longtext.reading(rng, LONG_LINES, LONG_QUESTIONS))
    return "".join(map(rendered, texts))


def written_by_the_model(tokens):
    """Whether each token's next is part of an answer: what the demo model was trained to predict, and is asked for."""
    tokenizer = tokenizers.Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    begin = tokenizer.encode("<|im_start|>assistant\n", add_special_tokens=False).ids
    end = tokenizer.token_to_id("<|im_end|>")
    written, writing = np.zeros(len(tokens), bool), False
    for i, token in enumerate(tokens):
        writing = token != end and (writing or list(tokens[max(0, i + 1 - len(begin)):i + 1]) == begin)
        written[i] = writing
    return written

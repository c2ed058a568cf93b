"""Makes the tokenizer: byte-level BPE learnt from the generated conversations.

Two rules keep copying easy for a small model. Digits never merge, so a number is its digits. Merges never cross from
a space or a sign into letters, so a word is the same tokens wherever it stands: "Oslo", " Oslo" and "(Oslo". The
frequent words of the phrasings (" the", " is") are in the vocabulary together with their space, without merges; the
tokenizer finds them because ignore_merges is set, as it is in LFM2.

Usage: python tokenizer.py OUT_DIR [--merges 1200]
"""

import argparse
import collections
import json
import pathlib
import random
import re

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import data
import toolbox
import words

PATTERN = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
           r"|\s*[\r\n]+|\s+(?!\S)|\s+")
SPECIAL = ["<|pad|>", "<|startoftext|>", "<|endoftext|>", "<|fim_pre|>", "<|fim_mid|>", "<|fim_suf|>", "<|im_start|>",
           "<|im_end|>", "<think>", "</think>", "<|tool_list_start|>", "<|tool_list_end|>", "<|tool_call_start|>",
           "<|tool_call_end|>", "<|tool_response_start|>", "<|tool_response_end|>"]
RESERVED = [f"<|reserved_{i}|>" for i in range(4)]
VISIBLE = {"<think>", "</think>"}  # ordinary added tokens: decoding keeps them
SPACED_WORDS = 260
SPACED_COUNT_MIN = 60


def texts(count, seed):
    """Rendered conversations without the special tokens."""
    rng = random.Random(seed)
    mix = dict(data.MIX, repeat=0.01, long=0.0)
    for _ in range(count):
        conversation = data.draw(rng, mix)
        for text, _ in data.segments(conversation["messages"], conversation["tools"]):
            for piece in re.split("|".join(map(re.escape, SPECIAL)), text):
                if piece:
                    yield piece


def final_pre_tokenizer():
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def learning_pre_tokenizer():
    """As the final one, but letters and digits stand apart, so that no merge joins them to anything else."""
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
        pre_tokenizers.Split(Regex(r"\p{L}+"), behavior="isolated"),
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def values():
    """Words that get copied from place to place; they must stay the same tokens everywhere."""
    pools = [words.COLORS, words.ADJECTIVES, words.THINGS, words.ANIMALS, words.JOBS, words.FOODS, words.ROOMS,
             words.TOPICS, [part for noun in toolbox.NOUNS for part in noun.split("_")], list(toolbox.VERBS),
             [p.name for p in toolbox.PARAMS]]
    return {word for pool in pools for word in pool}


def spaced_words(corpus):
    """Frequent lower-case words that follow a space, most frequent first."""
    kept = values()
    counts = collections.Counter(word for text in corpus for word in re.findall(r" [a-zI][a-z]*(?![a-zA-Z])", text))
    counts = collections.Counter({w: n for w, n in counts.items() if w[1:] not in kept})
    frequent = [w for w, n in counts.most_common(SPACED_WORDS) if n >= SPACED_COUNT_MIN]
    return ["Ġ" + w[1:] for w in frequent]


def learn(corpus, merges):
    """A BPE model over corpus with the spaced words added to its vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = learning_pre_tokenizer()
    trainer = trainers.BpeTrainer(vocab_size=256 + merges, min_frequency=10, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(corpus, trainer)
    learnt = json.loads(tokenizer.to_str())["model"]
    vocab = learnt["vocab"]
    for word in spaced_words(corpus):
        vocab.setdefault(word, len(vocab))
    pairs = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in learnt["merges"]]
    return models.BPE(vocab=vocab, merges=pairs, ignore_merges=True)


def build(corpus, merges):
    tokenizer = Tokenizer(learn(corpus, merges))
    tokenizer.pre_tokenizer = final_pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    for text in SPECIAL + RESERVED:
        tokenizer.add_tokens([AddedToken(text, special=text not in VISIBLE, normalized=False)])
    bos = "<|startoftext|>"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, tokenizer.token_to_id(bos))])
    return tokenizer


def write_config(out):
    """tokenizer_config.json; the chat template lies beside it as chat_template.jinja."""
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|startoftext|>", "eos_token": "<|im_end|>",
              "pad_token": "<|pad|>", "clean_up_tokenization_spaces": False, "model_max_length": 8192,
              "model_input_names": ["input_ids", "attention_mask"]}
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--merges", type=int, default=1200)
    parser.add_argument("--conversations", type=int, default=12000)
    options = parser.parse_args()
    corpus = list(texts(options.conversations, seed=7))
    tokenizer = build(corpus, options.merges)
    tokenizer.save(str(options.out / "tokenizer.json"))
    write_config(options.out)
    print("tokens", tokenizer.get_vocab_size())


if __name__ == "__main__":
    main()

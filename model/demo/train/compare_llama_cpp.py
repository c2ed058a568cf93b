"""Checks that llama.cpp reads the GGUF of the demo model and writes the same greedy text as transformers.

Usage: python compare_llama_cpp.py write MODEL_DIR EXPECTED.json      with the packages of requirements.txt
       python compare_llama_cpp.py check MODEL.gguf EXPECTED.json     with xllamacpp, which brings a built llama.cpp
Two commands, so that the two sets of packages need not share an environment. The prompts go to llama.cpp as text, so
its tokenizer is compared as well. Use a float32 GGUF: in bf16 llama.cpp rounds activations too, transformers does not.
"""

import argparse
import json
import pathlib

MAX_NEW_TOKENS = 120


def prompts(tokenizer):
    """A few fixed prompts and some held-out cases of every skill, as text without the first token."""
    import cases  # needs tokenizers, which the checking side does without
    asked = ["Hello! Who are you?", "What can you do?", "What is 47 + 38?", "Who is the mayor of Nowhere?", "Thanks!",
             "It's 7 o'clock, isn't it?"]
    found = [{"messages": [{"role": "user", "content": text}], "tools": None} for text in asked]
    for _, what, suite in cases.suites(tokenizer, 4):
        if "tokens and more" in what:  # long texts take minutes and show nothing new here
            break
        found += suite[:1]
    return [cases.prompt_text(case).removeprefix("<|startoftext|>") for case in found]


def write(directory, out):
    import tokenizers
    import torch
    from transformers import AutoModelForCausalLM
    torch.set_num_threads(1)
    tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    rows = []
    for prompt in prompts(tokenizer):
        ids = tokenizer.encode(prompt).ids
        made = model.generate(torch.tensor([ids]), max_new_tokens=MAX_NEW_TOKENS, do_sample=False)[0, len(ids):]
        text = tokenizer.decode(made.tolist(), skip_special_tokens=False).removesuffix("<|im_end|>")
        rows.append({"prompt": prompt, "prompt_tokens": len(ids), "text": text})
    out.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


def start_server(gguf):
    import xllamacpp
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(gguf)
    parameters.n_ctx = 8192
    parameters.n_parallel = 1
    parameters.special = True
    parameters.cpuparams.n_threads = 1
    return xllamacpp.Server(parameters)


def complete(server, prompt):
    """(text, prompt tokens)"""
    reply = server.handle_completions({"prompt": prompt, "temperature": 0, "n_predict": MAX_NEW_TOKENS,
                                       "cache_prompt": False, "ignore_eos": False})
    reply = json.loads(reply) if isinstance(reply, (str, bytes)) else reply
    text = reply["choices"][0]["text"]
    return text.removesuffix("<|im_end|>"), reply["usage"]["prompt_tokens"]


def check(gguf, expected):
    server = start_server(gguf)
    rows = json.loads(expected.read_text())
    same = 0
    for row in rows:
        text, tokens = complete(server, row["prompt"])
        same += text == row["text"] and tokens == row["prompt_tokens"]
        if text != row["text"]:
            print("transformers", repr(row["text"]), "\nllama.cpp   ", repr(text))
        if tokens != row["prompt_tokens"]:
            print("prompt tokens", row["prompt_tokens"], tokens)
    print(f"same greedy text for {same} of {len(rows)} prompts")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["write", "check"])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("expected", type=pathlib.Path)
    options = parser.parse_args()
    (write if options.what == "write" else check)(options.model, options.expected)


if __name__ == "__main__":
    main()

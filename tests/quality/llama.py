"""llama.cpp's log-probabilities of every token after each of some sequences' tokens, through its server.

Usage: python -m quality.llama MODEL.gguf LOGITS KV_TYPE OUT.npy   from the package xllamacpp; KV_TYPE: f16, f32, q8_0
       LOGITS is what `braid bench quality --logits` has written: its tokens are asked for.
A process of its own, as it writes a log. The server tells the whole distribution of the next token only, so a sequence
is asked for token by token; each prompt goes on where the last one ended, so a token is computed once.
"""
import argparse
import json

import numpy as np

from quality import logits_file


def start_server(gguf, kv_type, context_tokens):
    import xllamacpp
    parameters = xllamacpp.CommonParams()
    parameters.model.path = gguf
    parameters.n_parallel = 1
    parameters.n_ctx = context_tokens
    parameters.cpuparams.n_threads = 1  # a small model is faster so; no figure depends on it
    parameters.warmup = False
    parameters.cache_type_k = parameters.cache_type_v = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{kv_type.upper()}")
    if kv_type == "f32":  # its flash attention rounds keys and values to f16 all the same
        parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    return xllamacpp.Server(parameters)


def next_token_logprobs(server, prompt, vocabulary):
    reply = server.handle_completions({"prompt": prompt, "max_tokens": 1, "logprobs": vocabulary,
                                       "cache_prompt": True, "temperature": 1.0})
    reply = json.loads(reply) if isinstance(reply, (str, bytes)) else reply
    assert reply["usage"]["prompt_tokens"] == len(prompt), reply["usage"]
    row = np.full(vocabulary, np.nan, np.float32)
    for token in reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
        row[token["id"]] = token["logprob"]
    assert not np.isnan(row).any()
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf")
    parser.add_argument("logits")
    parser.add_argument("kv_type", choices=["f16", "f32", "q8_0"])
    parser.add_argument("out")
    options = parser.parse_args()
    asked = logits_file.read(options.logits)
    tokens, vocabulary = asked["tokens"].tolist(), asked["reference"].shape[1]
    server = start_server(options.gguf, options.kv_type, int(asked["lengths"].max()) + 64)
    rows, begin = np.empty((len(tokens), vocabulary), np.float32), 0
    for length in asked["lengths"].tolist():
        for end in range(begin + 1, begin + length + 1):
            rows[end - 1] = next_token_logprobs(server, tokens[begin:end], vocabulary)
        begin += length
    np.save(options.out, rows)


if __name__ == "__main__":
    main()

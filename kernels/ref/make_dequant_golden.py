#!/usr/bin/env python3
"""Writes dequant_golden.bin: random blocks of every stored type and what the `gguf` package makes of them.

Usage: make_dequant_golden.py OUTPUT     (needs: pip install gguf numpy)

The file is a list of cases, little endian: name (8 bytes, zero padded), value count (u32), byte count (u32), the stored
bytes, the values as float32.
"""
import struct
import sys

import numpy as np
from gguf import GGMLQuantizationType, dequantize

BLOCKS = {"Q4_0": (32, 18), "Q8_0": (32, 34), "Q4_K": (256, 144), "Q5_K": (256, 176), "Q6_K": (256, 210)}
HALVES = {"Q4_0": [0], "Q8_0": [0], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}  # offsets of binary16 numbers


def random_blocks(rng, name, count):
    values, size = BLOCKS[name]
    raw = rng.integers(0, 256, (count, size), dtype=np.uint8)
    for offset in HALVES[name]:
        half = rng.standard_normal(count).astype(np.float16)
        half[0] = np.float16(6e-8)  # the smallest subnormal
        raw[:, offset:offset + 2] = half.view(np.uint8).reshape(count, 2)
    return raw


def main():
    rng = np.random.default_rng(20)
    with open(sys.argv[1], "wb") as out:
        def case(name, raw, values):
            out.write(struct.pack("<8sII", name.encode(), values.size, raw.size))
            out.write(raw.tobytes())
            out.write(values.astype("<f4").tobytes())

        for name in BLOCKS:
            raw = random_blocks(rng, name, 4)
            case(name, raw, dequantize(raw, GGMLQuantizationType[name]))
        bits = np.concatenate([rng.integers(0, 0x7C00, 60), [0, 1, 0x3FF, 0x400, 0x7BFF, 0x8000, 0x8001, 0xFBFF]])
        bits = bits.astype(np.uint16)
        case("F16", bits.view(np.uint8), bits.view(np.float16))
        case("BF16", bits.view(np.uint8), (bits.astype(np.uint32) << 16).view(np.float32))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""What a step costs at the least on one H100, op by op: bytes, operations, and the time of whichever takes longer.

    kernels/cuda/roofline.py            # prints the tables
    kernels/cuda/roofline.py --update   # writes them into kernels/cuda/README.md, between its marks
    kernels/cuda/roofline.py --measured ENGINE.json [EXCHANGE.json] [--update]   # the measured ones: see measured.py

Only what an op must move is counted: each weight that a step uses once, each activation once in and once out, the KV of
each sequence once per key head, which its four query heads share. Measured times go beside these, they never go in.
"""
import argparse
import json
import pathlib
import re
from dataclasses import dataclass

BANDWIDTH, TENSOR, FMA = 3.35e12, 989e12, 67e12  # bytes/s, bf16 operations/s, float32 operations/s (H100 SXM5)
# Between two dependent kernels of a graph; of a launch from the host, which hides behind longer work. Estimates.
LAUNCH, HOST_LAUNCH = 2.5e-6, 4e-6

# LFM2-8B-A1B.
D, HEADS, KV_HEADS, HEAD_DIM, TAPS = 2048, 32, 8, 64, 3
CONV_LAYERS, ATTENTION_LAYERS, DENSE_LAYERS, MOE_LAYERS = 18, 6, 2, 22
DENSE_F, F, E, K, V = 7168, 1792, 32, 4, 65536
Q, KV = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
BF16, F32, Q4, FP8 = 2, 4, 18 / 32, 1 + 2 / 128  # bytes of a number, with its part of a scale

SIZES = [("decode 1", 1, 1536, False), ("decode 32", 32, 1536, False), ("decode 128", 128, 1536, False),
         ("decode 512", 512, 1536, False), ("decode 1024", 1024, 1536, False), ("decode 2048", 2048, 1536, False),
         ("prefill 2048", 2048, 2048, True), ("prefill 8192", 8192, 8192, True)]
EXPERT_OPS = ["experts gate, up, SwiGLU", "experts down"]


@dataclass
class Cost:
    bytes: float
    tensor: float = 0  # operations, a multiply-add being two
    fma: float = 0

    def seconds(self):
        return max(self.bytes / BANDWIDTH, self.tensor / TENSOR, self.fma / FMA)

    def bound(self):
        times = {"memory": self.bytes / BANDWIDTH, "tensor": self.tensor / TENSOR, "FMA": self.fma / FMA}
        return max(times, key=times.get)


def experts_used(T):
    return E * (1 - (1 - K / E) ** T)  # of uniform routing


def ops(T, context, prefill, expert_bytes=BF16, dense_bytes=BF16, rows=BF16):
    """(op, how often a step runs it, cost of one). T rows; in a prefill of one sequence, else of T sequences. `rows` is
    how rows come to the products that then are FP8 by FP8."""
    rate = 2 if rows == FP8 else 1  # of tensor cores

    def dense(T, n, k, y=BF16):
        return Cost(n * k * dense_bytes + T * (k * rows + n * y), tensor=2 * T * n * k / rate)

    pairs = T * K
    seen = T * (context + 1) / 2 if prefill else T * context  # (row, position) pairs
    kv_read = (context if prefill else seen) * 2 * KV * BF16
    spans = 0 if prefill else T * HEADS * (context / 512) * (HEAD_DIM + 2) * F32 * 2  # written, read
    rows_wanted = 1 if prefill else T
    rounding = [  # what a norm has not rounded already
        ("round for conv out, attention out", CONV_LAYERS + ATTENTION_LAYERS, Cost(T * D * (BF16 + FP8))),
        ("round for dense down", DENSE_LAYERS, Cost(T * DENSE_F * (BF16 + FP8))),
        ("round for experts", MOE_LAYERS, Cost((T * BF16 + pairs * FP8) * D)),
        ("round for experts down", MOE_LAYERS, Cost(pairs * F * (BF16 + FP8))),
    ] if rows == FP8 else []
    return rounding + [
        ("gather", 1, Cost(T * D * (BF16 + F32))),
        ("RMSNorm + residual", 48, Cost(T * D * (3 * F32 + BF16), fma=4 * T * D)),
        ("conv in", CONV_LAYERS, dense(T, 3 * D, D)),
        ("short conv", CONV_LAYERS, Cost(T * D * (4 * BF16 + (1 if prefill else TAPS) * F32), fma=8 * T * D)),
        ("conv out", CONV_LAYERS, dense(T, D, D, y=F32)),
        ("q, k, v", ATTENTION_LAYERS, dense(T, Q + 2 * KV, D)),
        ("heads: norm, RoPE, KV", ATTENTION_LAYERS, Cost(T * (Q + 2 * KV) * 2 * BF16, fma=10 * T * (Q + KV))),
        ("attention", ATTENTION_LAYERS, Cost(T * Q * 2 * BF16 + kv_read + spans, tensor=4 * seen * Q)),
        ("attention out", ATTENTION_LAYERS, dense(T, D, Q, y=F32)),
        ("dense gate, up, SwiGLU", DENSE_LAYERS, Cost(2 * DENSE_F * D * dense_bytes + T * (D * rows + DENSE_F * BF16),
                                                      tensor=4 * T * DENSE_F * D / rate)),
        ("dense down", DENSE_LAYERS, dense(T, D, DENSE_F, y=F32)),
        ("router", MOE_LAYERS, Cost(E * D * F32 + T * (D * F32 + E * F32), fma=2 * T * E * D)),
        ("choose experts", MOE_LAYERS, Cost(T * (E * F32 + K * 8))),
        ("group rows", MOE_LAYERS, Cost(pairs * 12)),
        ("experts gate, up, SwiGLU", MOE_LAYERS, Cost(experts_used(T) * 2 * F * D * expert_bytes
                                                      + (pairs if rows == FP8 else T) * D * rows + pairs * F * BF16,
                                                      tensor=4 * pairs * F * D / rate)),
        ("experts down", MOE_LAYERS, Cost(experts_used(T) * F * D * expert_bytes + pairs * (F * rows + D * BF16),
                                          tensor=2 * pairs * F * D / rate)),
        ("combine", MOE_LAYERS, Cost(pairs * D * BF16 + T * D * F32, fma=2 * pairs * D)),
        ("head", 1, Cost(V * D * BF16 + rows_wanted * (D * BF16 + V * F32), tensor=2 * rows_wanted * V * D)),
        ("draw tokens", 1, Cost(rows_wanted * V * F32)),
    ]


def micro(seconds):
    value = seconds * 1e6
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def op_table():
    lines = ["| op, per launch | " + " | ".join(name for name, *_ in SIZES) + " |", "|---" * (len(SIZES) + 1) + "|"]
    columns = [ops(*size) for _, *size in SIZES]
    for i, (name, count, _) in enumerate(columns[0]):
        cells = [f"{micro(column[i][2].seconds())} {column[i][2].bound()[0]}" for column in columns]
        lines.append(f"| {name} x {count} | " + " | ".join(cells) + " |")
    return lines


def volume_table():
    lines = ["| op, per launch | decode 1 MB | GFLOP | decode 1024 MB | GFLOP | prefill 8192 MB | GFLOP |",
             "|---" * 7 + "|"]
    columns = [ops(*SIZES[i][1:]) for i in (0, 4, 7)]
    for i, (name, _, _) in enumerate(columns[0]):
        cells = []
        for column in columns:
            cost = column[i][2]
            cells.append(f"{cost.bytes / 1e6:,.2f} | {(cost.tensor + cost.fma) / 1e9:,.3f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def step_table():
    lines = ["| step | floor, ms | tokens/s at the floor | share of attention | of experts | launches |"
             " and their gaps, ms | layers' weights in FP8, ms | and rows, ms | experts in 4 bits, ms |",
             "|---" * 10 + "|"]
    for name, T, context, prefill in SIZES:
        table = ops(T, context, prefill)
        total = sum(count * cost.seconds() for _, count, cost in table)

        def share(names):
            return sum(count * cost.seconds() for op, count, cost in table if op in names) / total

        launches = sum(count for _, count, _ in table) + (0 if prefill else ATTENTION_LAYERS)  # the merge of spans
        eight, rows, four = (sum(count * cost.seconds() for _, count, cost in ops(T, context, prefill, *stored))
                             for stored in [(FP8, FP8), (FP8, FP8, FP8), (Q4,)])
        lines.append(f"| {name} | {total * 1e3:.2f} | {T / total:,.0f} | {share(['attention']):.0%} | "
                     f"{share(EXPERT_OPS):.0%} | {launches} | {launches * LAUNCH * 1e3:.2f} | {eight * 1e3:.2f} | "
                     f"{rows * 1e3:.2f} | {four * 1e3:.2f} |")
    return lines


def launch_table():
    lines = ["| step | launches | a launch's work, us | from the host, ms | tokens/s | as a graph, ms | tokens/s |",
             "|---" * 7 + "|"]
    for name, T, context, prefill in SIZES:
        if prefill:
            continue
        table = ops(T, context, prefill)
        launches = sum(count for _, count, _ in table) + ATTENTION_LAYERS
        work = sum(count * cost.seconds() for _, count, cost in table)
        # The host enqueues while the GPU works: each op takes the longer of the two.
        merge = ATTENTION_LAYERS * max(HOST_LAUNCH, LAUNCH)
        host = merge + sum(count * max(cost.seconds() + LAUNCH, HOST_LAUNCH) for _, count, cost in table)
        graph = work + launches * LAUNCH
        lines.append(f"| {name} | {launches} | {work / launches * 1e6:.1f} | {host * 1e3:.2f} | {T / host:,.0f} | "
                     f"{graph * 1e3:.2f} | {T / graph:,.0f} |")
    return lines


# The kernels of a decode step of 128 sequences, and of a prefill where that has others.
KERNELS = [
    ("gather", "GatherKernel<BF16, float>", None),
    ("RMSNorm + residual", "RmsNormKernel<256, 4>", None),
    ("short conv", "ShortConvKernel<3, 1, bf16>", "ShortConvKernel<3, 8, bf16>"),
    ("heads: norm, RoPE, KV", "QkvHeadsKernel<64, bf16>", None),
    ("attention", "MmaAttentionKernel<64, 1, true>", "MmaAttentionKernel<64, 4, false>"),
    ("merge of spans", "MergeSpansKernel<64, bf16>", None),
    ("SwiGLU, with --fast", "SwiGluKernel<bf16>", None),
    ("router", "FmaLinearKernel<F32>", None),
    ("choose experts", "ChooseExpertsKernel<1>", None),
    ("group rows", "GroupRowsKernel<8>", "GroupRowsKernel<32>"),
    ("experts in BF16", "Bf16LinearKernel<true, 1, 1, 2>", "WideLinearKernel<true, Bf16Stages>"),
    ("in FP8", "Fp8LinearKernel<true, 1, 1, 2>", "WideLinearKernel<true, Fp8Stages>"),
    ("FP8 by FP8", "Fp8ByFp8LinearKernel<true, 1, 1, 2>", "WideFp8ByFp8LinearKernel<true>"),
    ("rounding to FP8", "QuantizeRowsKernel<bf16>", None),
    ("in 4 bits", "Q4LinearKernel<true, 1, 1, 2>", "Q4LinearKernel<true, 2, 2, 4>"),
    ("combine", "CombineKernel<bf16>", None),
    ("draw tokens", "DrawTokensKernel<false>", None),
    ("with top K or top P", "DrawTokensKernel<true>", None),
]


def occupancy_table():
    """Of Hopper, out of registers.txt."""
    lines = pathlib.Path(__file__).with_name("registers.txt").read_text().splitlines()
    archs = next(line for line in lines if "threads" in line and "sm_" in line).split()[1:]
    rows = {}
    for line in lines:
        match = re.match(r"  (\S.*?)\s{2,}(\d[\d ]*)$", line)
        if match:
            threads, *numbers = match.group(2).split()
            at = 4 * archs.index("sm_90a")
            rows[match.group(1)] = [threads, *numbers[at:at + 4]]
    table = ["| op | kernel | threads | registers | shared memory | blocks on an SM | warps, of 64 |", "|---" * 7 + "|"]
    for op, decode, prefill in KERNELS:
        for kernel in filter(None, (decode, prefill)):
            table.append(f"| {op} | `{kernel}` | " + " | ".join(rows[kernel]) + " |")
            op = ""
    return table


def pages():
    import exchange_roofline  # which reads this module

    return {"ops": op_table(), "volumes": volume_table(), "steps": step_table(), "occupancy": occupancy_table(),
            "launches": launch_table(), "exchange bytes": exchange_roofline.volume_table(),
            "exchange steps": exchange_roofline.step_table(), "exchange halves": exchange_roofline.overlap_table()}


def measured_pages(files):
    import measured

    return measured.pages(*(json.loads(pathlib.Path(file).read_text()) for file in files))


def updated(text, tables):
    for name, lines in tables.items():
        begin, end = f"<!-- {name}: kernels/cuda/roofline.py -->\n", f"<!-- end of {name} -->"
        before, rest = text.split(begin)
        text = before + begin + "\n".join(lines) + "\n" + end + rest.split(end)[1]
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--measured", nargs="+", metavar="FILE")
    flags = parser.parse_args()
    tables = measured_pages(flags.measured) if flags.measured else pages()
    if flags.update:
        readme = pathlib.Path(__file__).with_name("README.md")
        readme.write_text(updated(readme.read_text(), tables))
    else:
        for name, lines in tables.items():
            print(f"{name}\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

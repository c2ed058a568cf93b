"""What the exchange adds to a step of 2 to 16 GPUs, at the least: bytes, latency, what becomes of tokens per second.

Part of roofline.py, which prints these tables and says where the model's numbers come from. Each GPU steps T sequences
of its own and holds E / N experts of each layer; routing is uniform. Rows travel in bfloat16, each once to a GPU
however many of its experts it wants; results come back one row per expert, since the sum's order is the owner's
(combine.h).
"""
import math
from dataclasses import dataclass

import roofline as model

HEADER, EXPERT, ROW = 64, 2, model.D * model.BF16  # bytes: of a slot, of an expert's number in it, of a row
# Of expert_worker/cuda/slot_room.h and device_expert_parallel.h.
MULTIPLE, DEVIATIONS, MORE, SPARE_BYTES, SLOT_ROWS_MAX = 2, 6, 8, 4 << 20, 256


@dataclass
class Link:
    name: str
    bandwidth: float  # bytes/s out of a GPU, and as many into it
    latency: float    # s of one all-to-all of small messages: an estimate, to be measured


NVLINK = Link("NVLink", 360e9, 15e-6)
INFINIBAND = Link("InfiniBand 400G", 45e9, 60e-6)
SIZES = [(2, NVLINK), (4, NVLINK), (8, NVLINK), (16, INFINIBAND)]
ROWS = [32, 64, 128, 256, 512, 1024]
# From counts on the device to the next kernel that a host launches knowing them: a copy, a look, a launch. An estimate.
HOST_LOOK = 25e-6


def rows_to_others(N):
    """Of one token: how many other GPUs hold at least one of its K experts."""
    here = model.E // N
    none = 1.0
    for i in range(model.K):
        none *= (model.E - here - i) / (model.E - i)
    return (N - 1) * (1 - none)


def results_of_others(N):
    return model.K * (N - 1) / N


def head_rows(T):
    """What a row slot's head and experts take: whole rows."""
    return math.ceil((HEADER + T * model.K * EXPERT) / ROW)


def exact_bytes(N, T):
    """Out of one GPU in one layer, dispatch and combine, with counts known to the host."""
    return ((N - 1) * head_rows(T) + T * rows_to_others(N)) * ROW, (N - 1 + T * results_of_others(N)) * ROW


def results_max(N, T):
    """That one rank can be asked for."""
    return T * min(model.K, model.E // N)


def results_room(N, T):
    mean, most = T * model.K / N, results_max(N, T)
    room = min(most, math.ceil(MULTIPLE * mean + DEVIATIONS * math.sqrt(mean)) + MORE)
    return most if (N - 1) * (most - room) * ROW <= SPARE_BYTES else room


def slot_bytes(N, T, room=results_room):
    """The same in slots, as a captured step has them."""
    return (N - 1) * (head_rows(T) + T) * ROW, (N - 1) * (1 + room(N, T)) * ROW


def counts_seconds(link):
    """What it takes to know the counts of all layers."""
    return model.MOE_LAYERS * (link.latency + HOST_LOOK)


def exchange_seconds(link, volumes):
    return model.MOE_LAYERS * sum(link.latency + volume / link.bandwidth for volume in volumes)


def split_seconds(N, T, context=1536, prefill=False):
    """(all but the experts, the experts) of a step. These get rows of all GPUs, their weights are a share of all."""
    rest = experts = 0.0
    all_ops = {op: cost for op, _, cost in model.ops(T * N, context, prefill)}
    for name, count, cost in model.ops(T, context, prefill):
        if name in model.EXPERT_OPS:
            of_all = all_ops[name]
            experts += count * model.Cost(of_all.bytes / N, of_all.tensor / N, of_all.fma / N).seconds()
        else:
            rest += count * cost.seconds()
    return rest, experts


def step_seconds(N, T):
    """Without the exchange."""
    return sum(split_seconds(N, T))


def pipelined(mixer, experts, rows, results):
    """A step in halves, seconds of each: one GPU and one link, which take the halves in turns, and each half's mixer,
    rows out, experts and results back in this order, layer after layer."""
    gpu = link = 0.0
    ready = [0.0, 0.0]  # what each half waits for
    for _ in range(model.MOE_LAYERS):
        for half in (0, 1):
            gpu = max(gpu, ready[half]) + mixer
            link = max(link, gpu) + rows
            ready[half] = link
        for half in (0, 1):
            gpu = max(gpu, ready[half]) + experts
            link = max(link, gpu) + results
            ready[half] = link
    return max(gpu, *ready)


def overlap_table():
    lines = ["| GPUs | link | rows per GPU | as a whole, ms | of it exchange | in halves, ms | gained |",
             "|---" * 7 + "|"]
    steps = [(N, link, T, 1536, False) for N, link in SIZES[1:] for T in (128, 512, 1024)]
    steps += [(N, link, T, T, True) for N, link in SIZES[1:] for T in (1024, 2048)]
    for N, link, T, context, prefill in sorted(steps, key=lambda step: (step[0], step[4], step[2])):
        exchange = exchange_seconds(link, exact_bytes(N, T))
        whole = sum(split_seconds(N, T, context, prefill)) + exchange
        mixer, experts = (seconds / model.MOE_LAYERS for seconds in split_seconds(N, T // 2, context, prefill))
        rows, results = (link.latency + volume / link.bandwidth for volume in exact_bytes(N, T // 2))
        halves = pipelined(mixer, experts, rows, results)
        lines.append(f"| {N} | {link.name} | {'prefill' if prefill else 'decode'} {T:,} | {whole * 1e3:.2f} | "
                     f"{exchange / whole:.0%} | {halves * 1e3:.2f} | {whole / halves - 1:+.0%} |")
    return lines


def volume_table():
    lines = ["| GPUs | link | rows a token sends, per layer | results it gets | KB per token and step, exact |"
             " in slots | in slots for the worst case |", "|---" * 7 + "|"]
    for N, link in SIZES:
        T = SLOT_ROWS_MAX
        volumes = [exact_bytes(N, T), slot_bytes(N, T), slot_bytes(N, T, results_max)]
        lines.append(f"| {N} | {link.name} | {rows_to_others(N):.2f} | {results_of_others(N):.2f} | " +
                     " | ".join(f"{model.MOE_LAYERS * sum(volume) / T / 1e3:,.0f}" for volume in volumes) + " |")
    return lines


def step_table():
    lines = ["| GPUs | link | sequences per GPU | step without, ms | latency of 44 exchanges, ms | exact: counts, ms |"
             " bytes, ms | in slots: bytes, ms | for the worst case, ms | tokens/s per GPU, exact | in slots |"
             " replicas of one GPU each |", "|---" * 12 + "|"]
    for N, link in SIZES:
        latency, counts = 2 * model.MOE_LAYERS * link.latency, counts_seconds(link)
        for T in ROWS:
            step, alone = step_seconds(N, T), step_seconds(1, T)
            exact, slots, worst = (exchange_seconds(link, volume) - latency for volume in (
                exact_bytes(N, T), slot_bytes(N, T), slot_bytes(N, T, results_max)))
            lines.append(f"| {N} | {link.name} | {T} | {step * 1e3:.2f} | {latency * 1e3:.2f} | {counts * 1e3:.2f} | "
                         f"{exact * 1e3:.2f} | {slots * 1e3:.2f} | {worst * 1e3:.2f} | "
                         f"{T / (step + latency + counts + exact):,.0f} | {T / (step + latency + slots):,.0f} | "
                         f"{T / alone:,.0f} |")
    return lines

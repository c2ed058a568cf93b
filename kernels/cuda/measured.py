"""What a GPU took, beside the floors: tables out of the figures of `braid bench engine --device cuda --json FILE` and
`braid bench exchange --json FILE`.

Part of roofline.py, where the floors come from: they are of LFM2-8B-A1B in bfloat16 on an H100, whatever was measured.
"""
import exchange_roofline
import roofline as model

# What the engine calls the page's ops. The norm's and the gather's laps have those of the wanted rows in them.
NAMES = {
    "gather": "embed", "RMSNorm + residual": "norm", "conv in": "conv_in", "short conv": "conv",
    "conv out": "conv_out", "q, k, v": "qkv", "heads: norm, RoPE, KV": "rope", "attention": "attention",
    "attention out": "attn_out", "dense gate, up, SwiGLU": "ffn_in", "dense down": "ffn_out", "router": "router",
    "choose experts": "choose", "group rows": "group", "experts gate, up, SwiGLU": "experts_in",
    "experts down": "experts_out", "combine": "combine", "head": "head", "draw tokens": "draw",
}
WEIGHT_BYTES = 16.7e9  # of the floors' model
NOT_MEASURED = "-"


def point_of(figures, T, context, prefill):
    """The measured point of one of the page's sizes, or None."""
    for point in figures["points"]:
        if prefill and point["kind"] == "prompt" and point["prompt_tokens"] == T:
            return point
        if not prefill and point["kind"] == "decode" and (point["sequences"], point["context_tokens"]) == (T, context):
            return point
    return None


def steps_of(figures, point):
    """How many steps the size took: a long prompt is cut."""
    return -(-point["prompt_tokens"] // figures["chunk_tokens"]) if point["kind"] == "prompt" else 1


def op_seconds(figures, point):
    """By the engine's names, of all steps of the size."""
    seconds = {op["op"]: op["seconds"] * steps_of(figures, point) for op in point["ops_per_step"]}
    if "swiglu" in seconds:  # on its own in --fast steps
        seconds["ffn_in"] += seconds.pop("swiglu")
    return seconds


def step_seconds(point):
    """As served: decode as graphs."""
    rows = point["prompt_tokens"] if point["kind"] == "prompt" else point["sequences"]
    return rows / point["tokens_per_second"]


def share(floor, measured):
    return f"{floor / measured:.0%}" if measured > 0 else NOT_MEASURED


def op_table(figures):
    lines = ["| op, us per launch: floor, measured, share | " + " | ".join(name for name, *_ in model.SIZES) + " |",
             "|---" * (len(model.SIZES) + 1) + "|"]
    columns = []
    for _, *size in model.SIZES:
        point = point_of(figures, *size)
        columns.append((model.ops(*size), None if point is None else op_seconds(figures, point)))
    for i, (name, count, _) in enumerate(columns[0][0]):
        cells = []
        for table, seconds in columns:
            floor, measured = table[i][2].seconds(), (seconds or {}).get(NAMES.get(name))
            cells.append(NOT_MEASURED if measured is None else
                         f"{model.micro(floor)}, {model.micro(measured / count)}, {share(floor, measured / count)}")
        lines.append(f"| {name} x {count} | " + " | ".join(cells) + " |")
    return lines


def step_table(figures):
    lines = ["| step | floor, ms | sum of ops, ms | launch by launch, ms | as a graph, ms | tokens/s |"
             " share of the floor | operations of the graph |", "|---" * 8 + "|"]
    for name, *size in model.SIZES:
        point = point_of(figures, *size)
        floor = sum(count * cost.seconds() for _, count, cost in model.ops(*size))
        if point is None:
            lines.append(f"| {name} | {floor * 1e3:.2f} |" + f" {NOT_MEASURED} |" * 6)
            continue
        step, ops = step_seconds(point), sum(op_seconds(figures, point).values())
        plain = point.get("plain_step_seconds", 0) * steps_of(figures, point)
        graph = point.get("graph_launches", 0)
        lines.append(f"| {name} | {floor * 1e3:.2f} | {ops * 1e3:.2f} | {plain * 1e3:.2f} | "
                     f"{f'{step * 1e3:.2f}' if graph else NOT_MEASURED} | {point['tokens_per_second']:,.0f} | "
                     f"{share(floor, step)} | {graph or NOT_MEASURED} |")
    return lines


def exchange_slots(N):
    """(rows, what, bytes) of the slots that steps of the page's sizes send to each other GPU, in one layer."""
    for T in exchange_roofline.ROWS:
        out, back = (volume / (N - 1) for volume in exchange_roofline.slot_bytes(N, T))
        yield T, "rows", round(out)
        yield T, "results", round(back)


def exchange_table(figures):
    N = figures["gpus"]
    link = exchange_roofline.INFINIBAND if N > 8 else exchange_roofline.NVLINK
    lines = ["| rows of a GPU | what | bytes to each | reckoned, us | measured, us | in a graph, us | GB/s out |",
             "|---" * 7 + "|"]
    measured = {of["slot_bytes"]: of for of in figures["all_to_alls"]}
    for T, what, size in exchange_slots(N):
        reckoned = link.latency + (N - 1) * size / link.bandwidth
        of = measured.get(size)
        cells = [NOT_MEASURED] * 3 if of is None else [
            model.micro(of["plain_seconds"]), model.micro(of["graph_seconds"]), f"{of['bytes_per_second'] / 1e9:.0f}"]
        lines.append(f"| {T} | {what} | {size:,} | {model.micro(reckoned)} | " + " | ".join(cells) + " |")
    return lines


def caution(figures):
    """What a reader must know before comparing, or ''."""
    words = []
    if not 0.9 < figures["weight_bytes"] / WEIGHT_BYTES < 1.1:
        words.append(f"the model measured has {figures['weight_bytes'] / 1e9:.1f} GB of weights, the floors' has "
                     f"{WEIGHT_BYTES / 1e9:.1f}")
    if "H100" not in figures["device_name"]:
        words.append(f"measured on {figures['device_name']}, the floors are of an H100")
    return "; ".join(words)


def pages(engine, exchange=None):
    pages = {"measured ops": op_table(engine), "measured steps": step_table(engine)}
    if exchange is not None:
        pages["measured exchange"] = exchange_table(exchange)
    return pages

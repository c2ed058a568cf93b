"""From the figures of all rounds to the lines that are printed. Pure."""
import dataclasses
import statistics


@dataclasses.dataclass
class Line:
    name: str
    braid: float | None
    limit: float | None = None  # what the machine could do, by what was measured beside it
    share: float | None = None  # of the limit: the median over rounds, each with its own
    llama: float | None = None
    unit: str = "tokens/s"
    less_is_better: bool = False

    @property
    def ratio(self):
        """How many times better than llama.cpp."""
        if not self.braid or not self.llama:
            return None
        return self.llama / self.braid if self.less_is_better else self.braid / self.llama


def median(values):
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


def key(point):
    """As the figures of llama.cpp are called, if there are any."""
    if point["kind"] == "prompt":
        return f"prompt_{point['prompt_tokens']}"
    at = f"_at_{point['context_tokens']}" if point["context_tokens"] else ""
    return f"decode_{point['sequences']}{at}"


def name(point):
    if point["kind"] == "prompt":
        return f"prompt of {point['prompt_tokens']:,}"
    sequences = f"{point['sequences']} sequence{'s' if point['sequences'] > 1 else ''}"
    return f"decode, {sequences}" + (f" at {point['context_tokens']:,}" if point["context_tokens"] else "")


def speed_line(points, llama):
    """Of one point's measurements."""
    return Line(name(points[0]), median([p["tokens_per_second"] for p in points]),
                median([p["limit_tokens_per_second"] for p in points]), median([p["limit_share"] for p in points]),
                llama)


def context_line(points, empty):
    """One sequence with a long context, as a share of the same without one in the same round."""
    def share(which):
        return median([p[which] / empty[round][which] for round, p in points.items() if round in empty])
    return Line("  as a share of the speed at 0", share("tokens_per_second"), share("limit_tokens_per_second"),
                unit="%")


def lines(rounds):
    """`rounds`: [{"engine": what braid bench engine says, "server": {...}, "llama": {...}}], parts may be missing."""
    by_key = {}
    for number, figures in enumerate(rounds):
        for point in figures.get("engine", {}).get("points", []):
            by_key.setdefault(key(point), {})[number] = point

    def llama(figure):
        return median([figures.get("llama", {}).get(figure) for figures in rounds])

    def server(figure):
        return median([figures.get("server", {}).get(figure) for figures in rounds])

    found = []
    for point_key, points in by_key.items():
        found.append(speed_line(list(points.values()), llama(point_key)))
        first = next(iter(points.values()))
        if first["kind"] == "decode" and first["context_tokens"] and f"decode_{first['sequences']}" in by_key:
            found.append(context_line(points, by_key[f"decode_{first['sequences']}"]))
    found.append(Line("process start to first token", server("first_token_s"), llama=llama("first_token_s"),
                      unit="s", less_is_better=True))
    found.append(Line("memory beyond weights and KV", server("memory_bytes"), llama=llama("memory_bytes"),
                      unit="MB", less_is_better=True))
    return [line for line in found if line.braid is not None or line.llama is not None]


def cell(value, unit):
    if value is None:
        return "-"
    return {"tokens/s": f"{value:.1f}", "s": f"{value:.2f} s", "MB": f"{value / 1e6:.0f} MB",
            "%": f"{100 * value:.0f} %"}[unit]


def text(found):
    rows = [["", "Braid", "limit", "share of limit", "llama.cpp", "ratio"]]
    for line in found:
        rows.append([line.name, cell(line.braid, line.unit), cell(line.limit, line.unit),
                     "-" if line.share is None else f"{100 * line.share:.0f} %", cell(line.llama, line.unit),
                     "-" if line.ratio is None else f"{line.ratio:.1f} x"])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(word.ljust(width) if i == 0 else word.rjust(width)
                                       for i, (word, width) in enumerate(zip(row, widths))) + " |" for row in rows)

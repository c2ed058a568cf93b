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


def name(key):
    kind, count, *context = key.replace("_at", "").split("_")
    if kind == "prompt":
        return f"prompt of {int(count):,}"
    return f"decode, {count} sequence{'' if count == '1' else 's'}" + (f" at {int(context[0]):,}" if context else "")


def speed_line(key, points, llama):
    """Of one point's measurements."""
    return Line(name(key), *[median([point[which] for point in points]) for which in
                             ("tokens_per_second", "limit_tokens_per_second", "limit_share")], llama)


def context_line(points, empty):
    """One sequence with a long context, as a share of the same without one in the same round."""
    def share(which):
        return median([p[which] / empty[round][which] for round, p in points.items() if round in empty])
    return Line("  as a share of the speed at 0", share("tokens_per_second"), share("limit_tokens_per_second"),
                unit="%")


def lines(rounds):
    """`rounds`: [{"engine": what braid bench engine says, "server": {...}, "llama": {...}}], parts may be missing."""
    def median_of(part, figure):
        return median([figures.get(part, {}).get(figure) for figures in rounds])

    by_key = {}
    for number, figures in enumerate(rounds):
        for point in figures.get("engine", {}).get("points", []):
            by_key.setdefault(key(point), {})[number] = point
        for figure in figures.get("llama", {}):
            if figure.startswith(("prompt_", "decode_")):
                by_key.setdefault(figure, {})  # also what was not asked of Braid

    found = []
    for point_key, points in by_key.items():
        found.append(speed_line(point_key, list(points.values()), median_of("llama", point_key)))
        without = by_key.get(point_key.split("_at_")[0])
        if "_at_" in point_key and without:
            found.append(context_line(points, without))
    for label, figure, unit in [("process start to first token", "first_token_s", "s"),
                                ("memory beyond weights and KV", "memory_bytes", "MB")]:
        found.append(Line(label, median_of("server", figure), llama=median_of("llama", figure), unit=unit,
                          less_is_better=True))
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

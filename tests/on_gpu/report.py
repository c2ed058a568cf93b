"""The file that `./run bench gpu` writes: what was checked and measured on which machine. Pure."""
import dataclasses
import os
import sys

from cluster import ROOT

sys.path.insert(0, str(ROOT / "kernels/cuda"))
import measured  # noqa: E402

OUTPUT_LINES = 200  # of what failed


@dataclasses.dataclass(frozen=True)
class Part:
    name: str
    command: str
    returncode: int
    seconds: float
    output: str

    @property
    def passed(self):
        return self.returncode == 0


def slot_sizes(gpus):
    """What the exchange is measured with: the slots of the page, and small ones for its latency."""
    return sorted({4096, 65536} | {size for _, _, size in measured.exchange_slots(gpus)})


def relative(path):
    return os.path.relpath(path, ROOT)


@dataclasses.dataclass(frozen=True)
class Report:
    machine: dict
    parts: list
    figures: dict = dataclasses.field(default_factory=dict)  # by part: (figures or None, their file)

    def summary(self):
        failed = [part.name for part in self.parts if not part.passed]
        return f"failed: {', '.join(failed)}" if failed else f"{len(self.parts)} parts passed"

    def text(self):
        return "\n\n".join(["# Braid on a GPU", self.machine_text(), "## Parts", self.parts_text(),
                            *self.failures(), *self.tables()]) + "\n"

    def machine_text(self):
        return "\n".join(f"* {name}: {text}" if "\n" not in text else f"* {name}:\n\n```\n{text}\n```\n"
                         for name, text in self.machine.items())

    def parts_text(self):
        lines = ["| part | result | seconds | command |", "|---|---|---|---|"]
        for part in self.parts:
            result = "passed" if part.passed else f"**failed** ({part.returncode})"
            lines.append(f"| {part.name} | {result} | {part.seconds:.0f} | `{part.command}` |")
        return "\n".join(lines)

    def failures(self):
        for part in self.parts:
            if not part.passed:
                end = "\n".join(part.output.splitlines()[-OUTPUT_LINES:])
                yield f"## What failed: {part.name}\n\n```\n{end}\n```"

    def tables(self):
        engine, engine_file = self.figures.get("engine", (None, None))
        exchange, exchange_file = self.figures.get("exchange", (None, None))
        if engine is not None:
            yield "## The engine"
            if caution := measured.caution(engine):
                yield f"Not of the same kind: {caution}."
            yield "Microseconds; the floors and the names are those of `kernels/cuda/README.md`."
            yield from ("\n".join(table) for table in measured.pages(engine).values())
            yield self.output_of("engine")
        if exchange is not None:
            yield "## The exchange"
            yield "\n".join(measured.exchange_table(exchange))
            yield self.output_of("exchange")
        if engine is not None:
            files = " ".join(relative(file) for file in (engine_file, exchange_file) if file)
            yield f"To have these tables on the page: `kernels/cuda/roofline.py --measured {files} --update`"

    def output_of(self, name):
        output = next(part.output for part in self.parts if part.name == name)
        return f"```\n{output.strip()}\n```"

"""Tables: for the terminal by rich, for the pages in docs/ as Markdown. Both come from the same rows."""

# ruff: noqa: RUF001 - the multiplication sign is meant
from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench import paper
from bench.roofline import plural
from bench.workloads import WORKLOADS, elements

Row = dict[str, Any]
Results = dict[str, Any]
NUMPY = ("NumPy naive", "NumPy out=", "NumPy twin")
NUMBA = ("numba", "numba parallel")


# ----------------------------------------------------------------------------------------------------- rows and numbers


def number(x: float | None) -> str:
    """Three digits, thousands apart."""
    if x is None or x != x:
        return "–"
    if x == 0:
        return "0"
    digits = max(0, 2 - int(f"{abs(x):e}".split("e")[1]))
    return f"{x:,.{digits}f}"


def longest(words: Iterable[str]) -> int:
    return max(map(len, words), default=0)


NAMES = {  # of workloads
    "1e6": "1 million",
    "1e7": "10 million",
    "1e8": "100 million",
    "1e9": "1 billion",
    "mlp": "small network",
    "thousand-small": "1,000 × 64",
    "resnet50": "ResNet-50",
    "gpt2-small": "GPT-2 small",
}


def label(workload: str) -> str:
    """What people call a workload: the number of its parameters, or a model."""
    return NAMES.get(workload) or (f"{elements(workload):,}" if workload in WORKLOADS else workload)


def select(results: Results, **labels: Any) -> dict[str, Row]:
    """Contender -> row, of the steps with these labels."""
    rows = results.get("steps", [])
    return {row["contender"]: row for row in rows if all(row[key] == value for key, value in labels.items())}


def fastest(rows: dict[str, Row], wanted: Callable[[Row], bool]) -> Row | None:
    return min((row for row in rows.values() if wanted(row)), key=itemgetter("x_fastopt"), default=None)


def most_threads(results: Results) -> int:
    return max((row["threads"] for row in results.get("steps", [])), default=1)


def adam(results: Results) -> dict[str, dict[str, Row]]:
    """Workload -> contender -> row, of Adam in float32 with all threads."""
    workloads = dict.fromkeys(row["workload"] for row in results.get("steps", []))
    labels = {"case": "adam", "dtype": "float32", "threads": most_threads(results)}
    found = {workload: select(results, workload=workload, **labels) for workload in workloads}
    return {workload: rows for workload, rows in found.items() if "fastopt" in rows}


# --------------------------------------------------------------------------------------------------------------- tables


@dataclass
class Sheet:
    """A table: the first column is text, the others are numbers."""

    title: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)
    note: str = ""
    wide: int = 8  # columns of numbers in a page

    def widths(self, width: int) -> list[int]:
        """Of each column, where the whole has so many characters: the widest wraps between words if that is enough."""
        columns = list(zip(self.columns, *self.rows, strict=True))
        words = [longest(" ".join(column).split()) for column in columns]
        found = [max(longest(title.split()), longest(cells)) for title, *cells in columns]  # titles may always wrap
        widest = found.index(max(found))
        room = width - sum(found) - 2 * (len(found) - 1) + found[widest]
        if words[widest] <= room < found[widest]:
            found[widest] = room
        return found

    def rich(self, width: int) -> Iterator[Table]:
        """As many tables as it takes to fit into so many characters, each with the first column."""
        widths = self.widths(width)
        parts, used = [[0]], widths[0]
        for i, w in enumerate(widths[1:], start=1):
            if used + w + 2 > width and len(parts[-1]) > 1:
                parts.append([0])
                used = widths[0]
            parts[-1].append(i)
            used += w + 2
        for part in parts:
            table = Table(title=self.title, caption=self.note if part is parts[-1] else None, title_justify="left")
            table.caption_justify, table.box = "left", SIMPLE_HEAD
            table.show_edge, table.pad_edge, table.padding = False, False, (0, 1, 0, 0)
            for i in part:
                numbers = all(row[i][:1] in "–0123456789" for row in self.rows)
                table.add_column(self.columns[i], justify="right" if numbers and i else "left", width=widths[i])
            for row in self.rows:
                table.add_row(*(row[i] for i in part))
            yield table

    def markdown(self) -> str:
        """The title and as many tables as it takes not to be too wide, each with the first column."""
        parts = []
        for begin in range(1, len(self.columns), self.wide):
            chosen = [0, *range(begin, min(begin + self.wide, len(self.columns)))]
            lines = [self.columns, [":--"] + ["--:"] * (len(self.columns) - 1)]
            lines += [row for row in self.rows if any(row[i] != "–" for i in chosen[1:])]
            cells = ([line[i].replace("|", "\\|") for i in chosen] for line in lines)
            parts.append("\n".join("| " + " | ".join(line) + " |" for line in cells))
        return "\n\n".join(filter(None, [f"*{self.title}*", *parts, self.note]))


def pivot(title: str, rows: list[Row], down: Callable[[Row], str], across: Callable[[Row], str]) -> Sheet:
    """The times: a line for each value of `down`, a column for each of `across`."""
    columns = dict.fromkeys(map(across, rows))
    cells = {(down(row), across(row)): number(row["us"]) for row in rows}
    lines = [[name, *(cells.get((name, column), "–") for column in columns)] for name in dict.fromkeys(map(down, rows))]
    return Sheet(title, ["", *columns], lines)


def of_workload(row: Row) -> str:
    return label(row["workload"])


# What the README compares, by who is meant: the best of a package's forms.
README = ["1e3", "1e6", "1e7", "1e8", "mlp", "resnet50", "gpt2-small"]
PACKAGES = {
    "torch": ("torch",),
    "optax": ("JAX + optax",),
    "Keras": ("keras", "Keras"),
    "scikit-learn": ("scikit-learn", "sklearn"),
    "NumPy by hand": ("NumPy naive", "NumPy out="),
}


def readme(results: Results) -> Sheet:
    """Few lines, for the README."""
    sheet = Sheet(
        "Time of one Adam step in float32", ["parameters", "fastopt (µs)", *(f"{who} (×)" for who in PACKAGES)]
    )
    sheet.note = (
        "×: how many times as long as fastopt the best form of each takes. The small network has layers of 784, 256, "
        "256 and 10 units, ResNet-50 has 26 million parameters, GPT-2 small 124 million."
    )
    for workload, rows in adam(results).items():
        if workload not in README:
            continue
        line = [label(workload), number(rows["fastopt"]["us"])]
        for forms in PACKAGES.values():
            row = fastest(rows, lambda row, forms=forms: row["contender"].startswith(forms))
            line.append(number(row and row["x_fastopt"]))
        sheet.rows.append(line)
    return sheet


def speed(results: Results) -> Sheet:
    columns = ["parameters", "fastopt (µs)", "roof (µs)", "× roof", "best package", "its ×", "numba's ×", "NumPy's ×"]
    sheet = Sheet(f"Adam, float32, {plural(most_threads(results))}: time of a step", columns)
    sheet.note = "Its ×, numba's, NumPy's: how many times as long as fastopt's step theirs takes, the best of each."

    def times(row: Row | None) -> str:
        return number(row and row["x_fastopt"])

    for workload, rows in adam(results).items():
        mine, roof = rows["fastopt"], rows.get("roof")
        package = fastest(rows, itemgetter("packaged"))
        numba = fastest(rows, lambda row: row["contender"] in NUMBA)
        numpy = fastest(rows, lambda row: row["contender"] in NUMPY)
        line = [label(workload), number(mine["us"]), number(roof and roof["us"]), number(mine["x_roof"])]
        line += [package["contender"] if package else "–", times(package), times(numba), times(numpy)]
        sheet.rows.append(line)
    return sheet


def everybody(results: Results) -> Sheet:
    """Adam, float32, all threads: everybody at every workload."""
    rows = [row for found in adam(results).values() for row in found.values()]
    dialects = dict.fromkeys(row["formula"] for row in rows if paper.DIALECTS.get(row["formula"]))
    signs = dict(zip(dialects, "¹²³⁴", strict=False))
    title = "Adam, float32, everybody: microseconds a step"
    sheet = pivot(title, rows, lambda row: row["contender"] + signs.get(row["formula"], ""), of_workload)
    sheet.note = " ".join(f"{sign} Another formula: {paper.DIALECTS[name]}." for name, sign in signs.items())
    return sheet


def units(results: Results) -> Sheet:
    """fastopt in every unit, beside the fastest of all others."""
    columns = ["step", "time (µs)", "± (%)", "traffic (GB/s)", "× roof", "best other", "its ×"]
    sheet = Sheet("fastopt, every rule and type", columns)
    sheet.note = "±: half of what lies between the quartiles. Its ×: how many times as long as fastopt's step it takes."
    for row in results.get("steps", []):
        if row["contender"] != "fastopt":
            continue
        labels = {key: row[key] for key in ("case", "dtype", "workload", "threads")}
        rival = fastest(select(results, **labels), lambda row: row["contender"] not in ("fastopt", "roof"))
        name = f"{row['case']} {row['dtype']}, {label(row['workload'])}" + ", 1 thread" * (row["threads"] == 1)
        line = [name, number(row["us"]), f"{50 * (row['q3'] - row['q1']) / row['us']:.0f}"]
        line += [number(row["gb_per_s"]), number(row["x_roof"])]
        line += [rival["contender"] if rival else "–", number(rival and rival["x_fastopt"])]
        sheet.rows.append(line)
    return sheet


def classes(results: Results) -> Sheet:
    """A line a class, with most threads: how many times the roof's time its step takes, and theirs its own."""
    all_rows = results.get("classes", [])
    threads = max((row["threads"] for row in all_rows), default=1)
    rows: dict[str, dict[str, dict[str, Row]]] = {}
    for row in (row for row in all_rows if row["threads"] == threads):
        rows.setdefault(row["optimizer"], {}).setdefault(row["workload"], {})[row["contender"]] = row
    workloads = dict.fromkeys(row["workload"] for row in all_rows)
    columns = ["optimizer", "state (bytes)"]
    for workload in workloads:
        columns += [f"{label(workload)}: × roof", "NumPy twin's ×", "torch's ×", "optax's ×"]
    sheet = Sheet(f"Every optimizer, float32, {plural(threads)}: time of a step over others", columns, wide=5)
    sheet.note = (
        "State: bytes for each parameter. Twin's, torch's, optax's ×: how many times as long as fastopt's step theirs "
        "takes (of torch, the best form). ¹ Another formula than fastopt's. ² Two passes, ³ three, and so has the roof."
    )
    for name, found in rows.items():
        mine = next(iter(found.values()))["fastopt"]
        line = [name + {2: "²", 3: "³"}.get(mine["passes"], ""), number(mine["state_bytes"])]
        for workload in workloads:
            here = found.get(workload, {})
            line.append(number(here["fastopt"]["x_roof"]) if here else "–")
            for of in ("NumPy twin", "torch", "JAX + optax"):
                row = fastest(here, lambda row, of=of: row["contender"].startswith(of))
                line.append(number(row and row["x_fastopt"]) + "¹" * bool(row and row["formula"] == paper.OTHER))
        sheet.rows.append(line)
    return sheet


def loop(results: Results) -> Sheet:
    title = "Training loop in NumPy, BLAS threads on: microseconds an iteration"
    return pivot(title, results.get("loop", []), itemgetter("contender"), itemgetter("model"))


def by_condition(title: str, rows: list[Row]) -> Sheet:
    """A line a condition and contender, with the workloads of all conditions from small to large."""
    sheet = pivot(title, rows, lambda row: f"{row['condition']}: {row['contender']}", of_workload)
    sizes = {label(row["workload"]): elements(row["workload"]) for row in rows}
    order = [0, *(sheet.columns.index(name) for name in sorted(sizes, key=sizes.__getitem__))]
    lines = [[line[i] for i in order] for line in [sheet.columns, *sheet.rows]]
    return Sheet(title, lines[0], lines[1:])


def first_steps(results: Results) -> Sheet:
    return by_condition("First steps of Adam, float32: microseconds", results.get("first-steps", []))


def conditions(results: Results) -> Sheet:
    return by_condition("Other conditions, Adam: microseconds a step", results.get("conditions", []))


def rows(results: Results) -> Sheet:
    """Steps that name some rows of a table, by the table's rows."""
    found = results.get("rows", [])
    tables = dict.fromkeys(row["rows"] for row in found)
    columns = [""]
    for size in tables:
        columns += [f"{size:,} rows: µs", "its ×"]
    named = max((row["named"] for row in found), default=0)
    sheet = Sheet(f"Adam, float32, 1 thread: a step that names {named:,} rows of 64 elements", columns)
    sheet.note = "Its ×: how many times as long as fastopt's step with Rows it takes."
    for contender in dict.fromkeys(row["contender"] for row in found):
        times = {row["rows"]: row for row in found if row["contender"] == contender}
        line = [contender]
        for size in tables:
            row = times.get(size)
            line += [number(row and row["us"]), number(row and row["x_fastopt"])]
        sheet.rows.append(line)
    return sheet


def instructions(results: Results) -> Sheet:
    rows = results.get("instructions", [])
    lines = [[r["step"], f"{r['instructions']:,}", number(r["stored"]), number(r["ratio"])] for r in rows]
    return Sheet("Instructions a step (callgrind, AVX2, one thread)", ["step", "counted", "stored", "ratio"], lines)


def skipped(results: Results) -> Sheet:
    lines = [
        [peer, reason, str(len(cells))]
        for peer, reasons in results.get("skipped", {}).items()
        for reason, cells in reasons.items()
    ]
    return Sheet("Not measured, and why", ["peer", "reason", "times"], lines)


def machine(results: Results) -> Iterator[str]:
    about = results["machine"]
    for key, value in about.items():
        yield f"{key}: {', '.join(f'{k} {v}' for k, v in value.items()) if isinstance(value, dict) else value}"
    for part, load in results.get("load", {}).items():
        yield f"{part}: took {load['seconds']:.0f} s, others meanwhile kept {load['others_cores']:.2f} cores busy"


SHEETS = (readme, speed, everybody, classes, units, loop, first_steps, conditions, rows, skipped)


def print_sheet(sheet: Sheet, console: Console) -> None:
    for table in sheet.rich(console.width):
        console.print(table, "")


def show(results: Results, console: Console) -> None:
    for make in SHEETS:
        sheet = make(results)
        if sheet.rows:
            print_sheet(sheet, console)
    for line in machine(results):
        console.print(line, highlight=False, markup=False)


BLOCK = re.compile(r"(<!-- bench:(\S+) -->\n).*?(?=<!-- /bench -->)", re.DOTALL)


def fill(page: str, results: Results) -> str:
    """The text of a page with new tables between its marks `<!-- bench:NAME -->` and `<!-- /bench -->`.

    A block of which there are no results stays as it is.
    """
    sheets = {make.__name__: make(results) for make in SHEETS}
    blocks = {name: sheet.markdown() for name, sheet in sheets.items() if sheet.rows}
    blocks["machine"] = "\n".join(f"- {line}" for line in machine(results))

    def block(match: re.Match[str]) -> str:
        return f"{match[1]}{blocks[match[2]]}\n" if match[2] in blocks else match[0]

    return BLOCK.sub(block, page)

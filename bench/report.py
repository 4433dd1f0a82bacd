"""Tables: for the terminal by rich, for the pages in docs/ as Markdown. Both come from the same rows."""

# ruff: noqa: RUF001 - the multiplication sign is meant
from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import paper, targets
from bench.targets import Results, Verdict, number


@dataclass
class Sheet:
    """A table: the first column is text, the others are numbers."""

    title: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)
    note: str = ""

    def rich(self) -> Table:
        table = Table(title=self.title, caption=self.note or None, title_justify="left", caption_justify="left")
        for i, column in enumerate(self.columns):
            table.add_column(column, justify="right" if i else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        lines = [self.columns, [":--"] + ["--:"] * (len(self.columns) - 1), *self.rows]
        body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        return body + (f"\n\n{self.note}" if self.note else "")


def mark(verdict: Verdict | None) -> str:
    if verdict is None or verdict.met is None:
        return ""
    return "met" if verdict.met else "MISSED (met as a ratio)" if verdict.by_ratio else "MISSED"


def label(workload: str) -> str:
    """10^6 for 1e6."""
    return re.sub(r"^1e(\d+)$", r"10^\1", workload)


def headline(results: Results) -> Sheet:
    threads = max((row["threads"] for row in results.get("steps", [])), default=1)
    sheet = Sheet(
        f"Adam, float32, {threads} threads: µs a step",
        [
            "workload",
            "best packaged peer",
            "numba",
            "best NumPy",
            "roof",
            "fastopt",
            "× roof",
            "target",
            "measured",
            "",
        ],
    )
    for workload, line in targets.headline(results):
        verdict = line["verdict"]
        packaged, numba, numpy = (line[key] for key in ("packaged", "numba", "numpy"))
        sheet.rows.append(
            [
                label(workload),
                f"{packaged['contender']} {number(packaged['us'])}" if packaged else "–",
                number(numba and numba["us"]),
                number(numpy and numpy["us"]),
                number(line["roof"]),
                number(line["fastopt"]),
                number(line["x_roof"]),
                verdict.target if verdict else "",
                verdict.measured if verdict else "",
                mark(verdict),
            ]
        )
    return sheet


def speed(results: Results) -> Sheet:
    """The headline for readers, who have set no targets."""
    sheet = headline(results)
    return Sheet(sheet.title, sheet.columns[:-3], [row[:-3] for row in sheet.rows])


def promises(results: Results) -> Sheet:
    rows = [[v.what, v.target, v.measured, mark(v)] for v in targets.verdicts(results)]
    return Sheet("Promises: target beside measured", ["promise", "target", "measured", ""], rows)


def everybody(results: Results) -> Sheet:
    """Adam, float32, all threads: everybody at every workload."""
    threads = max((row["threads"] for row in results.get("steps", [])), default=1)
    workloads = [workload for workload, _ in targets.headline(results)]
    found = {w: targets.select(results, case="adam", dtype="float32", workload=w, threads=threads) for w in workloads}
    sheet = Sheet("Adam, float32, everybody: µs a step", ["", *map(label, workloads)])
    notes: dict[str, str] = {}  # dialect -> its sign
    for name in dict.fromkeys(name for rows in found.values() for name in rows):
        dialect = next(rows[name]["formula"] for rows in found.values() if name in rows)
        sign = notes.setdefault(dialect, "¹²³⁴"[len(notes)]) if paper.DIALECTS.get(dialect) else ""
        times = [number(rows[name]["us"]) if name in rows else "–" for rows in found.values()]
        sheet.rows.append([name + sign, *times])
    sheet.note = " ".join(f"{sign} Another formula: {paper.DIALECTS[dialect]}." for dialect, sign in notes.items())
    return sheet


def units(results: Results) -> Sheet:
    """fastopt in every unit, beside the fastest of all others."""
    sheet = Sheet(
        "fastopt in every unit",
        [
            "rule",
            "type",
            "workload",
            "threads",
            "µs (quartiles)",
            "ns/parameter",
            "GB/s",
            "× roof",
            "best other",
            "it takes",
        ],
    )
    for row in results.get("steps", []):
        if row["contender"] != "fastopt":
            continue
        labels = {key: row[key] for key in ("case", "dtype", "workload", "threads")}
        rival = targets.best(targets.select(results, **labels), lambda name, _: name not in ("fastopt", "roof"))
        sheet.rows.append(
            [
                row["case"],
                row["dtype"],
                label(row["workload"]),
                str(row["threads"]),
                f"{number(row['us'])} ({number(row['q1'])} – {number(row['q3'])})",
                number(row["ns_per_parameter"]),
                number(row["gb_per_s"]),
                number(row["x_roof"]),
                rival["contender"] if rival else "–",
                f"{number(rival['x_fastopt'])} ×" if rival else "–",
            ]
        )
    return sheet


def loop(results: Results) -> Sheet:
    rows = results.get("loop", [])
    models = list(dict.fromkeys(row["model"] for row in rows))
    times = {(row["contender"], row["model"]): row["us"] for row in rows}
    names = dict.fromkeys(row["contender"] for row in rows)
    lines = [[name, *(number(times[name, model]) for model in models)] for name in names]
    return Sheet("Training loop in NumPy, BLAS threads on: µs an iteration", ["step by", *models], lines)


def conditions(results: Results) -> Sheet:
    lines = [
        [f"{row['condition']}: {row['contender']}", label(row["workload"]), number(row["us"])]
        for row in results.get("conditions", [])
    ]
    return Sheet("Other conditions, Adam: µs a step", ["condition", "workload", "µs"], lines)


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


SHEETS = (headline, speed, promises, everybody, units, loop, conditions, instructions, skipped)


def show(results: Results, console: Console) -> None:
    for make in SHEETS:
        sheet = make(results)
        if sheet.rows:
            console.print(sheet.rich(), "")
    for line in machine(results):
        console.print(line, highlight=False, markup=False)


# ------------------------------------------------------------------------------------------------------------- pages

CAPTIONS = {
    "throughput": "Throughput of an Adam step against the number of parameters, with the machine's roof",
    "speedup": "How many times faster fastopt's step is than each peer's",
    "small-tensors": "Time of a step over many small tensors",
    "scaling": "Throughput with one thread and more, with the roof of each",
    "iteration": "Time of a training iteration by who takes the step",
}
BLOCK = re.compile(r"(<!-- bench:(\S+) -->\n).*?(<!-- /bench -->)", re.DOTALL)


def fill(page: Path, results: Results, pictures: Path) -> int:
    """Put results between the marks `<!-- bench:NAME -->` and `<!-- /bench -->` of a page; NAME: a sheet or a picture.

    Pictures are copied to images/ beside the page, or to docs/images/ for a page at the top of the repository.
    """
    sheets = {make.__name__: make for make in SHEETS}
    folder = Path("docs/images") if (page.parent / "docs").is_dir() else Path("images")
    done = 0

    def block(match: re.Match[str]) -> str:
        nonlocal done
        begin, name, end = match.groups()
        if name == "machine":
            body = "\n".join(f"- {line}" for line in machine(results))
        elif name in sheets:
            body = sheets[name](results).markdown()
        elif name in CAPTIONS:
            target = page.parent / folder / f"bench-{name}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(pictures / f"{name}.png", target)
            body = f"![{CAPTIONS[name]}]({folder.as_posix()}/{target.name})"
        else:
            known = ", ".join([*sheets, *CAPTIONS, "machine"])
            raise ValueError(f"{page.name}: nothing is called {name!r}; there are {known}")
        done += 1
        return f"{begin}{body}\n{end}"

    page.write_text(BLOCK.sub(block, page.read_text()))
    return done

"""``python -m bench.compare A.json B.json``: two runs as ratios, B's time over A's; above 1, B is slower."""

# ruff: noqa: RUF001 - the multiplication sign is meant
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from bench.report import Sheet, label, number, print_sheet

PARTS = ("steps", "classes", "scaling", "loop", "first-steps", "conditions")
LABELS = ("condition", "case", "dtype", "workload", "model", "contender", "threads")
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def rows(path: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Everything that was timed, by its part and labels."""
    found = json.loads(path.read_text())
    return {(part, *(row.get(key) for key in LABELS)): row for part in PARTS for row in found.get(part, [])}


def compare(a: Path, b: Path, contender: str, against_roof: bool) -> Sheet:
    """One line a cell that both runs have. `against_roof` compares multiples of each run's roof: for two machines."""
    first, second = rows(a), rows(b)
    what, unit = ("x_roof", "× roof") if against_roof else ("us", "µs")
    sheet = Sheet(f"B over A; A: {a}, B: {b}", ["cell", f"A ({unit})", f"B ({unit})", "ratio", "sure"])
    for cell in first.keys() & second.keys():
        x, y = first[cell], second[cell]
        if contender not in ("all", x["contender"]) or x.get(what) is None or y.get(what) is None:
            continue
        # sure: the halves in the middle of the two do not overlap
        sure = "yes" if x["q1"] > y["q3"] or x["q3"] < y["q1"] else "no"
        ratio = f"{y[what] / x[what]:.2f}"
        name = " ".join([cell[0], *(label(str(x[key])) for key in LABELS if key in x)])
        sheet.rows.append([name, number(x[what]), number(y[what]), ratio, sure])
    sheet.rows.sort(key=lambda row: float(row[3]))
    return sheet


@click.command()
@click.argument("a", type=FILE)
@click.argument("b", type=FILE)
@click.option("--contender", default="fastopt", show_default=True, help="Whose times to compare; all: everybody's.")
@click.option("--against-roof", is_flag=True, help="Compare multiples of each run's roof, not times.")
def main(a: Path, b: Path, contender: str, against_roof: bool) -> None:
    """Compare two runs as ratios, B over A: above 1, B is slower."""
    print_sheet(compare(a, b, contender, against_roof), Console())


if __name__ == "__main__":
    main()

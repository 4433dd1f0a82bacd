"""``python -m bench.compare A.json B.json``: two runs as ratios, B's time over A's; above 1, B is slower."""

# ruff: noqa: RUF001 - the multiplication sign is meant
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from bench.report import Sheet, label
from bench.targets import number

KEYS = ("case", "dtype", "workload", "threads", "contender")


def rows(path: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    return {tuple(row[key] for key in KEYS): row for row in json.loads(path.read_text())["steps"]}


def compare(a: Path, b: Path, contender: str, against_roof: bool) -> Sheet:
    """One line a cell that both runs have. `against_roof` compares multiples of each run's roof: for two machines."""
    first, second = rows(a), rows(b)
    what = "x_roof" if against_roof else "us"
    unit = "× roof" if against_roof else "µs"
    sheet = Sheet(f"B over A; A: {a}, B: {b}", ["cell", f"A ({unit})", f"B ({unit})", "ratio", "sure"])
    for cell in first.keys() & second.keys():
        x, y = first[cell], second[cell]
        if not (cell[-1] == contender or contender == "all") or x[what] is None or y[what] is None:
            continue
        # sure: the halves in the middle of the two do not overlap
        sure = "yes" if x["q1"] > y["q3"] or x["q3"] < y["q1"] else "no"
        name = " ".join([*cell[:2], label(cell[2]), f"{cell[3]} threads", *cell[4:]])
        sheet.rows.append([name, number(x[what]), number(y[what]), f"{y[what] / x[what]:.2f}", sure])
    sheet.rows.sort(key=lambda row: float(row[3]))
    return sheet


@click.command()
@click.argument("a", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("b", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--contender", default="fastopt", show_default=True, help="Whose times to compare; all: everybody's.")
@click.option("--against-roof", is_flag=True, help="Compare multiples of each run's roof, not times.")
def main(a: Path, b: Path, contender: str, against_roof: bool) -> None:
    """Compare two runs as ratios, B over A: above 1, B is slower."""
    Console().print(compare(a, b, contender, against_roof).rich())


if __name__ == "__main__":
    main()

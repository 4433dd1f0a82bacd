"""Formulas as MathML, which browsers draw themselves: no script, and no network.

latex2mathml does the work, but for the environments `aligned` and `align`, which it does not have: they become a table.
"""

from __future__ import annotations

import re
from typing import Any

from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

ROOT = re.compile(r"^<math[^>]*>(.*)</math>$", re.DOTALL)
ALIGNED = re.compile(r"\\begin\{(aligned|align\*?|split)\}(.*)\\end\{\1\}", re.DOTALL)


def _row(latex: str) -> str:
    """What stands inside <math>, of a formula without lines."""
    latex = re.sub(r"\\(Big|big|Bigg|bigg)[lr]?(?![a-z])", "", latex)
    match = ROOT.match(convert(latex.strip() or "{}"))
    inside = match[1] if match else ""
    if "<mi>\\" in inside:
        raise ExtensionError(f"a formula has what latex2mathml does not know: {latex}")
    # A word set upright is one name, not so many letters.
    letters = r'(?:<mi mathvariant="normal">\w</mi>){2,}'
    return re.sub(letters, lambda word: "<mi>" + "".join(re.findall(r">(\w)<", word[0])) + "</mi>", inside)


def _table(lines: list[str]) -> str:
    cells = [[_row(cell) for cell in line.split("&")] for line in lines]
    side = ("text-align: right; padding-right: 0", "text-align: left; padding-left: 0")
    rows = [
        "<mtr>" + "".join(f'<mtd style="{side[at % 2]}">{cell}</mtd>' for at, cell in enumerate(row)) + "</mtr>"
        for row in cells
    ]
    return f'<mtable displaystyle="true">{"".join(rows)}</mtable>'


def mathml(latex: str, display: bool) -> str:
    """A formula, in a line of text or on its own; several lines are aligned at their `&`."""
    latex = latex.strip()
    if whole := ALIGNED.fullmatch(latex):
        latex = whole[2].strip()
    # Lines of an environment inside, as of cases, are its own.
    lines = [latex] if "\\begin" in latex else re.split(r"\\\\(?:\[[^\]]*\])?", latex)
    lines = [line for line in lines if line.strip()]
    several = len(lines) > 1 or re.search(r"(?<!\\)&", lines[0])
    inside = _table(lines) if several and "\\begin" not in latex else _row(latex)
    return f'<math display="{"block" if display else "inline"}">{inside}</math>'


def _inline(self: Any, node: Any) -> None:
    from docutils import nodes

    self.body.append(mathml(node.astext(), display=False))
    raise nodes.SkipNode


def _display(self: Any, node: Any) -> None:
    from docutils import nodes

    style = "overflow-x: auto; overflow-y: hidden; margin: 1em 0"
    self.body.append(f'<div style="{style}">{mathml(node.astext(), display=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", (_inline, None), (_display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""Formulas of docstrings, which are plain text for `help()`, as LaTeX for the pages.

In `w ← w − α·m̂ / (√v̂ + ε)` factors have a dot between them, and ` / ` divides the product before it by the one factor
behind it. Two spaces or more are a gap. What the tables below do not have ends the build.
"""

from __future__ import annotations

import re
import unicodedata

GREEK = "alpha beta gamma delta varepsilon eta kappa lambda mu nu rho tau varphi psi Pi"
LETTERS = dict(zip("αβγδεηκλμνρτφψΠ∞∇…", [*GREEK.split(), "infty", "nabla", "cdots"], strict=True))
SIGNS = {"←": r"\leftarrow", "−": "-", ">": ">", "<": "<", "=": "=", "+": "+", "/": "/", ",": ","}
ROOTS = {"√": r"\sqrt", "∛": r"\sqrt[3]"}
FENCES = {"(": r"\)", "|": r"\|", "‖": "‖"}
SUBSCRIPTS, SUPERSCRIPTS = "[₀-₉₊ₛₜᵢⱼ]+", "[⁰¹²³⁴-⁹⁺⁻ᵏʳᵗ]+"
HAT = "\N{COMBINING CIRCUMFLEX ACCENT}"


class _Line:
    """A line, read from left to right."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def take(self, pattern: str) -> str:
        """What stands here, if it matches, and go behind it."""
        found = re.compile(pattern).match(self.text, self.at)
        self.at = found.end() if found else self.at
        return found[0] if found else ""

    def terms(self, end: str) -> str:
        """All up to the end, and go behind it."""
        done: list[str] = []
        product: list[str] = []
        while not re.compile(end).match(self.text, self.at):
            if self.take(" {2,}"):
                done, product = [*done, *product, r"\qquad"], []
            elif self.take(" / "):
                product = [rf"\frac{{{_bare(product)}}}{{{_bare([self.factor()])}}}"]
            elif sign := self.take(f" ?[{''.join(SIGNS)}]"):
                done, product = [*done, *product, SIGNS[sign[-1]]], []
            elif self.take("·(?=[0-9])"):
                product.append(r"\cdot")
            elif self.take("·(?=[A-Za-z]{2})"):
                product.append(r"\,")
            elif not self.take("[ ·]"):
                product.append(self.factor())
        self.take(end)
        return " ".join([*done, *product])

    def factor(self) -> str:
        """A root, what stands in parentheses, a function of it, a word, a number, or a letter."""
        if root := self.take(f"[{''.join(ROOTS)}]"):
            return f"{ROOTS[root]}{{{_bare([self.factor()])}}}"
        if self.take("Σ"):
            return rf"\sum {self.factor()}"
        if fence := self.take(f"[{''.join(FENCES)}]"):
            latex = self.terms(FENCES[fence])
            left, right = {"(": "()", "|": "||"}.get(fence, (r"\|", r"\|"))
            if fence == "|" or r"\frac" in latex:  # as high as that
                left, right = rf"\left{left}", rf"\right{right}"
            return f"{left}{latex}{right}{self.scripts()}"
        if word := self.take(r"[A-Za-z]{2,}(?=[₀-₉ᵢⱼ]*\()"):
            return rf"\mathrm{{{word}}}{self.scripts()} {self.factor()}"
        if word := self.take("[A-Za-z]{2,}( [A-Za-z]{2,})*"):
            return rf"\text{{ {word}{self.take(' (?! )')}}}"
        if number := self.take(r"\d+(\.\d+)?"):
            return number + self.scripts()
        letter = self.take(f"[A-Za-z{''.join(LETTERS)}]")
        if not letter:
            raise ValueError(
                f"a formula has {self.text[self.at :]!r}, which docs/formulas.py does not know: {self.text}"
            )
        latex = f"\\{LETTERS[letter]}" if letter in LETTERS else letter
        latex = (rf"\hat{{{latex}}}" if self.take(HAT) else latex) + self.scripts()
        return f"{latex} {self.factor()}" if self.text.startswith("(", self.at) else latex

    def scripts(self) -> str:
        """What stands behind a letter above and below the line, as small characters or after `^` and `_`."""
        latex = self.take("'+")
        if below := self.take(SUBSCRIPTS):
            latex += f"_{{{_large(below)}}}"
        elif self.take("_"):
            word = self.take("[A-Za-z]{2,}")
            latex += rf"_{{\mathrm{{{word}}}}}" if word else f"_{{{self.factor()}}}"
        if above := self.take(SUPERSCRIPTS):
            latex += f"^{{{_large(above)}}}"
        elif self.take(r"\^"):
            latex += f"^{{{_bare([self.factor()])}}}"
        return latex


def _large(small: str) -> str:
    return unicodedata.normalize("NFKC", small).replace("−", "-")


def _bare(product: list[str]) -> str:
    """A product that a bar or a root holds together, which needs no parentheses of its own."""
    latex = " ".join(product)
    inside = re.fullmatch(r"(?:\\left)?\((.*?)(?:\\right)?\)", latex) if len(product) == 1 else None
    return inside[1] if inside else latex


def aligned(lines: list[str]) -> list[str]:
    """A formula of several lines, aligned at the first arrow or equals sign of each."""
    done = []
    for line in lines:
        left, sign, right = re.split(r" +([←=]) ", line.strip(), maxsplit=1)
        done.append(rf"{_Line(left).terms('$')} &{SIGNS[sign]} {_Line(right).terms('$')}\\")
    return done


def rendered(doc: list[str]) -> list[str]:
    """A docstring whose formulas, the blocks behind `::`, are LaTeX."""

    def math(block: re.Match[str]) -> str:
        return "\n    ".join([":\n\n.. math::\n", *aligned(block[1].splitlines())]) + "\n"

    return re.sub(r"::\n\n((?:    .+\n)+)", math, "\n".join(doc)).split("\n")

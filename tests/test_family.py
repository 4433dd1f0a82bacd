"""Worked examples of each optimizer: the parameters and the state after two steps, computed by programs of their own.

`family_examples.txt` has them, for float64. A class is tested by its lines there as soon as it exists.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest
from optimizers_table import stepped

from fastopt.optimizers import OPTIMIZERS

VECTORS = [1.0, -2.0, 0.5], [[0.5, -0.25, 0.0], [-0.125, 1.0, 0.25]]
MATRICES = [[1.0, -2.0], [0.5, 3.0]], [[[0.5, -0.25], [0.125, 1.0]], [[-0.125, 1.0], [0.25, -0.5]]]
TEXT = Path(__file__).with_name("family_examples.txt").read_text()
EXAMPLES = [block.splitlines() for block in TEXT.strip().split("\n\n")]
HERE = [lines for lines in EXAMPLES if lines[0].partition("(")[0] in OPTIMIZERS]


def options_of(head):
    call = ast.parse(head.partition(" with")[0], mode="eval").body
    return {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}


def near(found, wanted):
    """To the fifteen digits that are written there, and what rounding does to numbers that differ by more."""
    return np.allclose(found, wanted, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("lines", HERE, ids=[lines[0] for lines in HERE])
def test_two_steps_are_those_of_the_example(lines, reference):
    head, *rows = lines
    cls = OPTIMIZERS[head.partition("(")[0]]
    p, grads = MATRICES if "[[" in rows[0] else VECTORS
    if "three times" in head:
        grads = [grads[0]] * 3
    w = np.array(p)
    opt = cls(w, **options_of(head))
    checked = 0
    for t, g in enumerate(grads, start=1):
        stepped(opt, np.array(g), reference)
        for row in rows:
            name, after, value = re.fullmatch(r"(\w+) after (\d): (.*)", row).groups()
            if int(after) == t:
                found = w if name == "p" else shown(opt, w, name)
                assert near(found, np.reshape(ast.literal_eval(value), np.shape(found))), row
                checked += 1
    assert checked == len(rows)


def shown(opt, w, name):
    if name == "averaged":
        with opt.averaged():
            return w.copy()
    return opt.state["params"][name]


def test_examples_are_of_classes_in_the_order_of_the_family():
    assert len(EXAMPLES) == len({lines[0] for lines in EXAMPLES})
    assert all(re.match(r"[A-Z]\w+\(lr=", lines[0]) for lines in EXAMPLES)

"""The rooms of the engine: imports run one way, and no room is too large to be read in one sitting."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "fastopt"

pytestmark = pytest.mark.skipif(not (PACKAGE / "engine/plan.pyx").exists(), reason="needs the sources beside the tests")

# Each may import what stands before it.
ORDER = [
    "hyper", "tree", "interrupts", "memory", "kernels", "numbers", "arrays", "lock", "chunks", "sweep", "factored",
    "coefficients", "rows", "leaves", "state", "groups", "plan", "lookahead", "parts", "restore",
    "dlpack",
]  # fmt: skip
ROOMS = ORDER[4:]


def imports(room):
    """The modules of this package that a room imports, other than for type checking."""
    found = set()
    for suffix in (".pyx", ".pxd"):
        source = PACKAGE / "engine" / f"{room}{suffix}"
        text = source.read_text() if source.exists() else ""
        for dots, module, names in re.findall(r"^\s*from (\.+)(\w*) c?import ([\w, ]+|\()", text, re.M):
            if module:
                found.add(module)
            else:  # from . import a, b
                found |= {name.strip() for name in names.split(",")}
            assert len(dots) <= 2
    return found - {room}  # which is its own .pxd


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_stands_before_it(room):
    assert imports(room) <= set(ORDER[: ORDER.index(room)])


def test_every_room_has_its_place_in_the_order():
    assert {path.stem for path in (PACKAGE / "engine").glob("*.pyx")} == set(ROOMS)


def test_an_arrow_the_wrong_way_would_be_noticed():
    assert "sweep" in imports("state"), "imports are not found any more"
    assert "hyper" in imports("coefficients")


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_first_which_question_it_answers(room):
    text = (PACKAGE / "engine" / f"{room}.pyx").read_text()
    assert text.startswith('"""')
    assert len(text.splitlines()) <= 550


def test_only_sweep_knows_threads():
    for room in ROOMS:
        text = (PACKAGE / "engine" / f"{room}.pyx").read_text()
        assert ("prange" in text or "omp" in re.findall(r"\bomp\b|omp\.h", text)) == (room == "sweep")


@pytest.mark.parametrize("room", ROOMS)
def test_there_is_no_list_comprehension_in_a_room(room):
    """Cython 3.3 lets go of an element twice where the list cannot grow for want of memory: append is right."""
    text = (PACKAGE / "engine" / f"{room}.pyx").read_text()
    assert not re.search(r"\[[^\]\n]*[^\]\s][^\]\n]* for \w+[^\n]* in ", re.sub(r'"[^"\n]*"|#.*', "", text))


def test_the_library_never_imports_its_command():
    for source in [*PACKAGE.glob("*.py"), *PACKAGE.glob("optimizers/*.py"), *PACKAGE.glob("engine/*.py*")]:
        if source.name != "__main__.py":
            assert not re.search(r"^\s*(from|import) .*\bcli\b", source.read_text(), re.M), source


def test_the_library_never_imports_adapters_or_what_they_are_for():
    adapters = {"mpi4py", "sklearn", "scipy", "thinc", "torch"}
    for source in [*PACKAGE.glob("*.py"), *PACKAGE.glob("optimizers/*.py"), *PACKAGE.glob("engine/*.py*")]:
        if source.stem not in adapters:
            found = re.findall(r"^(?:from|import) \.?(\w+)", source.read_text(), re.M)  # at once, not when asked
            assert not adapters & set(found), source

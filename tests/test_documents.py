"""What is written about fastopt is true: the examples in pages and docstrings run, and nothing is undocumented."""

from __future__ import annotations

import dataclasses
import doctest
import importlib.util
import inspect
import itertools
import pkgutil
import re
import runpy
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import get_origin
from unittest import mock

import numpy as np
import pytest
import test_rooms

import fastopt
from fastopt import optimizers
from fastopt.optimizers import OPTIMIZERS

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
HOW_IT_WORKS = ROOT / "docs/how_it_works.md"
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
ADAPTERS = {name: name for name in ("sklearn", "scipy", "thinc", "torch")} | {"mpi": "mpi4py"}  # what each needs
MODULES = sorted(
    m.name
    for m in pkgutil.walk_packages(fastopt.__path__, "fastopt.")
    if not m.name.startswith(("fastopt.cli", "fastopt.__"))
    and importlib.util.find_spec(ADAPTERS.get(m.name.split(".")[1], "numpy"))
)


def run(text, name, folder, monkeypatch):
    """Run the examples of a text in a folder of their own; return how many there are."""
    monkeypatch.chdir(folder)
    test = doctest.DocTestParser().get_doctest(text, {}, name, name, 0)
    report = []
    doctest.DocTestRunner(optionflags=FLAGS).run(test, out=report.append)
    assert not report, "".join(report)
    return len(test.examples)


def blocks(page, language="python"):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def test_there_is_a_readme_that_shows_how_to_use_it():
    assert README.is_file()
    text = README.read_text()
    assert text.startswith("# fastopt")
    assert "pip install" in text
    assert blocks(README), "README.md has no ```python block"
    assert any("opt.step(" in block for block in blocks(README))


def test_the_examples_in_readme_run(tmp_path, monkeypatch):
    # One after the other in one session, as a reader would type them.
    session = {}
    monkeypatch.chdir(tmp_path)
    for i, block in enumerate(blocks(README)):
        name = f"README.md, Python block {i + 1}"
        if ">>>" in block:
            test = doctest.DocTestParser().get_doctest(block, session, name, str(README), 0)
            report = []
            runner = doctest.DocTestRunner(optionflags=FLAGS)
            runner.run(test, out=report.append, clear_globs=False)
            session = test.globs
            assert not report, "".join(report)
        else:
            exec(compile(block, name, "exec"), session)
    assert session, "README.md has no example"


@pytest.mark.parametrize("page", [README, ROOT / "docs/index.md"], ids=lambda page: page.name)
def test_as_many_optimizers_are_promised_as_there_are(page):
    assert f"[{len(fastopt.optimizers.__all__) - 1} in all]" in page.read_text()


def test_as_many_optimizers_take_rows_as_the_readme_says():
    taken = 0
    for name in sorted({*fastopt.optimizers.__all__} - {"OPTIMIZERS"}):
        opt = getattr(fastopt, name)(np.ones((3, 2)))
        with opt.lookahead():
            pass
        with suppress(TypeError):
            taken += opt.step(fastopt.Rows(np.array([1]), np.ones((1, 2))))
    assert f"| sparse rows | {taken} optimizers |" in README.read_text()


@pytest.mark.parametrize("page", [README, CONTRIBUTING], ids=lambda page: page.name)
def test_the_links_lead_somewhere(page):
    # Those of the pages in docs/ are followed when the documentation is built.
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (ROOT / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_examples_in_pages_run(page, tmp_path, monkeypatch):
    if page.stem in ADAPTERS:
        needed = ADAPTERS[page.stem]
        pytest.importorskip(needed, reason=f"{needed} is not installed, which this page is about")
    monkeypatch.setattr("fastopt.threads._asked", None)  # and put back what set_num_threads() leaves there
    found = run(page.read_text(), page.name, tmp_path, monkeypatch)
    assert all(">>>" in block for block in blocks(page)), f"{page.name}: what has no >>> is not run"
    assert found > 0 or not blocks(page)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "py")], ids=lambda page: page.name)
def test_the_programs_in_pages_run(page, tmp_path, monkeypatch):
    # One after the other in one session, where the libraries are installed that they import.
    monkeypatch.chdir(tmp_path)
    program = "\n".join(blocks(page, "py"))
    for name in dict.fromkeys(re.findall(r"^(?:import|from) (\w+)", program, re.MULTILINE)):
        pytest.importorskip(name, reason=f"{name} is not installed, which this page is about")
    exec(compile(program, page.name, "exec"), {"__name__": page.stem})


@pytest.mark.parametrize("page", [README, CONTRIBUTING, *PAGES], ids=lambda page: page.name)
def test_code_that_no_test_runs_is_no_python(page):
    # Python blocks are run above, or compiled below in CONTRIBUTING; a session under another name would escape.
    for language, block in re.findall(r"^```(\S*).*\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        assert language == "python" or ">>>" not in block, f"{page.name}: {language} block\n{block}"


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.name)
def test_a_command_shown_is_one_that_there_is(page):
    pytest.importorskip("click", reason="the command is an extra: pip install 'fastopt[cli]'")
    from fastopt.cli.commands import command

    options = {name: {flag for one in sub.params for flag in (*one.opts, *one.secondary_opts)}
               for name, sub in command.commands.items()}  # fmt: skip
    for block in [*blocks(page, "console"), *blocks(page, "sh")]:
        for name, rest in re.findall(r"^(?:\$ )?fastopt (\w+)(.*)", block, re.MULTILINE):
            assert set(re.findall(r"(?<=\s)--[\w-]+", rest)) <= options[name], f"{page.name}: fastopt {name}{rest}"


def made():
    """What the docs build makes its pages by."""
    if not (ROOT / "docs/made.py").exists():
        pytest.skip("needs the documentation's sources beside the tests")
    with mock.patch.object(sys, "path", [str(ROOT / "docs"), *sys.path]):
        return importlib.import_module("made")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_page_of_an_optimizer_tells_every_parameter(name):
    cls, module = OPTIMIZERS[name], made()
    lines = module.in_full(cls)
    told = lines[lines.index("Parameters") + 2 : lines.index("Raises")]
    assert "see `Optimizer`" not in " ".join(told)
    assert "As for `" not in " ".join(told)
    headers = [line for line in told if line and not line.startswith(" ")]
    assert sorted(re.match(r"\w+", line)[0] for line in headers) == sorted(inspect.signature(cls).parameters)
    assert all(" : " in line for line in headers)
    for header, after in itertools.pairwise(told[:-1]):
        assert header.startswith(" ") or after.startswith("    "), f"{header} has no text"
    assert set(module.CHOOSE) <= set(module.CLASSES)


def test_formulas_need_no_network():
    pytest.importorskip("latex2mathml", reason="formulas are drawn by the extra docs: pip install 'fastopt[docs]'")
    pytest.importorskip("sphinx", reason="formulas are drawn by the extra docs: pip install 'fastopt[docs]'")
    source = runpy.run_path(str(ROOT / "docs/mathml.py"))
    drawn = source["mathml"](r"m &\leftarrow \beta m\\ w &\leftarrow \mathrm{sign}(m)", True)
    assert re.fullmatch(
        r'<math display="block"><mtable[^>]*>(<mtr>(<mtd[^>]*>.*?</mtd>){2}</mtr>){2}</mtable></math>', drawn
    )
    assert "<mi>sign</mi>" in drawn
    assert source["mathml"](r"\alpha", False).startswith('<math display="inline"><mrow><mi>')
    with pytest.raises(Exception, match="latex2mathml does not know"):
        source["mathml"](r"\unknown", False)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_formula_of_an_optimizer_is_plain_in_its_docstring_and_drawn_on_its_page(name):
    lines = made().in_full(OPTIMIZERS[name])
    start = lines.index(".. math::") if ".. math::" in lines else None
    assert (start is None) == (name == "AdamW")  # Adam's
    if start:
        rows = list(itertools.takewhile(lambda line: line.startswith("    "), lines[start + 2 :]))
        assert len(rows) == sum(bool(re.match("    .*[←=] ", line)) for line in plain_formula(OPTIMIZERS[name]))
        pytest.importorskip("latex2mathml", reason="formulas are drawn by the extra docs: pip install 'fastopt[docs]'")
        pytest.importorskip("sphinx", reason="formulas are drawn by the extra docs: pip install 'fastopt[docs]'")
        drawn = runpy.run_path(str(ROOT / "docs/mathml.py"))["mathml"]("".join(rows), True)
        assert drawn.count("<mtr>") == len(rows)
        assert "\\" not in drawn


def plain_formula(cls):
    doc = inspect.getdoc(cls)
    return doc[doc.index("::\n") + 4 : doc.index("Parameters\n---")].splitlines()


FORMULAS = [
    ("w ← w − α·m̂ / (√v̂ + ε)", r"w &\leftarrow w - \frac{\alpha \hat{m}}{\sqrt{\hat{v}} + \varepsilon}\\"),
    ("ηₜ₊₁ = β₁ᵗ·0.96^(t·ψ)", r"\eta_{t+1} &= \beta_{1}^{t} \cdot 0.96^{t \psi}\\"),
    ("β̂₁ = a / b·c / d", r"\hat{\beta}_{1} &= \frac{\frac{a}{b} c}{d}\\"),
    ("x   = (a + b)·(a − b) / 2", r"x &= \frac{(a + b) (a - b)}{2}\\"),
    ("g' ← 0    where y < 0", r"g' &\leftarrow 0 \qquad \text{ where } y < 0\\"),
    ("x = (1 / a)", r"x &= \left(\frac{1}{a}\right)\\"),
    ("r = R(w)·‖w‖² + Σ|s|", r"r &= R (w) \|w\|^{2} + \sum \left|s\right|\\"),
    ("c = 2·meanⱼ(gᵢⱼ²)·γ_max^q", r"c &= 2 \, \mathrm{mean}_{j} (g_{ij}^{2}) \gamma_{\mathrm{max}}^{q}\\"),
]


@pytest.mark.parametrize(("plain", "latex"), FORMULAS, ids=[plain for plain, _ in FORMULAS])
def test_a_formula_of_a_docstring_as_latex(plain, latex):
    assert made().formulas.aligned([plain]) == [latex]


@pytest.mark.parametrize("plain", ["w ← w ÷ 2", "w ← (w", "w ← w)", "w ← w^"])
def test_a_formula_that_the_pages_cannot_draw_ends_their_build(plain):
    with pytest.raises(ValueError, match=r"a formula has .*, which docs/formulas.py does not know: "):
        made().formulas.aligned([plain])


@pytest.mark.parametrize("at", range(3), ids=["valley", "Rosenbrock", "Beale"])
def test_paths_are_those_of_the_surface_and_go_down(at):
    module = made()
    surface = module.SURFACES[at]
    assert surface.value(*surface.least) == 0
    for x, y in ((0.3, -0.7), surface.start):
        slopes = (
            (surface.value(x + 1e-6, y) - surface.value(x - 1e-6, y)) / 2e-6,
            (surface.value(x, y + 1e-6) - surface.value(x, y - 1e-6)) / 2e-6,
        )
        np.testing.assert_allclose(surface.gradient(x, y), slopes, rtol=1e-6, atol=1e-6)  # of a central difference
    for cls in (fastopt.Adam, fastopt.NAG, fastopt.Muon):
        _, points = module.best_path(cls, surface)
        assert points.shape == (module.STEPS + 1, 2)
        assert surface.value(*points[-1]) < surface.value(*points[0]) / 10


def test_the_rule_shown_in_how_it_works_is_that_of_the_source():
    source = ROOT / "src_c/rules.c"
    if source.exists():
        assert [block in source.read_text() for block in blocks(HOW_IT_WORKS, "c")] == [True, True]


def test_the_table_of_rooms_is_that_of_the_engine():
    if not (test_rooms.PACKAGE / "engine/plan.pyx").exists():
        pytest.skip("needs the sources beside the tests")
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([\w, ]*) ?\|$", HOW_IT_WORKS.read_text(), re.MULTILINE)
    assert [room for room, _ in rows] == test_rooms.ROOMS
    for room, told in rows:
        assert set(filter(None, told.strip().split(", "))) == test_rooms.imports(room) & set(test_rooms.ROOMS), room


def test_the_code_in_contributing_is_code():
    for block in blocks(CONTRIBUTING):
        compile(block, CONTRIBUTING.name, "exec")


@pytest.mark.parametrize("name", ["fastopt", *MODULES])
def test_the_examples_in_docstrings_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    if not inspect.ismodule(module) or not (module.__file__ or "").endswith(".py"):
        assert inspect.getdoc(module)
        return
    failures, _ = doctest.testmod(module, optionflags=FLAGS)
    assert failures == 0


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_has_an_example_a_reference_and_says_what_it_raises(name, tmp_path, monkeypatch):
    doc = inspect.getdoc(OPTIMIZERS[name])
    assert run(doc, name, tmp_path, monkeypatch) > 0
    for section in ("Parameters", "Raises", "References", "Examples"):
        assert section in sections(doc), f"{name} has no section {section}"
    # Every parameter is told: here, or in the class it says it is like.
    for base in OPTIMIZERS[name].__mro__:
        if base in OPTIMIZERS.values():
            doc += inspect.getdoc(base)
    for parameter in inspect.signature(OPTIMIZERS[name]).parameters:
        assert re.search(rf"^(.*, )?(\*\*)?{parameter}(,.*)?( : .*)?$", doc, re.MULTILINE), f"{name}: {parameter}"


def sections(doc):
    lines = doc.splitlines()
    return [a for a, b in itertools.pairwise(lines) if b and b == "-" * len(a)]


def public():
    """Every public object with a docstring of its own to have: name, object."""
    for module in (
        fastopt,
        *(importlib.import_module(m) for m in ["fastopt.schedules", "fastopt.checkpoint", "fastopt.hyper"]),
    ):
        for name in module.__all__:
            thing = getattr(module, name)
            if get_origin(thing):
                continue  # an alias of a type, which Python 3.10 takes for a class
            if inspect.isclass(thing) or inspect.isroutine(thing):
                yield f"{module.__name__}.{name}", thing
            if inspect.isclass(thing) and thing.__module__.startswith("fastopt"):
                for key, member in vars(thing).items():
                    if not key.startswith("_") and (inspect.isroutine(member) or isinstance(member, property)):
                        yield f"{module.__name__}.{name}.{key}", getattr(thing, key)


PUBLIC = dict(public())


@pytest.mark.parametrize("name", ["fastopt", *MODULES])
def test_every_module_has_a_docstring(name):
    assert inspect.getdoc(importlib.import_module(name))


@pytest.mark.parametrize("name", ["fastopt", *MODULES])
def test_help_is_plain_text(name):
    module = importlib.import_module(name)
    things = [module, *(thing for thing in vars(module).values() if getattr(thing, "__module__", "") == name)]
    members = [member for thing in things if inspect.isclass(thing) for member in vars(thing).values()]
    for thing in [*things, *members]:
        assert not re.search(r"\\|math:", getattr(thing, "__doc__", None) or ""), thing


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_a_docstring_that_tells_its_parameters(name):
    thing = PUBLIC[name]
    doc = inspect.getdoc(thing)
    assert doc, f"{name} has no docstring"
    first = doc.splitlines()[0]
    assert first.endswith((".", ":", "?")) or "``" in first, f"{name}: the first line is no sentence: {first}"
    if isinstance(thing, property) or inspect.isclass(thing) or name.startswith("fastopt.hyper."):
        return
    told = sections(doc)
    parameters = [p for p in inspect.signature(thing).parameters if p not in ("self", "cls")]
    inner = name.rsplit(".", 1)[1] in {
        "check_together",
        "check_parameter",
        "state_shape",
        "average",
        "rule",
        "kind",
        "scalars",
        "reference",
        "sums",
        "finish",
        "close",
        "read",
    }
    if parameters and not inner:
        assert "Parameters" in told, f"{name} does not tell its parameters"
        for parameter in parameters:
            assert re.search(rf"^(.*, )?\*{{0,2}}{parameter}(,.*)?( : .*)?$", doc, re.MULTILINE), f"{name}: {parameter}"


def test_every_module_of_optimizers_has_its_line_with_its_classes():
    lines: dict[str, list[str]] = {}
    for name, module in optimizers._MODULES.items():
        lines.setdefault(module, []).append(name)
    names = [m.name for m in pkgutil.iter_modules(optimizers.__path__)]
    public = {name: importlib.import_module(f"fastopt.optimizers.{name}").__all__ for name in names}
    assert lines == {name: classes for name, classes in public.items() if classes}  # one may serve others only
    # What type checkers read, which Python does not run.
    source = Path(optimizers.__file__).read_text()
    pairs = re.findall(r'^if _now\("(\w+)", "[\w ]+"\): from \.(\w+) import \*$', source, re.MULTILINE)
    assert pairs == [(module, module) for module in lines]


def test_an_optimizer_is_imported_when_it_is_asked_for_and_no_other():
    program = """
import pickle, sys
import fastopt, numpy as np
def here():
    return sorted(name.rsplit(".")[-1] for name in sys.modules if name.startswith("fastopt.optimizers."))
assert here() == [], here()
assert "schedules" not in vars(fastopt)
text = pickle.dumps(fastopt.Lion(np.zeros(3)))
from fastopt import AdamW
assert {"adam", "sign"} <= set(here()) and not {"yogi", "rprop", "sgd"} & set(here()), here()
assert not hasattr(fastopt, "Adamm") and not hasattr(fastopt.optimizers, "Adamm")
assert {"Yogi", "OPTIMIZERS"} <= set(dir(fastopt)) & set(dir(fastopt.optimizers))
assert {"adam", "sign"} <= set(here()) and not {"yogi", "rprop", "sgd"} & set(here()), here()
assert fastopt.OPTIMIZERS["Lion"] is fastopt.Lion is vars(fastopt)["Lion"] and "Yogi" in fastopt.OPTIMIZERS
print(text.hex())
"""
    text = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    program = f"import pickle, sys; o = pickle.loads(bytes.fromhex('{text.strip()}')); print(o)"
    again = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert again.startswith("Lion(")


def test_all_that_is_public_is_listed_and_sorted_out():
    assert len(set(fastopt.__all__)) == len(fastopt.__all__)
    assert set(OPTIMIZERS) <= set(fastopt.__all__)
    loose = {n for n in vars(fastopt) if not n.startswith("_")} - set(fastopt.__all__)
    assert {n for n in loose if not inspect.ismodule(getattr(fastopt, n))} == set()
    assert re.fullmatch(r"\d+\.\d+\.\d+", fastopt.__version__)


@pytest.mark.parametrize("cls", OPTIMIZERS.values(), ids=list(OPTIMIZERS))
def test_names_and_defaults_are_torchs(cls):
    # From torch.optim 2's documentation; what torch has not stands beside it.
    torchs = {
        "SGD": {"lr": 1e-3, "momentum": 0, "dampening": 0, "weight_decay": 0, "nesterov": False, "maximize": False},
        "RMSprop": {"lr": 1e-2, "alpha": 0.99, "eps": 1e-8, "weight_decay": 0, "momentum": 0, "centered": False,
                    "maximize": False},
        "Adam": {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "amsgrad": False,
                 "maximize": False},
        "AdamW": {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-2, "amsgrad": False,
                  "maximize": False},
        "Rprop": {"lr": 1e-2, "etas": (0.5, 1.2), "step_sizes": (1e-6, 50), "maximize": False},
        "Adagrad": {"lr": 1e-2, "lr_decay": 0, "weight_decay": 0, "initial_accumulator_value": 0, "eps": 1e-10,
                    "maximize": False},
        "Adadelta": {"lr": 1.0, "rho": 0.9, "eps": 1e-6, "weight_decay": 0, "maximize": False},
        "Adamax": {"lr": 2e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "maximize": False},
        "RAdam": {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "maximize": False},
    }  # fmt: skip
    signature = inspect.signature(cls).parameters
    assert list(signature)[:2] == ["params", "lr"]
    assert all(p.kind is p.KEYWORD_ONLY for name, p in signature.items() if name not in ("params", "lr", "options"))
    for name, default in torchs.get(cls.__name__, {}).items():
        assert signature[name].default == default
    group = cls(np.zeros(1)).param_groups[0]
    assert all(group[name] == default for name, default in torchs.get(cls.__name__, {}).items())


def test_schedules_are_frozen_dataclasses_with_every_field_told():
    for name in set(fastopt.schedules.__all__) - {"Schedule"}:
        cls = getattr(fastopt.schedules, name)
        assert dataclasses.is_dataclass(cls)
        assert cls.__dataclass_params__.frozen
        for field in dataclasses.fields(cls):
            assert re.search(rf"\b{field.name}\b", inspect.getdoc(cls)), f"{name}.{field.name}"

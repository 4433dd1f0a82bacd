"""Sphinx settings, and the check that every public name is documented.

Build: ``sphinx-build -n -W --keep-going docs docs/_build`` (or ``make docs``).
"""

import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError

import fastopt

sys.path.insert(0, str(Path(__file__).parent))
import made

project = "fastopt"
copyright = "2026, the fastopt developers"
author = "The fastopt developers"
version = release = fastopt.__version__

extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc", "sphinx_copybutton", "mathml"]
exclude_patterns = ["_build"]
html_math_renderer = "mathml"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["narrow.css"]
html_title = f"fastopt {release}"

myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "smartquotes"]
myst_heading_anchors = 3

nitpicky = True
default_role = "code"  # docstrings write `name` for what is typed
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say the types
autodoc_preserve_defaults = True
autodoc_mock_imports = ["mpi4py"]
numpydoc_show_class_members = False
numpydoc_validation_checks = {"GL03", "GL06", "GL07", "SS02", "SS03", "PR01", "PR02", "PR03", "RT03"}
numpydoc_validation_exclude = {
    # What a class says: see "How it works".
    r"\.(rule|kind|scalars|reference|sums|finish|average|check_together|check_parameter|state_shape)$",
    r"^fastopt\.schedules\.",  # dataclasses, documented in one line
    r"^fastopt\.AdamW$",  # "params, lr, ...": as for Adam
    r"^fastopt\.checkpoint\.Reader\.read$",  # one line says it
}

#: modules whose ``__all__`` must be in the API reference
PUBLIC = ["fastopt", "fastopt.schedules", "fastopt.checkpoint", "fastopt.convert"]

#: where other packages have a page for each name, and names that have none
PAGES = {
    "numpy": "https://numpy.org/doc/stable/reference/generated",
    "torch": "https://docs.pytorch.org/docs/stable/generated",
}
MODULES = {"optim", "optim.lr_scheduler"}


def check_public_names(app: Sphinx, env: BuildEnvironment) -> None:
    """Fail the build where a public name is not in the API reference, or has no docstring."""
    documented = env.get_domain("py").objects
    missing = []
    for module_name in PUBLIC:
        module = importlib.import_module(module_name)
        for name in module.__all__:
            full, value = f"{module_name}.{name}", getattr(module, name)
            if full not in documented:
                missing.append(f"{full} is not in the API reference")
            elif (inspect.isclass(value) or inspect.isroutine(value)) and not (value.__doc__ or "").strip():
                missing.append(f"{full} has no docstring")
    if missing:
        raise ExtensionError("undocumented public names:\n  " + "\n  ".join(missing))


def tell_in_full(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Tell each parameter of an optimizer on its own page, where the docstring says whose it is like."""
    if value in made.CLASSES.values():
        lines[:] = made.in_full(value)


def link_names(app: Sphinx, doctree: nodes.document) -> None:
    """Make names of NumPy and torch in the text links to their pages there."""
    for literal in list(doctree.findall(nodes.literal)):
        found = re.fullmatch(r"(np|numpy|torch)\.([\w.]+)", literal.astext())
        if found and found[2] not in MODULES and not isinstance(literal.parent, (nodes.reference, nodes.title)):
            package = "torch" if found[1] == "torch" else "numpy"
            link = nodes.reference("", "", refuri=f"{PAGES[package]}/{package}.{found[2]}.html", internal=False)
            literal.replace_self(link)
            link += literal


def end_blocks(app: Sphinx, doctree: nodes.document) -> None:
    """Leave the empty line out that ends an example for doctest."""
    for block in doctree.findall(nodes.literal_block):
        if block.rawsource == block.astext():  # and only such blocks get colours
            block.rawsource = block.rawsource.rstrip("\n")
            block.children = [nodes.Text(block.rawsource)]


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("builder-inited", lambda _: made.make())
    app.connect("autodoc-process-docstring", tell_in_full, priority=1)  # before numpydoc
    app.connect("doctree-read", end_blocks)
    app.connect("doctree-read", link_names)
    app.connect("env-check-consistency", check_public_names)

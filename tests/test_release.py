"""What a release is made of: one version everywhere, the Pythons it is for, workflows, and the address they put in."""

from __future__ import annotations

import importlib.util
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastopt

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))

pytestmark = pytest.mark.skipif(not WORKFLOWS, reason="needs the workflows of the repository, which an sdist has not")


def read(name):
    return (ROOT / name).read_text()


def test_the_version_is_the_same_everywhere():
    assert f'\nversion = "{fastopt.__version__}"\n' in read("pyproject.toml")
    assert f"\nversion: {fastopt.__version__}\n" in read("CITATION.cff")
    assert f"\n## [{fastopt.__version__}] - " in read("CHANGELOG.md")


PYTHONS = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text())


def test_the_pythons_that_are_promised_are_tested():
    assert f'requires-python = ">={PYTHONS[0]}"' in read("pyproject.toml")
    (matrix,) = re.findall(r"^ +python: \[(.*)\]$", read(".github/workflows/tests.yml"), re.MULTILINE)
    assert re.findall(r"[\d.]+", matrix) == PYTHONS


@pytest.mark.parametrize(("platform", "arch"), [("linux", "x86_64"), ("linux", "aarch64"), ("macos", "arm64")])
def test_wheels_are_built_for_the_pythons_that_are_promised(platform, arch):
    if importlib.util.find_spec("cibuildwheel") is None:
        pytest.skip("cibuildwheel is not installed: `pip install cibuildwheel`, or the extra dev")
    command = ["cibuildwheel", "--print-build-identifiers", "--platform", platform, "--archs", arch, str(ROOT)]
    printed = subprocess.run(
        [sys.executable, "-m", *command], check=True, capture_output=True, text=True
    ).stdout.split()
    systems = ["macosx"] if platform == "macos" else ["manylinux", "musllinux"]
    assert printed == [f"cp{v.replace('.', '')}-{system}_{arch}" for system in systems for v in PYTHONS]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_runs_pinned_actions_and_words_of_the_makefile(workflow):
    text = workflow.read_text()
    for action in re.findall(r"uses: (.*)", text):
        assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", action), action
    words = {*re.findall(r"run: make ([\w-]+)", text)}
    for several in re.findall(r"word: \[(.*)\]", text):
        words |= {*several.split(", ")}
    assert words
    assert words <= {*re.findall(r"^([\w-]+):", read("Makefile"), re.MULTILINE)}


NAMES = ["pyproject.toml", "CITATION.cff", "README.md"]


@pytest.fixture
def put(tmp_path):
    """Put an address into copies of the files, and return their texts by name."""
    for name in NAMES:
        shutil.copy(ROOT / name, tmp_path)
    main = runpy.run_path(str(ROOT / ".ci/address.py"))["main"]

    def put(address, ref):
        main(address, ref, tmp_path)
        return [(tmp_path / name).read_text() for name in NAMES]

    return put


def test_a_release_has_the_address_of_its_repository(put):
    version = fastopt.__version__
    for _ in range(2):  # once more changes nothing
        project, citation, readme = put("https://host.org/us/fastopt", f"v{version}")
    assert project.count("[project.urls]") == 1
    assert f'Changelog = "https://host.org/us/fastopt/blob/v{version}/CHANGELOG.md"' in project
    assert citation.count('repository-code: "https://host.org/us/fastopt"') == 1
    links = re.findall(r"\]\(([^)]*)\)", readme)
    assert any(link.startswith(f"https://host.org/us/fastopt/blob/v{version}/docs/") for link in links)
    for before, after in zip(re.findall(r"\]\(([^)]*)\)", read("README.md")), links, strict=True):
        assert after.endswith(before)
        assert after.startswith(("https://", "#"))


def test_a_release_of_another_version_or_place_is_refused(put):
    with pytest.raises(SystemExit, match=f"the tag is v9.9.9, and pyproject.toml has version {fastopt.__version__}"):
        put("https://host.org/us/fastopt", "v9.9.9")
    with pytest.raises(SystemExit, match="'host' is no https://HOST/OWNER/NAME"):
        put("host", "main")

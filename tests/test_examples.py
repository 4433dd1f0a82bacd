"""The programs in examples/ run, and train: each in a process of its own, where what it needs is installed."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
NEEDS = {
    "autograd_gradients": "autograd",
    "dask_actor": "distributed",
    "jax_gradients": "jax",
    "keras_numpy": "keras",
    "larger_than_memory": "numpy",
    "mlp": "numpy",
    "mpi_mlp": "mpi4py",
    "parts_memory": "numpy",
    "pennylane_vqe": "pennylane",
    "qiskit_vqe": "qiskit",
    "ray_actor": "ray",
    "resume": "numpy",
    "sklearn_mlp": "sklearn",
    "torch_openmp": "torch",
    "torch_ppo": "stable_baselines3",
    "torch_steps": "torch",
}
SLOW = {"parts_memory", "sklearn_mlp", "torch_openmp", "torch_ppo", "torch_steps"}  # they measure

pytestmark = pytest.mark.skipif(not EXAMPLES.exists(), reason="needs the examples beside the tests")


def test_all_examples_are_tried():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(NEEDS)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in NEEDS])
def test_it_runs_and_the_loss_falls(name, tmp_path):
    if importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed: `pip install {NEEDS[name]}` to run this example")
    path = os.pathsep.join(filter(None, [str(EXAMPLES.parent), *sys.path]))  # here, and in processes that it starts
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py")],
        env=os.environ | {"PYTHONPATH": path, "HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for before, after in re.findall(r"^loss (\S+) -> (\S+)$", done.stdout, re.MULTILINE):
        assert float(after) < float(before) / 2
        return
    assert name in SLOW or NEEDS[name] == "numpy", f"it printed no loss: {done.stdout}"


def test_every_recipe_is_told_in_the_docs():
    page = (EXAMPLES.parent / "docs/recipes.md").read_text()
    for path in EXAMPLES.glob("*.py"):
        if "# recipe: begin" in path.read_text():
            assert f"literalinclude}} ../examples/{path.name}" in page, path.name

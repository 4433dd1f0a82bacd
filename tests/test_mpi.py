"""fastopt.mpi on one to four ranks: started here, by mpiexec, with time limits. What they do is in mpi_scenarios.py."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mpi_world import bits, exact, params
from processes import finished

import fastopt

HERE = Path(__file__).parent
SCENARIOS = re.findall(r"^@scenario\ndef (\w+)", (HERE / "mpi_scenarios.py").read_text(), re.M)
MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
TIMEOUT = 600  # seconds: ranks that wait for each other share few processors

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("mpi4py") is None, reason="needs mpi4py: `pip install mpi4py`"),
    pytest.mark.skipif(MPIEXEC is None, reason="needs mpiexec: `pip install mpich`"),
]


def mpiexec(ranks, program, *arguments, timeout=TIMEOUT):
    """Run a program on so many ranks, in which an exception on one ends all."""
    settings = {
        "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, sys.path)]),
        "OPENBLAS_NUM_THREADS": "1",
        # What Open MPI wants to be told before it starts more ranks than there are processors, and as root.
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "OMPI_MCA_rmaps_base_oversubscribe": "1",
    }
    assert MPIEXEC is not None
    command = [MPIEXEC, "-n", str(ranks), sys.executable, "-m", "mpi4py", str(program), *map(str, arguments)]
    done = finished(command, timeout, settings, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout


def of_one_process(steps, path=None):
    """Parameters after so many steps in one process, without MPI; and a checkpoint, if it is wanted."""
    tree = params()
    opt = fastopt.AdamW(tree, lr=0.5)
    for step in range(steps):
        opt.step(exact(step))
    if path is not None:
        opt.save(path)
    return tree


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """Run all scenarios on so many ranks, once: the folder with what they wrote, and what was printed."""

    @functools.cache
    def run(ranks):
        folder = tmp_path_factory.mktemp("ranks")
        of_one_process(3, folder / "single.safetensors")
        return folder, mpiexec(ranks, HERE / "mpi_scenarios.py", folder)[1]

    return run


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("ranks", [1, 2, 3, 4], ids=lambda n: f"{n}-ranks")
def test_on_ranks(job, ranks, scenario):
    folder, shown = job(ranks)
    written = [(folder / f"rank-{rank}").read_text() for rank in range(ranks)]
    assert all(scenario in text.split("FAILED")[0].split() for text in written), "\n".join([*written, shown])


@pytest.mark.parametrize("ranks", [1, 2, 3, 4], ids=lambda n: f"{n}-ranks")
def test_what_ranks_have_saved_is_the_file_of_one_process_and_loads_without_mpi(job, ranks, tmp_path):
    folder, shown = job(ranks)
    path = folder / f"continued-{ranks}.safetensors"
    assert path.exists(), shown
    of_one_process(6, tmp_path / "single.safetensors")
    assert path.read_bytes() == (tmp_path / "single.safetensors").read_bytes()
    tree = params()
    opt = fastopt.AdamW(tree)
    opt.load(path)
    opt.step(exact(6))
    assert bits(tree) == bits(of_one_process(7))
    assert "mpi4py" not in sys.modules


@pytest.mark.parametrize("how", ["raising", "killed"])
def test_a_rank_that_dies_ends_the_job_and_fewer_ranks_go_on_from_the_checkpoint(how, tmp_path):
    path = tmp_path / "run.safetensors"
    status, shown = mpiexec(3, HERE / "mpi_run.py", path, 6, 3, how, timeout=120)
    assert status != 0, shown
    assert how == "killed" or "MemoryError: of the last rank" in shown
    tree = params()
    opt = fastopt.AdamW(tree)
    opt.load(path)
    assert opt.steps == 3
    assert bits(tree) == bits(of_one_process(3))
    status, shown = mpiexec(2, HERE / "mpi_run.py", path, 6, timeout=120)
    assert status == 0, shown
    opt.load(path)
    assert opt.steps == 6
    assert bits(tree) == bits(of_one_process(6))


def test_the_example_has_the_loss_of_one_process():
    status, shown = mpiexec(3, HERE.parent / "examples/mpi_mlp.py", timeout=120)
    assert status == 0, shown
    losses = re.search(r"held-out loss (\S+), of one process (\S+);", shown)
    assert losses is not None, shown
    assert float(losses[1]) == pytest.approx(float(losses[2]), rel=1e-3)  # sums are rounded in another order
    assert float(losses[1]) < 0.25


def test_without_mpi4py_the_library_works_and_the_module_says_what_it_needs():
    script = "import sys; sys.modules['mpi4py'] = None; import fastopt; fastopt.Adam; import fastopt.mpi"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "mpi4py" in done.stderr.splitlines()[-1]

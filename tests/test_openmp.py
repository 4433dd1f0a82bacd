"""How long idle workers spin is set for GNU OpenMP, and for nobody else."""

import os
import subprocess
import sys

import pytest


def spin_count(**environment):
    """GOMP_SPINCOUNT as the process and as its loader of GNU OpenMP see it (OMP_DISPLAY_ENV prints the latter)."""
    program = "import os, fastopt; print('after', os.environ.get('GOMP_SPINCOUNT'))"
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("GOMP_", "OMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**clean, "OMP_DISPLAY_ENV": "VERBOSE", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    seen = [line for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line]
    if not seen:
        pytest.skip("this OpenMP does not print GOMP_SPINCOUNT: it is not GNU's, or there is none")
    return done.stdout.strip(), seen[0].split("'")[1]


@pytest.mark.parametrize(
    ("environment", "after", "loaded"),
    [({}, "after None", "10000"), ({"GOMP_SPINCOUNT": "77"}, "after 77", "77")],
    ids=["by default it is short, and not left in the environment", "what the user has set stays"],
)
def test_spinning_of_idle_workers(environment, after, loaded):
    assert spin_count(**environment) == (after, loaded)


def test_a_wait_policy_of_the_user_stays():
    assert spin_count(OMP_WAIT_POLICY="PASSIVE") == ("after None", "0")

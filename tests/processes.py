"""Work in a process of its own, a script or a function in a forked child: a crash or a hang is a failure, no more."""

from __future__ import annotations

import os
import pickle
import select
import signal
import subprocess
import sys
import textwrap
import traceback
import warnings

import pytest

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork()")


def python(script, timeout=120, **environment):
    """Run a script in a process of its own."""
    path = {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return finished([sys.executable, "-c", textwrap.dedent(script)], timeout, path | environment)


def finished(command, timeout, environment, stderr=subprocess.PIPE):
    """Run a program without this one's settings of fastopt and OpenMP; past the time limit, end all that it began."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("FASTOPT_", "OMP_", "GOMP_"))}
    process = subprocess.Popen(
        command, env=kept | environment, stdout=subprocess.PIPE, stderr=stderr, text=True, start_new_session=True
    )
    try:
        shown, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # a forked child that hangs holds the pipes open
        process.communicate()
        pytest.fail(f"hangs: not done after {timeout} s")
    return subprocess.CompletedProcess(command, process.returncode, shown, errors)


def output(script, timeout=120, **environment):
    """What a script prints; it must end well."""
    done = python(script, timeout, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def fork():
    """os.fork(), without the warning that other threads might hold locks: that they do not matter is what is tested."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def in_child(function, timeout=60):
    """What a function returns in a forked child: cheaper than a script, where all that is done is serial anyway."""
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork()")
    reading, writing = os.pipe()
    child = fork()
    if child == 0:
        try:
            sys.settrace(None)  # who measures coverage does not expect what happens here, and would not hear of it
            os.close(reading)
            try:
                found = (True, function())
            except BaseException:
                found = (False, traceback.format_exc())
            with os.fdopen(writing, "wb") as pipe:
                pickle.dump(found, pipe)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        if not select.select([pipe], [], [], timeout)[0]:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            pytest.fail(f"hangs: not done after {timeout} s")
        written = pipe.read()
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert written, f"the child ended without a word: {signal.Signals(-ended).name if ended < 0 else ended}"
    well, found = pickle.loads(written)
    assert well, f"in the child:\n{found}"
    return found

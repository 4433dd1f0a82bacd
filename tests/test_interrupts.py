"""Signals that wait for the end of a block: none is lost, none comes early, and no handler but the user's stays."""

from __future__ import annotations

import asyncio
import dis
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from fastopt import interrupts
from fastopt.interrupts import held

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="its signals are few, and none can be sent to oneself")

OWN = [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM] if hasattr(signal, "SIGUSR1") else []


class BrokenOffError(Exception):
    """What a handler raises."""


@pytest.fixture(autouse=True)
def _handlers_as_they_were():
    before = {signum: signal.getsignal(signum) for signum in signal.valid_signals()}
    yield
    assert interrupts._outermost is None
    for signum, handler in before.items():
        if handler is not None and signal.getsignal(signum) is not handler:
            signal.signal(signum, handler)


@pytest.fixture
def came():
    """Handlers for several signals that list what came; afterwards they must be in place."""
    came = []

    def handler(signum, frame):
        assert frame is not None
        came.append(signal.Signals(signum).name)

    for signum in [signal.SIGINT, *OWN]:
        signal.signal(signum, handler)
    yield came
    for signum in [signal.SIGINT, *OWN]:
        assert signal.getsignal(signum) is handler


def send(*signals, then=None):
    for signum in signals:
        os.kill(os.getpid(), signum)
        time.sleep(0)  # a call in which Python looks for signals
    if then is not None:
        raise then


@pytest.mark.parametrize("signum", [signal.SIGINT, *OWN], ids=lambda s: s.name)
def test_a_signal_waits_for_the_end_of_the_block(came, signum):
    with held():
        send(signum)
        assert came == []
    assert came == [signum.name]
    send(signum)
    assert came == [signum.name] * 2


def test_several_signals_come_in_their_order_and_each_once(came):
    with held():
        send(signal.SIGUSR2, signal.SIGINT, signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGUSR1)
    assert came == ["SIGUSR2", "SIGINT", "SIGTERM", "SIGUSR1"]


def test_the_next_block_begins_with_nothing_noted(came):
    with held():
        send(signal.SIGINT)
    with held():
        pass
    assert came == ["SIGINT"]


def test_within_a_block_another_one_delivers_nothing(came):
    with held():
        with held():
            send(signal.SIGINT)
            with held():
                pass
        with pytest.raises(BrokenOffError), held():
            raise BrokenOffError
        send(signal.SIGTERM)
        assert came == []
    assert came == ["SIGINT", "SIGTERM"]


def test_ctrl_c_is_raised_after_the_block_was_completed():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    done = []
    with pytest.raises(KeyboardInterrupt) as raised:  # noqa: PT012
        with held():
            send(signal.SIGINT)
            done.append("block")
        done.append("after it")
    assert done == ["block"]
    assert raised.value.__context__ is None
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_block_that_raises_delivers_too(came):
    error = BrokenOffError()
    with pytest.raises(BrokenOffError) as raised, held():
        send(signal.SIGTERM, then=error)
    assert raised.value is error
    assert came == ["SIGTERM"]


def test_the_error_of_the_block_is_the_context_of_that_of_the_handler():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    error = BrokenOffError()
    with pytest.raises(KeyboardInterrupt) as raised, held():
        send(signal.SIGINT, then=error)
    assert raised.value.__context__ is error
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_that_raises_does_not_keep_the_others_from_being_called(came):
    def stop(signum, frame):
        came.append("raises")
        raise BrokenOffError

    mine = signal.signal(signal.SIGUSR1, stop)
    with pytest.raises(BrokenOffError), held():
        send(signal.SIGINT, signal.SIGUSR1, signal.SIGTERM)
    assert came == ["SIGINT", "raises", "SIGTERM"]
    assert signal.signal(signal.SIGUSR1, mine) is stop


def test_a_handler_finds_the_handlers_as_they_were_and_may_hold_signals_itself(came):
    def handler(signum, frame):
        assert signal.getsignal(signal.SIGUSR1) is handler
        with held():
            send(signal.SIGTERM)
            assert came == []
        assert came == ["SIGTERM"]

    mine = signal.signal(signal.SIGUSR1, handler)
    with held():
        send(signal.SIGUSR1)
    assert came == ["SIGTERM"]
    assert signal.signal(signal.SIGUSR1, mine) is handler


def test_ignored_signals_and_those_with_their_default_action_are_left_alone():
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with held():
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        send(signal.SIGUSR1)


def test_a_handler_that_the_block_sets_stays(came):
    other = []
    with held():
        mine = signal.getsignal(signal.SIGUSR1)
        signal.signal(signal.SIGUSR1, lambda *_: other.append("other"))
        send(signal.SIGUSR1)
        assert other == ["other"]  # who sets a handler within the block has it called there
    send(signal.SIGUSR1)
    assert other == ["other"] * 2
    # Who puts back later what he found in the block has the user's handler, and not one that takes notes for nobody.
    signal.signal(signal.SIGUSR1, mine)
    send(signal.SIGUSR1)
    send(signal.SIGUSR1)
    assert came == ["SIGUSR1"] * 2


def test_a_handler_that_gives_way_to_the_default_action_is_taken_at_its_word():
    """As that of many programs does for a second Ctrl-C."""
    script = """
    import os, signal
    from fastopt.interrupts import held

    def once(signum, frame):
        print("once", flush=True)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    signal.signal(signal.SIGINT, once)
    signal.signal(signal.SIGTERM, lambda *_: print("never"))
    with held():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        print("block", flush=True)
    print("never")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["block", "once"], done.stderr
    assert done.returncode == -signal.SIGTERM


def test_in_another_thread_nothing_is_held(came):
    inside, over = threading.Event(), threading.Event()

    def work():
        with held():
            inside.set()
            over.wait(60)

    mine = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert inside.wait(60)
        assert signal.getsignal(signal.SIGINT) is mine
        send(signal.SIGINT)
        assert came == ["SIGINT"]
        with held():
            send(signal.SIGTERM)
            over.set()  # the end of a block there is not the end of this one
            thread.join(60)
            assert not thread.is_alive()
            assert came == ["SIGINT"]
        assert came == ["SIGINT", "SIGTERM"]
    finally:
        over.set()
        thread.join(60)


def test_another_thread_does_not_even_try(came, monkeypatch):
    """For as long as it tried, a block of the main thread would take itself for an inner one."""
    looked = []
    monkeypatch.setattr(interrupts, "_get", looked.append)

    def work():
        with held():
            pass

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert looked == []


def test_in_a_sub_interpreter_nothing_is_held(came):
    interpreters = pytest.importorskip("_xxsubinterpreters")
    if not hasattr(interpreters, "run_string"):
        pytest.skip("this Python's sub-interpreters are run otherwise")
    source = Path(interrupts.__file__).read_text()
    script = f"""
namespace = {{"__name__": "interrupts"}}
exec({source!r}, namespace)
with namespace["held"]():
    pass
assert namespace["_outermost"] is None
try:
    with namespace["held"]():
        raise ValueError("signal only works in main thread, says the block")
except ValueError:
    pass
else:
    raise AssertionError
"""
    one = interpreters.create()
    try:
        interpreters.run_string(one, script)
    finally:
        interpreters.destroy(one)
    send(signal.SIGINT)
    assert came == ["SIGINT"]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="this Python has no table of what is in a try")
@pytest.mark.parametrize("function", [held.__enter__, held._end], ids=lambda function: function.__name__)
def test_each_end_of_a_loop_is_in_the_try(function):
    """Python looks for signals there, and from 3.12 on there are ends of loops that it leaves out of a try."""
    code = dis.Bytecode(function)
    ends = [one.offset for one in code if one.opname == "JUMP_BACKWARD"]
    assert ends
    assert all(any(entry.start <= end < entry.end for entry in code.exception_entries) for end in ends)


def test_a_value_error_of_a_handler_is_nobody_elses():
    def handler(signum, frame):
        raise ValueError("signal is wrong")

    signal.signal(signal.SIGUSR1, handler)
    with pytest.raises(ValueError, match="signal is wrong"), held():
        send(signal.SIGUSR1)


@pytest.mark.parametrize("by", ["main thread", "other thread"])
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork()")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_holds_no_longer_than_its_own_thread_does(came, by):
    statuses = []
    mine = signal.getsignal(signal.SIGUSR1)

    def fork():
        child = os.fork()
        if child:
            statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            return
        status = 1
        try:
            send(signal.SIGTERM)
            if by == "main thread":
                assert came == []
                block.__exit__(None, None, None)
            assert signal.getsignal(signal.SIGUSR1) is mine
            assert came == ["SIGTERM"], "what came before the fork was the parent's"
            with held():
                send(signal.SIGUSR2)
                assert came == ["SIGTERM"]
            assert came == ["SIGTERM", "SIGUSR2"]
            status = 0
        finally:
            os._exit(status)

    with (block := held()):
        send(signal.SIGINT)
        if by == "main thread":
            fork()
        else:
            thread = threading.Thread(target=fork)
            thread.start()
            thread.join(60)
        assert came == []
    assert statuses == [0]
    assert came == ["SIGINT"]


def test_asyncio_is_told_once_of_a_signal():
    called = []

    async def main():
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, called.append, 1)
        with held():
            send(signal.SIGUSR1)
        await asyncio.sleep(0.05)
        asyncio.get_running_loop().remove_signal_handler(signal.SIGUSR1)

    asyncio.run(main())
    assert called == [1]


# ---- signals at the worst of times ----


def test_a_signal_that_comes_while_handlers_are_swapped_or_put_back_is_not_lost():
    """One signal in each run, a place further on than in the run before.

    Python looks for signals where functions of its own start and functions of C end; `sys.setprofile` tells of both.
    """
    seen = []

    def handler(signum, frame):
        seen.append(signum)
        raise BrokenOffError

    def profile(frame, event, arg):
        nonlocal passed
        if frame.f_code.co_filename == interrupts.__file__ and event in ("call", "c_return"):
            passed += 1
            if passed == place:
                sys.setprofile(None)
                send(signal.SIGUSR2)

    for signum in [signal.SIGINT, *OWN]:  # some before SIGUSR2 by number, some after it
        signal.signal(signum, handler)
    place = passed = 0
    before = sys.getprofile()
    while passed == place:
        place, passed = place + 1, 0
        seen.clear()
        done = []
        try:
            sys.setprofile(profile)
            with held():
                send(signal.SIGTERM, signal.SIGINT)
                done = [signal.SIGTERM, signal.SIGINT]
        except BrokenOffError:
            pass
        finally:
            sys.setprofile(before)
        assert interrupts._outermost is None
        for signum in [signal.SIGINT, *OWN]:
            assert signal.getsignal(signum) is handler, "a handler of the block was left behind"
        assert [signum for signum in seen if signum != signal.SIGUSR2] == done
        assert seen.count(signal.SIGUSR2) == (passed == place)
    assert place > 2 * len(signal.valid_signals())


def test_thousands_of_signals_at_random_moments():
    """Two handlers that raise in the code under test; each signal is waited for, so that no two are made into one."""
    rng = random.Random(0)
    seen, raised = [], []

    def handler(signum, frame):
        seen.append(signum)
        if frame.f_code.co_filename == interrupts.__file__:
            raised.append(signum)
            raise BrokenOffError

    for signum in (signal.SIGALRM, signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, handler)
    pid, rounds, early, until = os.getpid(), 0, 0, time.monotonic() + 3
    while time.monotonic() < until:
        rounds += 1
        seen.clear()
        begun = ended = 0
        deadline = time.monotonic() + 30
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-6, 100e-6))
        while signal.SIGALRM not in seen or signal.SIGINT not in seen:
            assert time.monotonic() < deadline, "a signal was lost"
            try:
                with held():
                    begun += 1
                    before = len(seen)
                    if signal.SIGINT not in seen and rng.random() < 0.2:
                        os.kill(pid, signal.SIGINT)
                    early += len(seen) - before
                    ended += 1
            except BrokenOffError:
                pass
            assert interrupts._outermost is None
            for signum in (signal.SIGALRM, signal.SIGINT, signal.SIGTERM):
                assert signal.getsignal(signum) is handler
        assert begun == ended, "a block was broken off"
        assert sorted(seen) == [signal.SIGINT, signal.SIGALRM]
    assert early == 0
    assert rounds > 1000
    assert raised.count(signal.SIGALRM) > rounds / 10

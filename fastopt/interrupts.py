"""Signals wait: Python's handlers run after a block of code, and not in the midst of it.

A handler may raise (that of Ctrl-C does) wherever Python looks for signals, and what it breaks off there stays half
done. Within ``with held():`` a signal is only noted; its handler is called when the block is over.
"""

from __future__ import annotations

import os
import threading

# Those of `signal` are around these, and turn each number into an enum: a look at all signals takes 25 µs then, not 1,
# and the import some ms.
from _signal import getsignal as _get  # type: ignore[import-not-found]
from _signal import raise_signal, valid_signals
from _signal import signal as _set
from inspect import currentframe
from types import FrameType
from typing import Any

__all__ = ["held"]

_SIGNALS = sorted(map(int, valid_signals()))
_outermost: held | None = None  # the main thread's: Python calls handlers in no other


class held:  # noqa: N801 (used like a function)
    """Context manager: signals that Python handles wait for its end.

    They are delivered in the order in which they came, each once, after the handlers are back, also where the block
    raises. Within another block, and in threads other than the main one, where Python calls no handlers, it does
    nothing. Make a new one for each ``with``.

    Handlers of C, and signals that are ignored or have their default action, are left alone.
    """

    # While handlers change places, those of the user that are in place may still raise, wherever Python looks for
    # signals: at the start of a function, at the end of a loop's body, after a call of one of C, and first of all in
    # `_set`. None of ours is to stay then, and nothing noted to be lost: what was broken off is begun anew, and each
    # part of it may be done twice. From Python 3.12 on, `try` does not hold what is raised where an `if` or `while`
    # goes on with the next turn of a loop: so loops are `for`, and their bodies one call, here.

    def __init__(self) -> None:
        self._old: dict[int, object] = {}
        self._noted: list[int] = []
        self._thread = threading.get_ident()

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """Take a note of a signal: this object is what handles it for the time being."""
        if _outermost is self:
            if signum not in self._noted:
                self._noted.append(signum)
            return
        # The block is over: its handlers are just being put back, or someone who found this one has put it back since.
        handler = self._old[signum]
        if _get(signum) is self:
            _set(signum, handler)
        if callable(handler):
            handler(signum, frame)

    def __enter__(self) -> None:
        global _outermost
        if _outermost is not None or self._thread != threading.main_thread().ident:
            return
        try:
            _outermost = self
            for signum in _SIGNALS:
                self._take(signum)
        except BaseException as error:
            _outermost = None
            self._end()
            # Of a sub-interpreter, where Python calls no handlers.
            if not (isinstance(error, ValueError) and str(error).startswith("signal only works in main thread")):
                raise

    def _take(self, signum: int) -> None:
        """Handle a signal that has a handler."""
        handler = _get(signum)
        if callable(handler):
            self._old[signum] = handler
            self._old[signum] = _set(signum, self)  # a handler just called in there may have chosen another one

    def __exit__(self, *error: object) -> None:
        global _outermost
        if _outermost is self:
            try:
                _outermost = None  # first, while no handler can raise: whatever comes now, the block is over
                self._end()
            except BaseException:
                self._end()
                raise

    def _end(self) -> None:
        """Put the handlers back, then deliver what was noted."""
        try:
            for signum, handler in self._old.items():
                self._put_back(signum, handler)
            for _ in self._noted[:]:  # each call takes the first one
                self._deliver()
        except BaseException:
            self._end()
            raise

    def _put_back(self, signum: int, handler: Any) -> None:
        if _get(signum) is self:  # else the block has set another one, which stays
            _set(signum, handler)

    def _deliver(self) -> None:
        signum, frame = self._noted[0], currentframe()
        handler = _get(signum)  # by now perhaps another one: a handler called before may have set it
        # Raised again, it would be told to the descriptor of `signal.set_wakeup_fd` twice, and so to asyncio.
        deliver = handler if callable(handler) else _raise
        del self._noted[0]  # no call from here on to that of the handler: Python does not look for signals
        deliver(signum, frame)


def _raise(signum: int, frame: FrameType | None) -> None:
    raise_signal(signum)


def _forget_in_child() -> None:
    """In a child that another thread has forked: nobody there is going to end the main thread's block."""
    global _outermost
    block = _outermost
    if block is not None:
        block._noted.clear()  # they came for the parent
        if block._thread != threading.get_ident():
            _outermost = None
            block._end()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)

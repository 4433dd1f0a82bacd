"""Checkpoints of all ranks: rank 0 writes and reads, and has the others send or take their parts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import checkpoint
from ..interrupts import held
from ..snapshots import _check_fit, _Fitting, _unset
from .messages import Array, as_bytes, laid_flat
from .ranks import together

if TYPE_CHECKING:
    from ..engine.lock import Lock
    from ..engine.plan import Plan
    from ..optimizer import Optimizer

__all__ = ["Files"]

Place = tuple[int, str | None]  # of an array: its leaf, and its slot if it is state
_END: Place = (-1, None)


class Files:
    """The part of `Sharded` that saves and loads."""

    if TYPE_CHECKING:  # defined in `Sharded`
        _comm: Any
        _lock: Lock
        _shard: Optimizer
        _whole: Plan
        _shares: list[list[tuple[int, int, int]]]
        _rooms: Array
        _sums: list[Array]

    # ---- saving ----

    def save(
        self, path: str | os.PathLike[str], *, params: bool = True, metadata: Mapping[str, str] | None = None
    ) -> None:
        """Write the optimizer and its parameters to a file: byte for byte the one that a single process writes.

        All ranks call it, rank 0 writes. It gets the state from the others, the array of one parameter at a time.

        Parameters
        ----------
        path, params, metadata
            As for `Optimizer.save`. Those of rank 0 count.

        Raises
        ------
        OSError, TypeError, ValueError
            On rank 0, if it cannot be written.
        Disagreement
            On all other ranks then; on all ranks, if they are not in the same step.
        """

        def ready() -> dict[str, bytes]:
            with self._shard._lock.reading():
                plan = self._shard._ready()
                self._whole.check_parameters()
                plan.settle(self._shard)
                return {"hyper-parameters or number of steps": self._shard._text().encode()}

        def transfer() -> None:
            if self._comm.rank != 0:
                self._send_what_is_wanted()
                return
            try:
                self._shard.save(path, params=params, metadata=metadata)
            finally:
                self._tell(_END)

        with self._lock, held():
            together(self._comm, "save()", ready)
            together(self._comm, "save()", transfer)

    def _whole_arrays(self, params: bool) -> dict[str, Any]:
        """The arrays of a file, by their names in it: state that is fetched when it is written."""
        plan, slots = self._shard._bound(), self._shard._slots
        arrays: dict[str, Any] = {}
        for leaf, (name, array, state) in enumerate(zip(plan.names, self._whole.arrays, plan.states, strict=True)):
            if params:
                arrays[name] = array
            arrays.update({f"{name}.{slots[slot]}": _Fetched(self, leaf, slot) for slot in state})
        return arrays

    def _fetch(self, leaf: int, slot: str) -> Array:
        """Return a whole array of the state, on rank 0."""
        whole = _unset(self._whole.arrays[leaf], self._whole.arrays[leaf].shape)
        flat = laid_flat(whole)
        self._tell((leaf, slot))
        for rank, start, stop in self._shares[leaf]:
            if rank == 0:
                flat[start:stop] = self._shard._bound().states[leaf][slot]
            else:
                for piece in self._pieces(flat[start:stop]):
                    self._comm.Recv(as_bytes(piece), rank)
        return whole

    def _send_what_is_wanted(self) -> None:
        states = self._shard._bound().states
        while (place := self._hear()) != _END:
            leaf, slot = place
            assert slot is not None
            for piece in self._pieces(states[leaf][slot]):
                self._comm.Send(as_bytes(piece), 0)

    # ---- loading ----

    def load(self, path: str | os.PathLike[str], *, params: bool = True, in_place: bool = False) -> None:
        """Read what `save` wrote, here, in one process, or on any number of ranks.

        All ranks call it, rank 0 reads, and sends to each its part.

        Parameters
        ----------
        path, params, in_place
            As for `Optimizer.load`. The path of rank 0 counts.

        Raises
        ------
        OSError
            On rank 0, if the file cannot be read.
        ValueError
            If it is truncated, altered or does not fit.
        Disagreement
            On ranks where nothing has failed, if something has elsewhere. Nothing has been changed on any rank then,
            unless the file was read in place.
        """
        plan = self._shard._bound()
        reader: checkpoint.Reader | None = None
        text, stack = b"", ExitStack()
        found: _Fitting
        new, states = [np.asarray(array) for array in self._whole.arrays], plan.states

        def opened() -> dict[str, bytes]:
            nonlocal reader
            self._shard._ready("load")
            if params:
                self._whole.check_parameters()
            if self._comm.rank == 0:
                reader = stack.enter_context(checkpoint.Reader(path))
            return {"arguments": repr((bool(params), bool(in_place))).encode()}

        def fitting() -> dict[str, bytes]:
            nonlocal found, new, states
            try:
                found = self._fit(text, params)
            except (TypeError, ValueError, RecursionError) as error:
                if reader is not None:
                    reader.read({})  # which says so if the file is damaged
                raise ValueError(f"{os.fspath(path)} cannot be loaded: {error}") from None
            if not in_place:
                new = [_unset(like, like.shape) for like in new] if params else new
                pairs = zip(found.keys, self._sums, strict=True)
                states = [{slot: np.empty_like(like) for slot in keys} for keys, like in pairs]
            elif reader is not None:
                reader.read({})  # all of it is sound: it can only fail now if it changes meanwhile
            return {}

        def stream() -> None:
            if reader is None:
                self._receive(new, states)
                return
            wanted: dict[str, Place] = {k: (i, slot) for i, keys in enumerate(found.keys) for slot, k in keys.items()}
            if params:
                wanted |= {name: (i, None) for i, name in enumerate(plan.names)}
            passing = _Passing(self, wanted, new, states)
            try:
                reader.read(passing)
                passing.hand_out()
            finally:
                self._tell(_END)

        def replace() -> None:
            nonlocal states
            found.replace(self._shard, [{} for _ in new] if in_place else states, None, torn=in_place)
            if in_place:
                states = plan.states
            elif params:
                for array, source in zip(self._whole.arrays, new, strict=True):
                    array[...] = source

        with self._lock, held(), stack:
            together(self._comm, "load()", opened)
            text = self._told(_listed(reader))
            together(self._comm, "load()", fitting)
            if not in_place:
                together(self._comm, "load()", stream)
            try:
                together(self._comm, "load()", replace)
                if in_place:
                    together(self._comm, "load()", stream)
                    plan.mend()
            except BaseException:
                plan.tear()
                raise

    def _told(self, text: bytes) -> bytes:
        """What rank 0 says."""
        length = np.array([len(text)])
        self._comm.Bcast(length, 0)
        found = np.empty(int(length[0]), np.uint8)
        if self._comm.rank == 0:
            found[:] = np.frombuffer(text, np.uint8)
        for piece in self._pieces(found):
            self._comm.Bcast(as_bytes(piece), 0)
        return found.tobytes()

    def _fit(self, text: bytes, params: bool) -> _Fitting:
        """Check what a file says against the whole parameters, and then as a file with what this rank gets of it."""
        metadata, listed = json.loads(text)
        specs = {name: (np.dtype(dtype), tuple(shape)) for name, dtype, shape in listed}
        plan, slots = self._shard._bound(), self._shard._slots
        for name, whole, part in zip(plan.names, self._whole.specs, plan.specs, strict=True):
            for key in [name] * bool(params) + [f"{name}.{public}" for public in slots.values()]:
                if key in specs:
                    _check_fit(key, specs[key], whole)
                    specs[key] = part
        found = self._shard._fitting(metadata, specs, params)
        for name, of_rows in zip(plan.names, found.rows, strict=True):
            if of_rows is not None:
                raise ValueError(f"rows of {name} had gradients of their own: wanted one that only whole ones have had")
        return found

    def _receive(self, new: list[Array], states: list[dict[str, Array]]) -> None:
        """Take what rank 0 hands out."""
        while (place := self._hear()) != _END:
            leaf, slot = place
            if slot is None:
                self._bring(new[leaf])
            elif self._shares[leaf]:
                self._deal(leaf, None, states[leaf][slot])

    def _bring(self, array: Array) -> None:
        """Bring an array of rank 0 to all ranks."""
        for piece in self._pieces(laid_flat(array)):
            self._comm.Bcast(as_bytes(piece), 0)

    def _deal(self, leaf: int, whole: Array | None, own: Array) -> None:
        """Bring the parts of an array of the state, which rank 0 has, to their owners."""
        for rank, start, stop in self._shares[leaf]:
            if whole is not None and rank == 0:
                own[...] = laid_flat(whole)[start:stop]
            elif whole is not None:
                for piece in self._pieces(laid_flat(whole)[start:stop]):
                    self._comm.Send(as_bytes(piece), rank)
            elif rank == self._comm.rank:
                for piece in self._pieces(own):
                    self._comm.Recv(as_bytes(piece), 0)

    # ---- what rank 0 says ----

    def _tell(self, place: Place) -> None:
        """Tell the other ranks which array comes next."""
        leaf, slot = place
        slots = self._shard._bound().slots
        self._comm.Bcast(np.array([leaf, -1 if slot is None else slots.index(slot)]), 0)

    def _hear(self) -> Place:
        """Be told."""
        said = np.empty(2, np.int64)
        self._comm.Bcast(said, 0)
        leaf, slot = said.tolist()
        return leaf, None if slot < 0 else self._shard._bound().slots[slot]

    def _pieces(self, flat: Array) -> Iterator[Array]:
        """An array in pieces that one message may have."""
        count = self._rooms.shape[-1] // flat.itemsize
        for start in range(0, flat.size, count):
            yield flat[start : start + count]


def _listed(reader: checkpoint.Reader | None) -> bytes:
    """What a file says of itself, as text."""
    if reader is None:
        return b""
    specs = [(name, dtype.str, shape) for name, (dtype, shape) in reader.specs.items()]
    return json.dumps([reader.metadata, specs]).encode()


class _Fetched:
    """A whole array of the state, for who writes it to a file: it is fetched from all ranks when it is asked for."""

    def __init__(self, files: Files, leaf: int, slot: str) -> None:
        self._what = files, leaf, slot
        whole = files._whole.arrays[leaf]
        self.dtype, self.shape, self.nbytes = whole.dtype, whole.shape, whole.nbytes

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        files, leaf, slot = self._what
        return files._fetch(leaf, slot)


class _Passing(dict[str, Array]):
    """Where a reader puts the arrays of a file, one after the other: each is handed out when the next is asked for."""

    def __init__(
        self, files: Files, wanted: dict[str, Place], new: list[Array], states: list[dict[str, Array]]
    ) -> None:
        self._files, self._wanted, self._new, self._states = files, wanted, new, states
        self._last: tuple[Place, Array] | None = None

    def get(self, name: str, default: Any = None) -> Any:
        """Return where to put an array, None if it is not wanted."""
        self.hand_out()
        place = self._wanted.get(name)
        if place is None:
            return None
        leaf, slot = place
        whole = self._new[leaf]
        self._last = place, whole if slot is None else _unset(whole, whole.shape)
        return self._last[1]

    def hand_out(self) -> None:
        """Send off what was read last."""
        if self._last is None:
            return
        (leaf, slot), array = self._last
        self._last = None
        self._files._tell((leaf, slot))
        if slot is None:
            self._files._bring(array)
        else:
            self._files._deal(leaf, array, self._states[leaf][slot])

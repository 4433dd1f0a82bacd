"""`Sharded`: an optimizer whose state is shared out among ranks."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar, NoReturn

import numpy as np
from mpi4py import MPI

from .. import hyper, threads
from ..engine import kernels
from ..engine.chunks import CHUNK
from ..engine.lock import Lock
from ..engine.plan import Plan
from ..interrupts import held
from ..optimizer import Optimizer, Params
from ..split import Split
from ..tree import Tree
from .files import Files
from .messages import (
    BUFFER,
    Array,
    Part,
    Reduce,
    add_up,
    as_bytes,
    cut,
    filled,
    in_order_of,
    laid,
    laid_flat,
    message,
    message_size,
    most_bytes,
    reduction,
    runs,
)
from .ranks import meet, share_of_processors, together

__all__ = ["Sharded"]


class _Shard(Optimizer):
    """What an optimizer of any class is over the parts of its parameters that one rank owns."""

    _sharded: Sharded

    def _configuration(self, plan: Plan, options: Mapping[str, Any]) -> tuple[Any, ...]:
        mask, whole = options["decay_mask"], self._sharded._whole
        wholes = dict(zip(map(id, plan.arrays), whole.arrays, strict=True))
        if mask is not None:
            options = {**options, "decay_mask": lambda path, part: mask(path, wholes[id(part)])}
        zero, _, *others = super()._configuration(plan, options)
        # Of gradients, the caller's are zeroed, and not their sums.
        whole.configure(zero, False, 0.0, 0.0, [True] * len(wholes), None)
        return False, True, *others

    def _arrays(self, params: bool) -> dict[str, Array]:
        return self._sharded._whole_arrays(params)

    # What the engine asks in the course of a step: first, when all that can fail on one rank has been done.

    def _screened(self, scale: float) -> float | None:
        self._sharded._meet_in_step()
        self._sharded._sum_gradients()
        return super()._screened(scale)

    def _first_nonfinite(self) -> tuple[int, tuple[int, ...], Any] | None:
        return self._sharded._first_of_all(super()._first_nonfinite())

    def _sum_squares(self, unit: float) -> float:
        found = self._sharded._of_all_chunks(self._bound().chunk_squares(unit))
        return float(_in_turn(np.zeros(1), *found.values()))

    def _squares(self, unit: float) -> list[float]:
        return self._sums_of_all(self._bound().chunk_squares(unit)).tolist()  # type: ignore[no-any-return]

    def _sums_of_all(self, chunks: Array) -> Array:
        """Return what the chunks of each leaf add up to, on all ranks."""
        found = np.zeros((len(self._bound().arrays), *chunks.shape[1:]))
        for leaf, of_leaf in self._sharded._of_all_chunks(chunks).items():
            found[leaf] = _in_turn(np.zeros((1, *chunks.shape[1:])), of_leaf)
        return found


def _in_turn(*chunks: Array) -> Array:
    """Sums of chunks added up one after the other, as the engine adds them: not in pairs, as `numpy.sum` would."""
    with np.errstate(all="ignore"):
        found: Array = np.add.accumulate(np.concatenate(chunks))[-1]
    return found


class Sharded(Files):
    """An optimizer of almost any class on many ranks, each of which has the state of a part of the parameters.

    All ranks have all parameters, with the same values, and make the same calls. The parameters, the state and the
    checkpoint have the bits that one process gets which is given the sum or mean of all ranks' gradients, whatever the
    number of ranks. That sum is taken in a fixed tree: neighbours in pairs, then these sums in pairs, and so on. Where
    their number is odd, the last goes on as it is.

    Parameters
    ----------
    optimizer : type
        The class of the optimizer, such as `fastopt.AdamW`.
    params : array, list, tuple or dict
        Parameters or groups, as for `Optimizer`.
    comm : mpi4py.MPI.Comm
        The ranks. It is duplicated, so that messages of yours are apart.
    reduce : {"mean", "sum"}
        What is taken of the ranks' gradients: the sum divided by the number of ranks, or the sum.
    buffer_bytes : int
        Memory for messages on each rank.
    **options
        Hyper-parameters and options, as the class takes them.

    Raises
    ------
    TypeError, ValueError
        If something is not as it must be on this rank, or the class is not for this.
    Disagreement
        If another rank has failed, or has other parameters.

    Notes
    -----
    Hyper-parameters and options are attributes, as in `Optimizer`, and so are ``param_groups``, ``steps``, ``skipped``,
    ``step_counts``, ``current_lr``, ``grad_norm`` and ``nbytes``. Set them on all ranks alike. The parameters in
    ``param_groups`` are the parts that this rank updates, laid flat.

    Ranks of one machine share its processors: the number of threads is set to this rank's share of them.

    Examples
    --------
    >>> import fastopt, fastopt.mpi, numpy as np
    >>> from mpi4py import MPI
    >>> w = np.array([1.0, 2.0])
    >>> opt = fastopt.mpi.Sharded(fastopt.SGD, w, lr=0.5, comm=MPI.COMM_SELF)
    >>> opt.step(np.array([2.0, 2.0]))
    True
    >>> w
    array([0., 1.])
    """

    _OWN: ClassVar[set[str]] = {
        "param_groups", "steps", "skipped", "step_counts", "current_lr", "grad_norm", "nbytes",
    }  # fmt: skip

    def __init__(
        self,
        optimizer: type[Optimizer],
        params: Params,
        *,
        comm: Any,
        reduce: Reduce = "mean",
        buffer_bytes: int = BUFFER,
        **options: Any,
    ) -> None:
        if not isinstance(comm, MPI.Intracomm):
            raise TypeError(f"comm is {comm!r}: wanted a communicator such as mpi4py.MPI.COMM_WORLD")
        self._comm = comm.Dup()
        self._comm.Set_errhandler(MPI.ERRORS_RETURN)
        self._lock = Lock()

        def make() -> dict[str, bytes]:
            self._reduce: Reduce = reduction("reduce", reduce)
            self._make(optimizer, params, hyper.whole("buffer_bytes", buffer_bytes), options)
            return {"parameters or settings": self._described(), "values in its parameters": self._digest()}

        with held():
            try:
                together(self._comm, "Sharded()", make)
            except BaseException:
                self._comm.Free()
                raise
            threads.set_num_threads(min(threads.get_num_threads(), share_of_processors(self._comm)))

    def _make(self, cls: type[Optimizer], params: Any, buffer_bytes: int, options: dict[str, Any]) -> None:
        _check_class(cls)
        #: the parameters as they were given
        self.params = params
        tree = Tree(params)
        if not tree.leaves:
            raise ValueError(f"params has no parameters: it is {params!r}")
        self._whole = Plan(tree, (), {}, {}, [cls] * tree.n_groups, self._lock, False)
        self._params = [laid_flat(array) for array in tree.leaves]
        itemsizes = [p.itemsize for p in self._params]
        ranks, rank = self._comm.size, self._comm.rank
        most = most_bytes(buffer_bytes, 4 * ranks)
        self._runs = runs([p.size for p in self._params], itemsizes, ranks)
        self._messages = [cut(run, itemsizes, most) for run in self._runs]
        self._rooms = np.empty((2, 2, ranks, most), np.uint8)  # of each other round, what is received and sent
        #: of each leaf, where this rank's part of it begins
        self._starts = [0] * len(self._params)
        parts = [p[:0] for p in self._params]
        #: of each leaf, which rank has what: (rank, from, to)
        self._shares: list[list[tuple[int, int, int]]] = [[] for _ in self._params]
        for other, run in enumerate(self._runs):
            for leaf, start, stop in run:
                self._shares[leaf].append((other, start, stop))
        for leaf, start, stop in self._runs[rank]:
            self._starts[leaf], parts[leaf] = start, self._params[leaf][start:stop]
        self._gradients: list[Any] = []
        self._sums = [np.empty_like(part) for part in parts]
        groups = params if tree.grouped else [{"params": params}]
        left = iter(parts)
        mine = [{**group, "params": filled(group["params"], left)} for group in groups]
        made: Any = type(cls.__name__, (_Shard, cls), {})  # under the name that checkpoints have
        shard: Any = made.__new__(made)
        shard._sharded, shard._shared = self, [p.size for p in self._params]
        shard.__init__(mine if tree.grouped else mine[0]["params"], **options)
        self._shard: _Shard = shard

    def _described(self) -> bytes:
        """All that must be the same on all ranks from the beginning."""
        tree = self._whole.tree
        orders = [array.flags.c_contiguous for array in tree.leaves]
        made = type(self._shard).__name__, self._reduce, self._rooms.shape
        return repr((made, tree.names, tree.groups, self._whole.specs, orders)).encode()

    def _digest(self) -> bytes:
        digest = hashlib.blake2b()
        for p in self._params:
            digest.update(p.view(np.uint8).data)
        return digest.digest()

    # ---- stepping ----

    def step(self, grads: Any, *, loss_scale: float | None = None) -> bool:
        """Update the parameters in place, on all ranks, by the gradients of all ranks.

        Parameters
        ----------
        grads : array, list, tuple or dict
            This rank's gradients in the structure of the parameters, as for `Optimizer.step`. What is None must be None
            on all ranks.
        loss_scale : float, optional
            What the loss was multiplied by: gradients are divided by it.

        Returns
        -------
        bool
            True if the step was applied, False if it was skipped as a whole on all ranks (``nonfinite="skip"``).

        Raises
        ------
        TypeError, ValueError
            If anything is not as it must be on this rank. Nothing has been changed on any rank then.
        Disagreement
            If that is so on another rank, or ranks differ in their hyper-parameters, options, number of steps, or
            gradients that are None. Nothing has been changed on any rank then.
        FloatingPointError
            With ``nonfinite="raise"``, on all ranks, if the sum of gradients has an Inf or NaN.
        RuntimeError
            If the optimizer cannot step now.
        mpi4py.MPI.Exception
            If MPI fails. Where that is after the first write, the optimizer is torn until a `load`.
        """
        with self._lock, held():
            self._met = False
            grads_taken: list[Array | None] = []
            try:
                grads_taken = self._whole.taken(grads)
                self._take(grads_taken)
                done = self._shard.step(self._own_gradients(), loss_scale=loss_scale)
            except BaseException as error:
                if not self._met:
                    meet(self._comm, "step()", error, {})
                if isinstance(error, FloatingPointError):
                    self._zero(grads_taken)
                raise
            finally:
                self._gradients.clear()
            if done:
                self._spread(self._active)
            self._zero(grads_taken)
            return done

    def _take(self, grads: list[Array | None]) -> None:
        """Have a look at this step's gradients, of which the caller sees to it that they stay."""
        pairs = zip(self._whole.arrays, grads, strict=True)
        self._gradients = [None if g is None else in_order_of(p, g) for p, g in pairs]
        self._active = self._messages
        if any(g is None for g in grads):
            self._active = [
                [[part for part in parts if grads[part[0]] is not None] for parts in messages]
                for messages in self._messages
            ]

    def _own_gradients(self) -> Any:
        """The sums over this rank's parts, in the structure of its optimizer's parameters."""
        pairs = zip(self._sums, self._gradients, strict=True)
        left = iter([None if g is None else sums for sums, g in pairs])
        tree = self._whole.tree
        parts = [filled(part, left) for part in tree.parts]
        return parts if tree.grouped else parts[0]

    def _meet_in_step(self) -> None:
        """Agree with the others on all there is to do in this step: nothing can fail after it but MPI."""
        shard = self._shard
        options = (shard.nonfinite, shard.zero_grads, shard.clip_norm, shard.clip_tensor_norm, shard.clip_value)
        settings = repr((options, shard.ema_decay, kernels.get_flush())).encode() + shard._bound().folded()
        facts = {
            "number of steps": repr((shard.steps, shard.skipped)).encode(),
            "gradients that are None": bytes(g is None for g in self._gradients),
            "hyper-parameters or options": settings,
        }
        self._met = True
        meet(self._comm, "step()", None, facts)

    def _sum_gradients(self) -> None:
        """Get the sums over this rank's parts, a message from each rank at a time."""
        rank, ranks = self._comm.rank, self._comm.size
        like, mine = self._params, self._active[self._comm.rank]

        def post(k: int) -> list[Any]:
            requests = []
            for other in self._others():
                if k < len(mine) and mine[k]:
                    room = self._rooms[k % 2, 0, other, : message_size(mine[k], like)]
                    requests.append(self._comm.Irecv(as_bytes(room), other))
            for other in self._others():
                parts = self._active[other][k] if k < len(self._active[other]) else []
                if parts:
                    sent = message(self._rooms[k % 2, 1, other], parts, self._gradients, like)
                    requests.append(self._comm.Isend(as_bytes(sent), other))
            return requests

        def finish(k: int) -> None:
            if k < len(mine):
                received = [laid(self._rooms[k % 2, 0, other], mine[k], like) for other in range(ranks)]
                received[rank] = [self._gradients[leaf][start:stop] for leaf, start, stop in mine[k]]
                own = [(leaf, start - self._starts[leaf], stop - self._starts[leaf]) for leaf, start, stop in mine[k]]
                add_up(received, rank, [self._sums[leaf][start:stop] for leaf, start, stop in own], self._reduce)

        self._in_rounds(post, finish)

    def _spread(self, active: list[list[list[Part]]]) -> None:
        """Send this rank's parts of the parameters to all others, and get theirs; torn if that fails."""
        rank, like = self._comm.rank, self._params

        def post(k: int) -> list[Any]:
            requests = []
            for other in self._others():
                parts = active[other][k] if k < len(active[other]) else []
                if len(parts) == 1:
                    leaf, start, stop = parts[0]
                    requests.append(self._comm.Irecv(as_bytes(like[leaf][start:stop]), other))
                elif parts:
                    room = self._rooms[k % 2, 0, other, : message_size(parts, like)]
                    requests.append(self._comm.Irecv(as_bytes(room), other))
            if k < len(active[rank]) and active[rank][k]:
                sent = message(self._rooms[k % 2, 1, rank], active[rank][k], like, like)
                requests += [self._comm.Isend(as_bytes(sent), other) for other in self._others()]
            return requests

        def finish(k: int) -> None:
            for other in self._others():
                parts = active[other][k] if k < len(active[other]) else []
                if len(parts) > 1:
                    for (leaf, start, stop), part in zip(
                        parts, laid(self._rooms[k % 2, 0, other], parts, like), strict=True
                    ):
                        like[leaf][start:stop] = part

        try:
            self._in_rounds(post, finish)
        except BaseException:
            self._shard._bound().tear()
            raise

    def _others(self) -> list[int]:
        """The other ranks, beginning with the next one: so that not all send to one at a time."""
        rank, ranks = self._comm.rank, self._comm.size
        return [(rank + k) % ranks for k in range(1, ranks)]

    def _in_rounds(self, post: Callable[[int], list[Any]], finish: Callable[[int], None]) -> None:
        """Exchange messages in rounds: the next ones are on their way before these are finished."""
        rounds = max(map(len, self._messages))
        posted: list[list[Any]] = [post(0)] if rounds else []
        for k in range(rounds):
            if k + 1 < rounds:
                posted.append(post(k + 1))
            MPI.Request.Waitall(posted.pop(0))
            finish(k)

    def _zero(self, grads: Iterable[Array | None]) -> None:
        """Zero the caller's gradients, where that is wanted."""
        if self._shard.zero_grads:
            for g in grads:
                if g is not None:
                    g.fill(0)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Hold averages of the parameters inside a ``with`` block, on all ranks, and restore their old bits after it.

        As `Optimizer.averaged`: all ranks enter the block, and leave it.
        """
        averages = ExitStack()

        def enter() -> None:
            averages.enter_context(self._shard.averaged())

        with self._lock, held():
            together(self._comm, "averaged()", enter)
            self._spread(self._messages)
        try:
            yield
        finally:
            with self._lock, held():
                averages.close()
                self._spread(self._messages)

    # ---- what is known of all gradients ----

    def _first_of_all(self, mine: tuple[int, tuple[int, ...], Any] | None) -> tuple[int, tuple[int, ...], Any] | None:
        """The first Inf or NaN among the sums of all ranks, from the first of each."""
        row = np.full(3, -1.0)
        if mine is not None:
            leaf, (at,), value = mine
            row[:] = leaf, self._starts[leaf] + at, value
        table = np.empty((self._comm.size, 3))
        self._comm.Allgather(row, table)
        bad = table[table[:, 0] >= 0]
        if len(bad) == 0:
            return None
        leaf, place, value = int(bad[0, 0]), int(bad[0, 1]), bad[0, 2]
        array = self._whole.arrays[leaf]
        index = np.unravel_index(place, array.shape, "C" if array.flags.c_contiguous else "F")
        return leaf, tuple(map(int, index)), array.dtype.type(value)

    def _of_all_chunks(self, mine: Array) -> dict[int, Array]:
        """What is known of this rank's chunks, of all ranks' chunks, in their order: by leaf."""
        active = [
            [(leaf, -(-(stop - start) // CHUNK)) for leaf, start, stop in run if self._gradients[leaf] is not None]
            for run in self._runs
        ]
        counts = [sum(chunks for _, chunks in run) for run in active]
        found = np.empty((sum(counts), *mine.shape[1:]))
        self._comm.Allgatherv(mine, [found, [count * math.prod(mine.shape[1:]) for count in counts]])
        by_leaf: dict[int, list[Array]] = {}
        at = 0
        for leaf, chunks in itertools.chain(*active):
            by_leaf.setdefault(leaf, []).append(found[at : at + chunks])
            at += chunks
        return {leaf: np.concatenate(parts) for leaf, parts in by_leaf.items()}

    # ---- what is known of it ----

    @property
    def state(self) -> Mapping[str, Mapping[str, Any]]:
        """The part of the state that this rank has, by the parameter's name and its own: (offset, flat slice).

        The slice is the array itself, of those elements of the whole that come from the offset on, in the order of the
        parameter's memory. It is empty where another rank has them all. Numbers that a class keeps for each parameter,
        or for its group, are arrays without dimensions, as in `Optimizer.state`.
        """
        starts = dict(zip(self._whole.names, self._starts, strict=True))
        return {
            name: {key: array if array.ndim == 0 else (starts[name], array) for key, array in arrays.items()}
            for name, arrays in self._shard.state.items()
        }

    def reset(self) -> None:
        """Be as new, as `Optimizer.reset`: to be called on all ranks."""
        with self._lock:
            self._shard.reset()

    def close(self) -> None:
        """Give back what MPI keeps for the optimizer, which is of no use then: for programs that make thousands.

        All ranks call it.
        """
        self._comm.Free()

    def __repr__(self) -> str:
        comm = self._comm
        return f"Sharded({self._shard!r}, reduce={self._reduce!r}, rank {comm.rank} of {comm.size})"

    def __getattr__(self, name: str) -> Any:
        shard = self.__dict__.get("_shard")
        if shard is not None and (name in self._OWN or name in shard._declared):
            return getattr(shard, name)
        if hasattr(Optimizer, name):
            raise AttributeError(f"fastopt.mpi.Sharded has no {name!r}, which optimizers of one process have")
        raise AttributeError(f"fastopt.mpi.Sharded has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        shard = self.__dict__.get("_shard")
        if name.startswith("_") or (name == "params" and shard is None):
            super().__setattr__(name, value)
        elif shard is not None and name in shard._declared:
            setattr(shard, name, value)
        else:
            raise AttributeError(f"fastopt.mpi.Sharded has no attribute {name!r} that can be set")

    def __reduce__(self) -> NoReturn:
        raise TypeError("fastopt.mpi.Sharded cannot be copied or pickled: use save and load")


def _check_class(cls: Any) -> None:
    """Raise for a class that is not for this."""
    if not (isinstance(cls, type) and issubclass(cls, Optimizer)) or cls is Optimizer:
        raise TypeError(f"optimizer is {cls!r}: wanted a class of optimizers, such as fastopt.AdamW")
    why = None
    if issubclass(cls, Split):
        why = "has several classes"
    elif cls.looks_ahead:
        why = "looks ahead"
    elif cls.in_numpy or cls.state_shape.__func__ is not Optimizer.state_shape.__func__:  # type: ignore[attr-defined]
        why = "goes by whole matrices, of which a rank has parts"
    if why is not None:
        raise ValueError(f"{cls.__name__} {why}, which fastopt.mpi cannot: wanted another class, such as fastopt.AdamW")

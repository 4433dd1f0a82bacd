"""How are gradients taken one by one, so that each can be released before the next is there?

Acts 1 and 3 of a step come first, acts 2 and 4 for each parameter, and act 5 last. No lock is held between parts: the
plan is marked as one that is away, so that nothing else steps, saves or loads it.
"""

cimport cython
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.string cimport memcpy

from .coefficients cimport Terms
from .lock cimport generation
from .lookahead cimport prepare

cdef str PARTS = ("a step in parts is under way: leave the `with opt.parts() as part:` block first")
cdef str OVER = "this step in parts is over: part() is for inside of `with opt.parts() as part:`"


@cython.final
cdef class Parts:
    """Context in which a step is taken in parts; it gives a function that takes one.

    Whatever ends the block, it counts as one step, in which parameters that were not given had no gradient.

    Parameters
    ----------
    plan : Plan
    owner : Optimizer
        Asked ``_screened_by(norm, scale)`` for what all gradients are to be multiplied by, None to skip the step.
    norm, loss_scale : float or None
    """

    def __cinit__(self, Plan plan, object owner, object norm, object loss_scale):
        self.plan, self.owner, self.norm, self.loss_scale = plan, owner, norm, loss_scale
        self.given = <bint *>PyMem_Calloc(plan.n_leaves + 1, sizeof(bint))
        self.asked = <bint *>PyMem_Calloc(plan.n_groups + 1, sizeof(bint))
        if not (self.given and self.asked):
            raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self.given)
        PyMem_Free(self.asked)

    def __enter__(self):
        cdef Plan plan = self.plan
        cdef Py_ssize_t i
        if self.entered:
            raise RuntimeError("parts() is for one step: call it again for the next one")
        plan.lock.acquire()
        try:
            prepare(plan, self.owner, "parts()")
            plan.begin(self.owner, self.loss_scale)
            for own in plan.terms:
                if (<Terms>own).wants_totals:
                    raise TypeError(f"{type(self.owner).__name__} needs sums over all gradients before its first "
                                    "update: its steps cannot be taken in parts")
            plan.check_parameters()
            self.places = plan.tree.places
            scale = self.owner._screened_by(self.norm, plan.scale)
            self.skipped = scale is None
            if not self.skipped:
                plan.scale = scale
            for i in range(plan.n_leaves):
                plan.leaves[i].active = False
            plan.renumber()
            self.terms, self.entered = plan.terms, True
            plan.away, plan.in_parts = PARTS, True
        finally:
            plan.lock.release()
        return self.part

    def __exit__(self, *_):
        cdef Plan plan = self.plan
        plan.lock.acquire()
        self.end()
        plan.lock.release()

    cdef void end(self) noexcept:
        """Act 5."""
        cdef Plan plan = self.plan
        if plan.away is not PARTS or not plan.in_parts:
            return
        plan.away, plan.in_parts = None, False
        if self.skipped:
            plan.skipped += 1
        else:
            memcpy(plan.asked, self.asked, plan.n_groups * sizeof(bint))
            plan.end_parts()

    def part(self, name, gradient):
        """Update one parameter by its gradient, which may be used for other things afterwards.

        Parameters
        ----------
        name : str or int
            The parameter's key or index; the keys and indices that lead to it with dots between, as in ``"l1.bias"``;
            or its name in `Optimizer.state`.
        gradient : array or None
            None leaves it out.

        Returns
        -------
        bool
            True if it was updated, False if it was not: without a gradient, or in a step that is skipped because of
            `norm`.
        """
        cdef Plan plan = self.plan
        cdef Py_ssize_t leaf
        cdef int group
        cdef bint done = False, left = False
        cdef int forks = generation
        plan.lock.acquire()
        try:
            self.check()
            leaf = self.place_of(name)
            try:
                plan.take_leaf(leaf, gradient)
                if not plan.leaves[leaf].active:
                    self.given[leaf] = True
                    return False
                if plan.named is not None:
                    plan.check_rows(None)
                plan.renumber()
                if self.skipped:
                    self.given[leaf] = True
                    plan.zero_bad_gradients()
                    return False
                plan.own_factors = False
                self.owner._screened_part()
                plan.fold_in(plan.terms, plan.bindings, plan.sums)
                plan.look_again()
                if plan.terms is not self.terms or forks != generation:
                    self.check()  # which says so
                self.given[leaf] = True
                if plan.in_numpy:
                    left = plan.update_by_reference(self.owner, None, False)
                else:
                    left = plan.update(None)
                done = True
                for group in range(plan.n_groups):
                    self.asked[group] = self.asked[group] or plan.asked[group]
                return True
            finally:
                if not done:
                    left = plan.end_step(False)
                if left:
                    plan.let_go()
                plan.leaves[leaf].active = False
        finally:
            plan.lock.release()

    cdef int check(self) except -1:
        """Raise if the step cannot go on."""
        cdef Plan plan = self.plan
        if plan.generation != generation:  # a forked child goes on, unless it was forked in the middle of a part
            if plan.away is PARTS:
                plan.away = None
            plan.notice_fork()
            plan.away = PARTS
        if plan.away is not PARTS or not plan.in_parts:
            raise RuntimeError(plan.away if plan.away is not None and plan.away is not PARTS else OVER)
        if plan.terms is not self.terms:
            raise RuntimeError("a group or an option was changed inside of the `with opt.parts() as part:` block: a "
                               "step goes by what it began with, so change them before or after it")
        return 0

    cdef Py_ssize_t place_of(self, object name) except -1:
        """The leaf that is meant."""
        try:
            leaf = self.places.get(name)
        except TypeError:
            leaf = None
        if leaf is None:
            raise KeyError(f"part({name!r}, …): there is no such parameter; there are {', '.join(self.plan.names[:8])}"
                           f"{', …' if len(self.plan.names) > 8 else ''}")
        if leaf < 0:
            raise ValueError(f"part({name!r}, …): groups have several parameters of this name; use that of opt.state")
        if self.given[<Py_ssize_t>leaf]:
            raise ValueError(f"part({name!r}, …): {self.plan.names[leaf]} was given in this step already")
        return leaf

"""How do parameters go to another point, and come back to the very bits?"""

cimport cython
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.string cimport memcpy

cimport numpy as cnp

from .chunks cimport UPDATE, Leaf
from .coefficients cimport Terms
from .kernels cimport FO_NO_DECAY, fo_coef
from .lock cimport enter_gate, leave_gate
from .sweep cimport BREAK_EVEN

cnp.import_array()

cdef str AVERAGED = "the parameters hold averages: leave the `with opt.averaged():` block first"
cdef str LOOKING = "the optimizer is looking ahead: leave the `with opt.lookahead():` block first"


cdef int prepare(Plan plan, object owner, str asked) except -1:
    """Be ready to leave: what was asked for is still of these parameters, and the groups are as they are now."""
    if owner._plan is not plan:
        raise RuntimeError(f"the optimizer was bound to other parameters since {asked} was called: call it again")
    plan.check_ready()
    plan.settle(owner)
    return 0


@cython.final
cdef class LookAhead:
    """Context in which parameters have gone where one rule leads, and come back from there by another.

    To go and to note it is one call of C code, and so is to come back: no signal comes between. The way back takes no
    memory, and may be gone more than once.

    Parameters
    ----------
    plan : Plan
    owner : Optimizer
    there, back : str
        The rules. Neither reads gradients; the second has no scalars.
    scalars : callable
        From a group's hyper-parameters to the first one's scalars.
    """

    def __cinit__(self, Plan plan, object owner, str there, str back, object scalars):
        cdef int group
        self.plan, self.owner, self.scalars = plan, owner, scalars
        self.bindings = <Binding *>PyMem_Calloc(2 * plan.n_groups, sizeof(Binding))
        if self.bindings == NULL:
            raise MemoryError
        for group in range(plan.n_groups):
            plan.resolve(&self.bindings[group], there, FO_NO_DECAY, False)
            plan.resolve(&self.bindings[plan.n_groups + group], back, FO_NO_DECAY, False)

    def __dealloc__(self):
        PyMem_Free(self.bindings)

    def __enter__(self):
        cdef Plan plan = self.plan
        cdef fo_coef *c
        cdef int group
        plan.lock.acquire()
        try:
            prepare(plan, self.owner, "lookahead()")
            plan.n_coefs = 0
            for group in range(plan.n_groups):
                c = plan.new_coef()
                c.scale, c.decay = 1.0, 0.0
                if (<Terms>plan.terms[group]).moves:
                    (<Terms>plan.terms[group]).move(plan.steps)
                for i, value in enumerate(self.scalars(plan.terms[group].now)):
                    c.c[i] = value
            plan.check_parameters()
            plan.sweeper.reserve(&plan.all, 0)
            self.go(self.bindings, LOOKING, True)
        finally:
            plan.lock.release()

    def __exit__(self, error, *_):
        cdef Plan plan = self.plan
        plan.lock.acquire()
        if plan.away is LOOKING:
            self.go(self.bindings + plan.n_groups, None, error is not None)
        plan.lock.release()

    cdef void go(self, Binding *bindings, object away, bint unlooked) noexcept:
        """One way, and the note of where the parameters are now."""
        cdef Plan plan = self.plan
        cdef Binding *kept = plan.bindings
        cdef Py_ssize_t i
        cdef Leaf *f
        for i in range(plan.n_leaves):
            f = &plan.leaves[i]
            f.active, f.order, f.g, f.coef = True, NULL, f.p, f.group
        enter_gate()
        plan.renumber()
        if plan.all.traffic >= BREAK_EVEN:  # the step follows the way back at once: it tells nothing
            self.rested = plan.sweeper.rested() or away is None and self.rested
            if away is None:
                plan.sweeper.keep_pace(self.rested)
        plan.bindings = bindings
        plan.sweep(UPDATE)
        plan.bindings = kept
        plan.away, plan.unlooked = away, unlooked
        leave_gate()


@cython.final
cdef class Averaged:
    """Context in which parameters are exchanged with other arrays, and exchanged back.

    Parameters
    ----------
    plan : Plan
    owner : Optimizer
    averages : callable
        Gives an array for each parameter, of its type, shape and memory order and with memory of its own, or None for
        one that is to stay. The parameters' old values lie in these arrays meanwhile.
    """

    def __cinit__(self, Plan plan, object owner, object averages):
        self.plan, self.owner, self.averages = plan, owner, averages

    def __enter__(self):
        cdef Plan plan = self.plan
        cdef Py_ssize_t i
        plan.lock.acquire()
        try:
            prepare(plan, self.owner, "averaged()")
            self.arrays = self.averages()
            plan.check_parameters()
            for i in range(plan.n_leaves):
                if self.arrays[i] is not None and (<cnp.ndarray>self.arrays[i]).nbytes != plan.arrays[i].nbytes:
                    raise ValueError(f"the average of {plan.names[i]} has another size")
            self.exchange(AVERAGED)
        finally:
            plan.lock.release()

    def __exit__(self, *_):
        cdef Plan plan = self.plan
        plan.lock.acquire()
        if plan.away is AVERAGED:
            self.exchange(None)
        plan.lock.release()

    cdef void exchange(self, object away) noexcept:
        """One way, and the note of where the parameters are now."""
        cdef Plan plan = self.plan
        cdef Py_ssize_t i, n, some
        cdef char tile[4096]
        cdef char *p
        cdef char *x
        enter_gate()
        for i in range(plan.n_leaves):
            if self.arrays[i] is None:
                continue
            p, x = plan.leaves[i].p, <char *>cnp.PyArray_DATA(<cnp.ndarray>self.arrays[i])
            n = plan.leaves[i].n * plan.leaves[i].itemsize
            with nogil:
                while n > 0:
                    some = min(n, <Py_ssize_t>sizeof(tile))
                    memcpy(tile, p, some)
                    memcpy(p, x, some)
                    memcpy(x, tile, some)
                    p, x, n = p + some, x + some, n - some
        plan.away = away
        leave_gate()

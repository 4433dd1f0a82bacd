"""The acts of a step, over the memory of one optimizer."""

cimport cython
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy

cimport numpy as cnp

from .coefficients cimport Terms
from .kernels cimport FO_NO_DECAY, FO_REALS, fo_rule, names_of, variant
from .sweep cimport (
    CHUNK_ELEMENTS, ELEMENTS_PER_WORKER, FIND_NONFINITE, SUM_SQUARES, UPDATE, UPDATE_AND_ZERO, Leaf, chunks_of,
    in_order)

import numpy as np

from .kernels import DECAY_KINDS

cnp.import_array()


@cython.final
cdef class Plan(State):
    """The memory of one optimizer, and what a step does with it.

    Parameters
    ----------
    tree, zero_gradients, slots
        As for `State`.
    lock : Lock
        Held during each step.
    screened : bool
        Whether a step must ask its owner about the gradients before it writes.
    """

    def __cinit__(self, object tree, bint zero_gradients, tuple slots, Lock lock, bint screened):
        self.variant = variant
        self.lock, self.screened = lock, screened
        self.terms = [None] * self.n_groups
        self.bindings = <Binding *>calloc(self.n_groups + 1, sizeof(Binding))
        if not self.bindings:
            raise MemoryError

    def __dealloc__(self):
        free(self.bindings)
        free(self.coefs)

    @property
    def streak(self):
        """Steps back to back of late."""
        return self.sweeper.streak

    # -- rules and coefficients --

    cdef int resolve(self, Binding *b, str name, int kind) except -1:
        """Find a rule's kernels and the slots of its state."""
        cdef const fo_rule *rule
        cdef int real
        for real in range(FO_REALS):
            rule = self.variant.tables[real].rules
            while rule.name != NULL and rule.name.decode() != name:
                rule += 1
            if rule.name == NULL:
                raise KeyError(f"there is no rule {name!r}")
            b.kernel[real] = rule.step[kind]
            state = names_of(rule.state)
            b.n_state = len(state)
            for i, letter in enumerate(state):
                b.slot[i] = self.slots.index(letter)
        return 0

    cdef list changed(self, object owner):
        """Check the live groups that are not as they were: (group, new terms) of each; None if there are none."""
        cdef int group
        cdef list found = None
        groups = owner.param_groups
        if len(groups) != self.n_groups:
            raise ValueError(f"param_groups has {len(groups)} groups: wanted the {self.n_groups} it was made with")
        for group in range(self.n_groups):
            live = groups[group]
            terms = self.terms[group]
            if terms is None or not isinstance(live, dict) or not (<Terms>terms).hold(live):
                if found is None:
                    found = []
                found.append((group, owner._check_group(group)))
        return found

    cdef int adopt(self, object owner, list changes) except -1:
        """Go on with changed groups on their new terms, and give them the state they need."""
        for group, terms in changes:
            self.allocate(group, owner._slots_of(terms.rule))
            self.resolve(&self.bindings[<int>group], terms.rule, DECAY_KINDS[terms.kind])
            if self.terms[group] is not None:
                (<Terms>terms).inherit(self.terms[group])
            self.terms[group] = terms
        self.renumber()
        return 0

    def settle(self, object owner):
        """Take over what changed in the live groups."""
        self.adopt(owner, self.changed(owner) or [])

    cdef int set_coefficients(self, double scale) except -1:
        """Give every active leaf the coefficients of its group for its number of updates."""
        cdef int group, first, at
        cdef int64_t count = -1
        cdef Py_ssize_t i
        cdef Terms terms
        cdef double lr
        cdef dict found  # different counts among the group's leaves, a coefficient set each: its place
        self.n_coefs = 0
        for group in range(self.n_groups):
            terms = self.terms[group]
            lr = terms.rate(self.steps)
            first = at = self.n_coefs
            found = None
            for i in range(self.first_leaf[group], self.first_leaf[group + 1]):
                if not self.leaves[i].active:
                    continue
                if self.n_coefs == first:
                    self.new_coef()
                    count = self.watches[i].count
                elif self.watches[i].count != count:
                    if found is None:
                        found = {count: first}
                    count = self.watches[i].count
                    if count not in found:
                        found[count] = self.n_coefs
                        self.new_coef()
                    at = found[count]
                if self.leaves[i].coef != at:
                    self.leaves[i].coef = at
            if found is not None:
                terms.fill(np.array(list(found)) + 1)
                for at in range(first, self.n_coefs):
                    terms.fold(&self.coefs[at], at - first, lr, scale)
            elif self.n_coefs > first:
                terms.have(count + 1)
                terms.fold(&self.coefs[first], count + 1 - terms.begin, lr, scale)
        return 0

    cdef fo_coef *new_coef(self) except NULL:
        cdef fo_coef *grown
        if self.n_coefs == self.room_coefs:
            grown = <fo_coef *>realloc(self.coefs, (2 * self.room_coefs + 4) * sizeof(fo_coef))
            if grown == NULL:
                raise MemoryError
            self.coefs = grown
            self.room_coefs = 2 * self.room_coefs + 4
        self.n_coefs += 1
        return &self.coefs[self.n_coefs - 1]

    def coefficients(self, Py_ssize_t leaf):
        """Return a leaf's gradient factor, decay and scalars by name in this step."""
        cdef fo_coef *c = &self.coefs[self.leaves[leaf].coef]
        cdef Terms terms = self.terms[self.leaves[leaf].group]
        return c.scale, c.decay, {name: c.c[i] for i, name in enumerate(terms.names)}

    # -- the step --

    def step(self, object owner, object grads, object loss_scale, bint by_reference):
        """Update all parameters by their gradients; False if the owner had the step skipped.

        The owner, an `Optimizer`, is asked: ``_check_group`` where a live group changed, and ``_slots_of`` what state
        it needs then; ``_unscaling`` and ``_screened`` what the gradients are to be multiplied by; and
        ``_update_by_reference`` to do the arithmetic in its own way.
        """
        cdef double scale
        cdef bint done = False
        self.lock.acquire()
        try:
            if self.away is not None:
                raise RuntimeError(self.away)
            if self.all.elements >= 2 * ELEMENTS_PER_WORKER:
                self.sweeper.keep_pace()
            changes = self.changed(owner)
            scale = 1.0 if loss_scale is None else owner._unscaling(loss_scale)
            try:
                self.take(grads)
                if self.screened:
                    screened = owner._screened(scale)
                    if screened is None:
                        self.skipped += 1
                        return False
                    scale = screened
                if changes:
                    self.adopt(owner, changes)
                self.set_coefficients(scale)
                if by_reference:
                    owner._update_by_reference()
                else:
                    self.update()
                done = True
            finally:
                self.release(done)
                self.steps += done
        finally:
            self.lock.release()
        return True

    # -- sweeps --

    cdef int update(self) except -1:
        """Update all active leaves."""
        cdef Py_ssize_t i
        self.sweep(UPDATE_AND_ZERO if self.zero_gradients else UPDATE)
        if self.zero_gradients:
            for i in range(self.n_leaves):
                if self.leaves[i].active and self.leaves[i].order != NULL:
                    (<object>self.watches[i].held)[...] = 0
        return 0

    def apply(self, str rule, list scalars):
        """Run a rule that reads no gradient on every leaf; scalars holds a tuple a group."""
        cdef Py_ssize_t i
        cdef int group
        cdef fo_coef *c
        cdef Leaf *f
        cdef Binding *kept = self.bindings
        self.check_parameters()
        cdef Binding *b = <Binding *>calloc(self.n_groups + 1, sizeof(Binding))
        if b == NULL:
            raise MemoryError
        try:
            self.n_coefs = 0
            for group in range(self.n_groups):
                self.resolve(&b[group], rule, FO_NO_DECAY)
                c = self.new_coef()
                c.scale, c.decay = 1.0, 0.0
                for i, value in enumerate(scalars[group]):
                    c.c[i] = value
            for i in range(self.n_leaves):
                f = &self.leaves[i]
                f.active, f.order, f.g, f.coef = True, NULL, f.p, f.group
            self.renumber()
            self.bindings = b
            self.sweeper.keep_pace()  # the next step comes right after this, whatever else there is between steps
            self.sweep(UPDATE, False)
        finally:
            self.bindings = kept
            free(b)

    def sum_squares(self, double scale):
        """Return the sum of the squares of all active gradients, each first multiplied by scale."""
        cdef Py_ssize_t i
        cdef double sum = 0
        self.sweep(SUM_SQUARES, True, scale)
        for i in range(self.all.chunks):
            sum += self.sweeper.partial[i]
        return sum

    def find_nonfinite(self):
        """Return the first Inf or NaN among the active gradients: its leaf and its index there, or None."""
        cdef Py_ssize_t i, chunk, start
        cdef cnp.ndarray values
        cdef Leaf *f
        self.sweep(FIND_NONFINITE)
        for i in range(self.n_leaves):
            f = &self.leaves[i]
            if not f.active:
                continue
            for chunk in range(chunks_of(f)):
                if self.sweeper.partial[f.first + chunk] == 0:
                    continue
                start = chunk * CHUNK_ELEMENTS
                values = np.empty(min(f.n - start, <Py_ssize_t>CHUNK_ELEMENTS), self.arrays[i].dtype)
                if f.order == NULL:
                    memcpy(cnp.PyArray_DATA(values), f.g + start * f.itemsize, cnp.PyArray_NBYTES(values))
                else:
                    in_order(<char *>cnp.PyArray_DATA(values), f, start, cnp.PyArray_SIZE(values))
                at = start + int(np.isfinite(values).argmin())
                index = np.unravel_index(at, self.arrays[i].shape, order="F" if f.reversed else "C")
                return i, tuple(int(k) for k in index)
        return None

    cdef int sweep(self, Operation what, bint learns=True, double scale=1.0) except -1:
        """Carry one operation over all chunks of the active leaves."""
        cdef Sweep w
        w.what = what
        w.all = &self.all
        w.bindings = self.bindings
        w.coefs = self.coefs
        w.scale = scale
        w.slot = 0
        w.variant = self.variant
        self.sweeper.sweep(&w, learns)
        return 0

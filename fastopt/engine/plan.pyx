"""The five acts of a step, over the memory of one optimizer: begin, take, look, fold and update, end.

1. `begin`: groups that changed are checked, and this step's learning rates are asked for.
2. `take`, of `Leaves`: gradients are taken apart and checked.
3. `look`: what must be known of all gradients first: their norm, Inf or NaN. The step may be skipped here.
4. `fold` makes coefficients, and takes all the memory there is to take; then `update` changes parameters and state,
5. and ends the step: updates are counted, gradients are let go.

Nothing is written before `update`; and there, nothing fails and no Python code runs.
"""

cimport cython
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.math cimport copysign
from libc.string cimport memcpy

cimport numpy as cnp

from .arrays cimport shown
from .chunks cimport (
    CHUNK_ELEMENTS, FIND_NONFINITE, SUM_SQUARES, SUM_UP, UPDATE, UPDATE_AND_ZERO, WHOLE, ZERO_GRADIENTS, Binding, Leaf,
    Named, Sweep, added_up, chunks_of, in_order)
from .coefficients cimport Terms
from .groups cimport FOR_CLASS, NO_SUMS
from .kernels cimport FO_MAX_SCALARS, FO_MAX_SUMS, FO_REALS, fo_coef
from .lock cimport enter_gate, generation, leave_gate
from .sweep cimport BREAK_EVEN

import numpy as np

from ..interrupts import held

cnp.import_array()

cdef str UNLOOKED = ("this optimizer takes its gradients at the looked-ahead point: compute them inside `with "
                     "opt.lookahead():`, and call step(grads) after the block; each step needs a block of its own")
cdef str TORN = ("the optimizer is torn, since writing to it failed half way: load a checkpoint or a state_dict, "
                 "which mends it")
cdef str SHARED = ("this process was forked, and its parent may share the memory of the state, which state_memory "
                   "gave: call bind(params) for state of its own")
cdef str FORKED = ("this process was forked in the middle of a step of this optimizer: call bind(params), or load a "
                   "checkpoint")


@cython.final
cdef class Plan(Groups):
    """The memory of one optimizer, and what a step does with it.

    Parameters
    ----------
    tree, slots, numbers, group_numbers, classes
        As for `State`.
    lock : Lock
        Held during each step.
    looks_ahead : bool
        Whether each step needs a `LookAhead` before it.
    shared : list of int, optional
        Where leaves are parts of larger ones, and other processes step the other parts: how many elements these have.
        Whatever can fail of a step comes before act 3 then, in which the owner meets the others.
    """

    def __cinit__(self, object tree, tuple slots, dict numbers, dict group_numbers, list classes, Lock lock,
                  bint looks_ahead, list shared=None):
        cdef Py_ssize_t i
        self.lock, self.shared = lock, shared is not None
        self.looks_ahead = self.unlooked = looks_ahead
        self.generation = generation
        self.remedy = ""
        self.factors = <double *>PyMem_Calloc(self.n_leaves, sizeof(double))
        if self.shared:
            self.sizes = <Py_ssize_t *>PyMem_Calloc(self.n_leaves, sizeof(Py_ssize_t))
        if self.factors == NULL or self.shared and self.sizes == NULL:
            raise MemoryError
        if self.shared:
            for i in range(self.n_leaves):
                self.sizes[i] = shared[i]

    def __dealloc__(self):
        PyMem_Free(self.factors)
        PyMem_Free(self.sizes)

    def configure(self, bint zero_gradients, bint screened, double clip_value, double average, list decays,
                  object memory):
        """Set what options say.

        Parameters
        ----------
        zero_gradients : bool
            Whether a step zeroes the gradients.
        screened : bool
            Whether a step must ask its owner about the gradients before it writes.
        clip_value : float
            What gradients are clamped to; 0 if they are not.
        average : float
            What the parameters' average, if there is one, is multiplied by in each step.
        decays : list of bool
            Of each leaf, whether its group's weight decay is for it too.
        memory : callable, optional
            From a parameter's name, the name of some state, and the parameter to the array that this state is to lie
            in: of its type, shape and memory order. It holds zeros already if it has an attribute `is_zero` that is
            True.
        """
        cdef Py_ssize_t i
        self.require(zero_gradients)
        self.screened, self.clip_value, self.memory = screened, clip_value, memory
        self.average[0].c[0], self.average[0].c[1] = average, 1.0 - average
        self.average[1].c[2] = 1.0  # the first update
        for i in range(self.n_leaves):
            self.leaves[i].kernel = self.leaves[i].real + (0 if decays[i] else FO_REALS)

    def unsettle(self):
        """Take over all groups anew when they are looked at next: an option that they are bound by has changed."""
        self.terms = [None] * self.n_groups

    @property
    def back_to_back(self):
        """Whether steps follow each other with no other work between them."""
        return bool(self.sweeper.back_to_back)

    # -- the step --

    def step(self, object owner, object grads, object loss_scale, bint by_reference):
        """Update all parameters by their gradients; False if the owner had the step skipped.

        The owner, an `Optimizer`, is asked: ``_check_group`` where a live group changed, and ``_slots_of`` what state
        it needs then; ``_unscaling`` and ``_screened`` what the gradients are to be multiplied by;
        ``_sums_of_all``, of a shared plan, what first passes come to; and ``_update_by_reference`` to do the arithmetic
        in its own way.
        """
        cdef int forks = generation
        cdef bint done = False, left = False
        cdef Change change = None
        if self.lock.acquire() and owner._plan is not self:  # it was bound to other arrays while this step waited
            self.lock.release()
            return owner._bound().step(owner, grads, loss_scale, by_reference)
        try:
            changes = self.begin(owner, loss_scale)
            try:
                self.take(grads)
                if self.named is not None:
                    self.check_rows(changes)
                if self.shared:
                    change = self.fold(owner, changes)
                    self.folded_by = self.terms if change is None else change.terms
                if self.screened and not self.look(owner):
                    return False
                if self.shared:
                    self.go_on_shared(owner, change)
                else:
                    change = self.fold(owner, changes)
                if self.stale:
                    self.look_again()
                if forks != generation:
                    self.notice_fork()
                    raise RuntimeError(FORKED)
                if by_reference or (self.in_numpy if change is None else change.in_numpy()):
                    left = self.update_by_reference(owner, change, by_reference)
                else:
                    left = self.update(change)
                done = True
            finally:
                if not done:
                    left = self.end_step(False)
                    if change is not None:
                        change.withdraw(self)
                if left:
                    self.let_go()
        finally:
            self.lock.release()
        return True

    cdef list begin(self, object owner, object loss_scale):
        """Act 1: refuse the step if it must be; what changed in groups, see `changed`; learning rates and factor."""
        cdef list changes
        if self.generation != generation:
            self.notice_fork()
        if self.away is not None:
            raise RuntimeError(self.away)
        if self.unlooked:
            raise RuntimeError(UNLOOKED)
        if self.all.traffic >= BREAK_EVEN and not self.looks_ahead:  # which `LookAhead` has noted before
            self.sweeper.keep_pace(self.sweeper.rested())
        changes = self.changed(owner)
        self.ask_rates(self.terms if changes is None else self.terms_after(changes))
        self.scale = 1.0 if loss_scale is None else owner._unscaling(loss_scale)
        self.own_factors = False
        return changes

    cdef bint look(self, object owner) except -1:
        """Act 3: ask the owner about the gradients; False if the step is to be skipped."""
        try:
            screened = owner._screened(self.scale)
        except FloatingPointError:
            self.zero_bad_gradients()
            raise
        if screened is None:
            self.zero_bad_gradients()
            self.skipped += 1
            return False
        self.stale = True  # each sum looked again, and Python ran after the last one
        self.scale = screened
        return True

    cdef int zero_bad_gradients(self) except -1:
        """Of a skipped step too: a user who adds to them would never be rid of what is bad in them."""
        if self.zero_gradients:
            self.look_again()
            enter_gate()
            self.sweep(ZERO_GRADIENTS)
            leave_gate()
        return 0

    cdef Change fold(self, object owner, list changes):
        """Act 4, what can fail of it: state and coefficients."""
        cdef Change change = None
        cdef list terms = self.terms
        if changes is not None:
            self.stale = True
            change = self.prepared(owner, changes)
            try:
                if change.stock is not None and (change.sums == FOR_CLASS or self.shared):
                    self.lend(change.stock)
                self.fold_in(change.terms, change.bindings, change.sums)
            except BaseException:
                change.withdraw(self)
                raise
        else:
            self.fold_in(terms, self.bindings, self.sums)
            while self.terms is not terms:  # what ran in the midst has read the optimizer, which settled its groups
                terms = self.terms
                self.ask_rates(terms)
                self.fold_in(terms, self.bindings, self.sums)
        return change

    cdef int go_on_shared(self, object owner, Change change) except -1:
        """Let coefficients that were made before act 3 have the gradient factor that it found; then first passes.

        The owner, asked for ``_sums_of_all``, is given what they add up over the chunks of the leaves here, and gives
        what they come to over the whole ones.
        """
        cdef int k
        cdef Sweep w
        cdef First sums = self.sums if change is None else change.sums
        for k in range(self.n_coefs):
            self.coefs[k].scale = copysign(self.scale, self.coefs[k].scale)  # which has the sign of `maximize`
        if sums == NO_SUMS:
            return 0
        self.look_again()
        self.prepare_sweep(&w, SUM_UP)
        w.bindings, w.sums, w.for_class = self.bindings if change is None else change.bindings, True, sums == FOR_CLASS
        self.sweeper.sweep(&w)
        found = np.empty((self.all.chunks, FO_MAX_SUMS))
        memcpy(cnp.PyArray_DATA(<cnp.ndarray>found), self.sweeper.partial, found.nbytes)
        found = np.asarray(owner._sums_of_all(found), np.float64, "C")
        if found.shape != (self.n_leaves, FO_MAX_SUMS):
            raise ValueError(f"_sums_of_all() gave shape {found.shape}: wanted {(self.n_leaves, FO_MAX_SUMS)}")
        memcpy(self.totals, cnp.PyArray_DATA(<cnp.ndarray>found), found.nbytes)
        if sums == FOR_CLASS:
            self.set_coefficients(self.folded_by)
        self.stale = True
        return 0

    cdef int fold_in(self, list terms, const Binding *bindings, First sums) except -1:
        """Make coefficients by these terms, after the first passes that their classes ask for."""
        if self.all.elements > CHUNK_ELEMENTS or sums == FOR_CLASS or self.shared:
            self.sweeper.reserve(&self.all, FO_MAX_SUMS if sums else 0)
        if sums == FOR_CLASS:
            self.set_unsummed(terms)
            if self.shared:
                return 0  # see `go_on_shared`
            self.look_again()  # the class is Python
            self.sum_up(bindings, True)
        self.set_coefficients(terms)
        return 0

    cdef void sum_up(self, const Binding *bindings, bint for_class) noexcept:
        """Make first passes over leaves whose class asks for what they add up, or over the large ones of others."""
        cdef Sweep w
        self.prepare_sweep(&w, SUM_UP)
        w.bindings, w.sums, w.for_class = bindings, True, for_class
        self.sweeper.sweep(&w)
        self.add_up(bindings, for_class)

    cdef bint update(self, Change change) noexcept:
        """Acts 4 and 5: update all active leaves, and count it; True if gradients are left for `let_go`."""
        cdef bint left
        cdef Sweep w
        if change is None and self.all.elements <= CHUNK_ELEMENTS and self.matrices is None:  # the GIL is kept: no fork
            self.sweep(UPDATE_AND_ZERO if self.zero_gradients else UPDATE)
            return self.counted()
        enter_gate()
        if change is not None:
            self.adopt(change)
        if self.matrices is not None:
            self.prepare_sweep(&w, UPDATE)
            self.matrices.update(self.sweeper, &w, self.totals)
        if self.sums and not self.shared:
            self.sum_up(self.bindings, False)
        self.sweep(UPDATE_AND_ZERO if self.zero_gradients else UPDATE)
        left = self.counted()
        leave_gate()
        return left

    cdef bint counted(self) noexcept:
        """Act 5; of a step in parts, what is of their leaves."""
        if self.keeps_numbers:
            self.keep_numbers()
        if not self.in_parts:
            self.end_parts()
        return self.end_step(True)

    cdef void end_parts(self) noexcept:
        """Act 5, what comes once a step."""
        if self.keeps_numbers:
            self.keep_group_numbers()
        self.steps += 1
        self.unlooked = self.looks_ahead

    cdef bint update_by_reference(self, object owner, Change change, bint everything) except -1:
        """Acts 4 and 5 in Python, of all classes, or of those alone that do their arithmetic themselves.

        Signals wait until they are over, and if they fail the optimizer is torn.
        """
        cdef bint left = False
        with held():
            self.lock.writing = True
            try:
                if change is not None:
                    self.adopt(change)
                owner._update_by_reference(everything)
                if not everything:
                    left = self.update(None)
                else:
                    if self.zero_gradients:
                        self.sweep(ZERO_GRADIENTS)
                    left = self.counted()
            except BaseException:
                self.tear()
                raise
            finally:
                self.lock.writing = False
        return left

    cdef void sweep(self, Operation what, double scale=1.0) noexcept:
        """Carry one operation over all chunks of the active leaves."""
        cdef Sweep w
        self.prepare_sweep(&w, what)
        w.scale = scale
        self.sweeper.sweep(&w)

    cdef void prepare_sweep(self, Sweep *w, Operation what) noexcept:
        w.what = what
        w.all = &self.all
        w.bindings = self.bindings
        w.coefs = self.coefs
        w.clip_value, w.average = self.clip_value, self.average
        w.factors = self.factors if self.own_factors else NULL
        w.whole, w.sizes = 0 if self.shared else WHOLE, self.sizes
        w.sums, w.totals = self.sums != NO_SUMS and what <= UPDATE_AND_ZERO, self.totals
        w.plain = what == UPDATE and not (w.sums or self.own_factors or self.averages)
        w.variant = self.variant

    # -- why a step may be refused --

    cdef int notice_fork(self) except -1:
        """In a forked child: let go of what a thread of the parent held; a step that forked must not go on."""
        self.generation = generation
        if self.end_step(False):
            self.let_go()
        if self.lock.torn:
            self.tear()
        elif self.lock.abandoned and self.away is None:
            self.away, self.remedy = FORKED, "bind"
        elif self.memory is not None and self.away is None:
            self.away, self.remedy = SHARED, "bind"
        self.lock.abandoned = self.lock.torn = False
        if self.away is not None:
            raise RuntimeError(self.away)
        return 0

    cpdef void tear(self) noexcept:
        """Refuse all use until a load has succeeded: what was being written is half old, half new."""
        self.away, self.remedy = TORN, "load"

    def mend(self):
        """Be whole again."""
        self.away, self.remedy = None, ""

    cdef int check_within(self) except -1:
        """Raise outside of a step: there are no gradients then, and no coefficients."""
        if not self.lock.mine():
            raise RuntimeError("this can be asked in the middle of a step only")
        return 0

    def check_ready(self, str but=""):
        """Raise if the optimizer must be refused; what would end that, "load" or "bind", is allowed."""
        if self.generation != generation:
            try:
                self.notice_fork()
            except RuntimeError:
                pass  # said below
        if self.away is not None and not (but and but in ("load", self.remedy) and self.remedy):
            raise RuntimeError(self.away)

    def coefficients(self, Py_ssize_t leaf, int coef=-1):
        """Return a leaf's kind of decay, gradient factor, decay and scalars by name in this step; or those of rows."""
        self.check_within()
        cdef fo_coef *c = &self.coefs[self.leaves[leaf].coef if coef < 0 else coef]
        cdef Terms own = self.terms[self.leaves[leaf].group]
        scalars = {}
        for i, name in enumerate(own.names):
            scalars[name] = c.c[i]
        kind = own.kind if self.leaves[leaf].kernel < FO_REALS else "none"
        return kind, c.scale * (self.factors[leaf] if self.own_factors else 1.0), c.decay, scalars

    def folded(self):
        """Return what this step of a shared plan does with each leaf, as bytes: equal where it does the same."""
        cdef Py_ssize_t i
        cdef const Leaf *f
        cdef cnp.ndarray coefs = np.zeros((self.n_coefs, 2 + FO_MAX_SCALARS))
        cdef cnp.ndarray leaves = np.zeros((self.n_leaves, 2), np.int64)
        cdef double *row
        self.check_within()
        for i in range(self.n_leaves):
            f = &self.leaves[i]
            if f.active:
                (<int64_t *>cnp.PyArray_DATA(leaves))[2 * i] = 1 + f.kernel
                (<int64_t *>cnp.PyArray_DATA(leaves))[2 * i + 1] = f.coef
                row = <double *>cnp.PyArray_DATA(coefs) + f.coef * (2 + FO_MAX_SCALARS)
                row[0], row[1] = self.coefs[f.coef].scale, self.coefs[f.coef].decay
                memcpy(row + 2, self.coefs[f.coef].c, (<Terms>self.folded_by[f.group]).columns * sizeof(double))
        rules = []
        for terms in self.folded_by:
            rules.append((terms.rule, terms.kind))
        return repr(rules).encode() + leaves.tobytes() + coefs.tobytes()

    def updated(self, Py_ssize_t leaf):
        """Whether a leaf has had an update."""
        return bool(self.leaves[leaf].updated)

    @property
    def has_rows(self):
        """Whether there are gradients of rows in this step."""
        return self.named is not None

    def rows(self, Py_ssize_t leaf):
        """Return (rows, coefficients, whether they have had an update, gradients) of a table's rows that have some.

        One for all rows that have the first two in common; None for a leaf that is updated as a whole.
        """
        cdef const Named *named = self.leaves[leaf].rows
        cdef Py_ssize_t k
        if named == NULL:
            return None
        found = {}
        for k in range(named.n):
            row = k if named.row == NULL else named.row[k]
            found.setdefault((named.coef[k], named.counts[row] != 0), []).append((row, self.gradient_of(leaf, k)))
        parts = []
        for (coef, updated), members in found.items():
            rows, gradients = zip(*members)
            parts.append((np.array(rows), coef, updated, np.array(gradients)))
        return parts

    def gradient_of(self, Py_ssize_t leaf, Py_ssize_t k):
        """Return a copy of the gradient of a table's k-th named row."""
        cdef const Named *named = self.leaves[leaf].rows
        cdef cnp.ndarray found = np.empty(self.arrays[leaf].shape[1:], self.arrays[leaf].dtype)
        cdef Py_ssize_t nbytes = cnp.PyArray_NBYTES(found)
        memcpy(cnp.PyArray_DATA(found), self.leaves[leaf].g + k * nbytes if named.g == NULL else named.g[k], nbytes)
        return found

    # -- sums over gradients --

    def sum_squares(self, double scale):
        """Return the sum of the squares of all active gradients, each first multiplied by scale."""
        cdef Py_ssize_t i
        cdef double sum = 0
        self.check_within()
        self.look_again()  # Python may have run since gradients were taken in
        self.sweeper.reserve(&self.all, 1)
        self.sweep(SUM_SQUARES, scale)
        for i in range(self.all.chunks):
            sum += self.sweeper.partial[i]
        return sum

    def chunk_squares(self, double scale):
        """Return the same for each chunk of the active leaves."""
        self.sum_squares(scale)
        found = np.empty(self.all.chunks)
        memcpy(cnp.PyArray_DATA(<cnp.ndarray>found), self.sweeper.partial, self.all.chunks * sizeof(double))
        return found

    def squares(self, double scale):
        """Return the same for each leaf, 0 for those that are not active."""
        cdef Py_ssize_t i
        self.sum_squares(scale)
        cdef list found = []
        for i in range(self.n_leaves):
            found.append(added_up(&self.leaves[i], self.sweeper.partial, 1, 0) if self.leaves[i].active else 0.0)
        return found

    def multiply(self, list factors):
        """Give the gradient of each leaf a factor of its own in this step."""
        cdef Py_ssize_t i
        self.check_within()
        for i in range(self.n_leaves):
            self.factors[i] = factors[i]
        self.own_factors = True

    def find_nonfinite(self):
        """Return the first Inf or NaN among the active gradients: its leaf, its index there, and it, or None."""
        cdef Py_ssize_t i, chunk, start
        cdef cnp.ndarray values
        cdef Leaf *f
        self.check_within()
        self.look_again()  # Python may have run since gradients were taken in
        self.sweeper.reserve(&self.all, 1)
        self.sweep(FIND_NONFINITE)
        for i in range(self.n_leaves):
            f = &self.leaves[i]
            if not f.active:
                continue
            for chunk in range(chunks_of(f)):
                if self.sweeper.partial[f.first + chunk] == 0:
                    continue
                if f.rows != NULL:
                    chunk //= f.rows.parts
                    row = chunk if f.rows.row == NULL else f.rows.row[chunk]
                    values = self.gradient_of(i, chunk)
                    index = np.unravel_index(int(np.isfinite(values).argmin()), shown(values)) if values.ndim else ()
                    return i, (row, *map(int, index)), values[index]
                start = chunk * CHUNK_ELEMENTS
                values = np.empty(min(f.n - start, <Py_ssize_t>CHUNK_ELEMENTS), self.arrays[i].dtype)
                if f.order == NULL:
                    memcpy(cnp.PyArray_DATA(values), f.g + start * f.itemsize, cnp.PyArray_NBYTES(values))
                else:
                    in_order(<char *>cnp.PyArray_DATA(values), f, start, cnp.PyArray_SIZE(values))
                at = start + int(np.isfinite(values).argmin())
                index = tuple(map(int, np.unravel_index(at, self.arrays[i].shape, "F" if f.reversed else "C")))
                return i, index, self.gradient(i)[index]
        return None

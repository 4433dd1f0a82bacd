"""Which rule and which coefficients has each leaf in this step?

Groups that changed are checked, bound to the kernels of their rule, and given the state it needs; then each group comes
to coefficients: one set for all its leaves, one for each number of updates among them, or one for each leaf. What a
first pass over a leaf adds up comes to scalars of its own, in kernels' turn or here, where the class asks for it.
"""

cimport cython
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Realloc
from libc.string cimport memcpy, memset

cimport numpy as cnp

from .arrays cimport shown
from .coefficients cimport place_of
from .chunks cimport MAX_SLOTS, WHOLE, Leaf, added_up, chunks_of, lay_out
from .kernels cimport FO_MAX_SUMS, FO_NO_DECAY, FO_REALS, fo_rule, names_of, variant
from .leaves cimport Watch
from .rows cimport Table

import numpy as np

from .kernels import DECAY_KINDS
from .state import AVERAGE

cnp.import_array()


@cython.final
cdef class Change:
    """Groups on new terms, with the state they need: all that can fail has been done."""

    def __dealloc__(self):
        PyMem_Free(self.bindings)

    cdef bint in_numpy(self) noexcept:
        """Whether a class does its rule's arithmetic itself."""
        for terms in self.terms:
            if (<Terms>terms).in_numpy:
                return True
        return False

    cdef void withdraw(self, Groups plan) noexcept:
        """The step is refused: state that will not be there is not new."""
        if self.stock is not None:
            for leaf in self.stock.renewed:
                plan.watches[<Py_ssize_t>leaf].fresh = False
            if self.stock.lent:
                plan.take_back(self.stock)


cdef class Groups(State):
    """The parameters of one optimizer, their state, and what their groups come to.

    Parameters
    ----------
    tree, slots, numbers, group_numbers, classes
        As for `State`.
    """

    def __cinit__(self, *_):
        self.variant = variant
        self.terms = [None] * self.n_groups
        self.bindings = <Binding *>PyMem_Calloc(self.n_groups, sizeof(Binding))
        self.rates = <double *>PyMem_Calloc(self.n_groups, sizeof(double))
        self.totals = <double *>PyMem_Calloc(self.n_leaves, FO_MAX_SUMS * sizeof(double))
        if not (self.bindings and self.rates and self.totals):
            raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self.bindings)
        PyMem_Free(self.rates)
        PyMem_Free(self.totals)
        PyMem_Free(self.coefs)

    cdef const fo_rule *rule(self, int real, str name) except NULL:
        """Find a rule."""
        cdef const fo_rule *rule = self.variant.tables[real].rules
        while rule.name != NULL and rule.name.decode() != name:
            rule += 1
        if rule.name == NULL:
            raise KeyError(f"there is no rule {name!r}")
        return rule

    cdef int resolve(self, Binding *b, str name, int kind, bint averaged) except -1:
        """Find a rule's kernels and the slots of its state, and the kernels of an average of the parameters."""
        cdef const fo_rule *rule
        cdef int real
        for real in range(FO_REALS):
            b.average[real] = self.rule(real, AVERAGE).step[FO_NO_DECAY] if averaged else NULL
            rule = self.rule(real, name)
            b.kernel[real], b.kernel[FO_REALS + real] = rule.step[kind], rule.step[FO_NO_DECAY]
            b.sums[real], b.sums[FO_REALS + real] = rule.sum[kind], rule.sum[FO_NO_DECAY]
            b.n_sums, b.finish = len(names_of(rule.sums)), rule.finish
            b.factored[real] = rule.factored
            if rule.factored != NULL:
                b.block_step[real] = rule.factored.step[kind]
                b.block_step[FO_REALS + real] = rule.factored.step[FO_NO_DECAY]
                b.rows, b.columns = map(self.slots.index, names_of(rule.factored.state))
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
            if terms is None or type(live) is not dict or not (<Terms>terms).hold(live):
                if found is None:
                    found = []
                found.append((group, owner._check_group(group)))
        if found is not None and self.n_groups > 1:
            owner._check_groups(self.terms_after(found))
        return found

    cdef list terms_after(self, list changes):
        """The terms of all groups once these are adopted."""
        terms = self.terms[:]
        for group, new in changes:
            terms[group] = new
        return terms

    cdef Change prepared(self, object owner, list changes):
        """Groups on new terms: all that can fail of it."""
        cdef Change change = Change()
        change.terms = self.terms_after(changes)
        change.bindings = <Binding *>PyMem_Calloc(self.n_groups, sizeof(Binding))
        if change.bindings == NULL:
            raise MemoryError
        memcpy(change.bindings, self.bindings, self.n_groups * sizeof(Binding))
        wanted = []
        for group, terms in changes:
            slots = owner._wanted_slots(terms.rule)
            wanted.append((self.first_leaf[<int>group], self.first_leaf[<int>group + 1], slots))
            self.resolve(&change.bindings[<int>group], terms.rule, DECAY_KINDS[terms.kind], AVERAGE in slots)
            if self.terms[group] is not None:
                (<Terms>terms).inherit(self.terms[group])
        change.sums = self.first_passes(change.bindings)
        change.matrices = self.factored(change.bindings)
        change.stock = self.stock(wanted)
        if change.stock is not None:
            for leaf, slot in change.stock.places:
                if slot != MAX_SLOTS - 1 and not self.watches[<Py_ssize_t>leaf].fresh:
                    change.stock.renewed.append(leaf)
                    self.watches[<Py_ssize_t>leaf].fresh = True
        return change

    cdef void adopt(self, Change change) noexcept:
        """Go on with changed groups on their new terms."""
        cdef Py_ssize_t i
        cdef bint in_numpy = change.in_numpy()
        cdef const Binding *b
        if change.stock is not None:
            self.install(change.stock)
        self.terms, change.terms = change.terms, self.terms
        self.bindings, change.bindings = change.bindings, self.bindings
        self.averages = False
        for i in range(self.n_leaves):
            b = &self.bindings[self.leaves[i].group]
            self.leaves[i].arrays = 2 + b.n_state
            if b.average[self.leaves[i].real] != NULL:
                self.leaves[i].arrays += 1
                self.averages = True
        self.sums = change.sums
        self.matrices, change.matrices = change.matrices, self.matrices
        for i in range(self.n_leaves):
            self.leaves[i].factored = False
        if self.matrices is not None:
            self.matrices.mark()
        self.in_numpy = in_numpy
        self.renumber()

    cdef First first_passes(self, const Binding *bindings) noexcept:
        """Whether rules have first passes."""
        cdef int group
        cdef First found = NO_SUMS
        for group in range(self.n_groups):
            if bindings[group].n_sums:
                found = max(found, FOR_RULE if bindings[group].finish != NULL else FOR_CLASS)
        return found

    cdef Factored factored(self, const Binding *bindings):
        """The leaves that are matrices to their rules, None if there are none."""
        cdef Py_ssize_t i
        cdef const Binding *b
        cdef Factored found
        cdef list leaves = []
        for i in range(self.n_leaves):
            if bindings[self.leaves[i].group].factored[0] != NULL and len(shown(self.arrays[i])) > 1:
                leaves.append(i)
        if not leaves:
            return None
        found = Factored(len(leaves))
        for i in leaves:
            b = &bindings[self.leaves[i].group]
            found.add(i, &self.leaves[i], shown(self.arrays[i]), b.rows, b.columns)
        lay_out(&found.all)
        self.sweeper.reserve(&found.all, FO_MAX_SUMS)
        return found

    cdef void add_up(self, const Binding *bindings, bint for_class) noexcept:
        """Add up what a sweep of first passes found, in the order of chunks."""
        cdef Py_ssize_t i
        cdef int k
        cdef const Leaf *f
        cdef const Binding *b
        for i in range(self.n_leaves):
            f = &self.leaves[i]
            b = &bindings[f.group]
            if not f.active or b.n_sums == 0 or (b.finish == NULL) != for_class or (
                    b.finish != NULL and chunks_of(f) <= WHOLE):
                continue
            for k in range(b.n_sums):
                self.totals[i * FO_MAX_SUMS + k] = added_up(f, self.sweeper.partial, FO_MAX_SUMS, k)

    def settle(self, object owner):
        """Take over what changed in the live groups."""
        changes = self.changed(owner)
        if changes:
            self.adopt(self.prepared(owner, changes))

    cdef int ask_rates(self, list terms) except -1:
        """Ask for the learning rates of this step, and for what else is a schedule."""
        cdef int group
        cdef Terms own
        for group in range(self.n_groups):
            own = terms[group]
            self.rates[group] = own.rate(self.steps)
            if own.moves:
                own.move(self.steps)
        return 0

    cdef int set_coefficients(self, list terms) except -1:
        """Give every active leaf the coefficients of its group for its number of updates."""
        cdef int group, first
        cdef int64_t t = 0
        cdef bint fresh = False
        cdef Py_ssize_t i
        cdef const Watch *h
        cdef Terms own
        self.n_coefs = 0
        if self.keeps_numbers:
            memset(self.asked, 0, self.n_groups * sizeof(bint))
        for group in range(self.n_groups):
            own = terms[group]
            if own.wants_numbers:
                self.set_each(group, own, True)
                continue
            if own.wants_lr:
                own.at_rate(self.rates[group])
            first = self.n_coefs
            for i in range(self.first_leaf[group], self.first_leaf[group + 1]):
                if not self.leaves[i].active:
                    continue
                h = &self.watches[i]
                if self.n_coefs == first:
                    self.new_coef()
                    t, fresh = h.count + 1, h.fresh and own.wants_fresh
                elif h.count + 1 != t or (h.fresh and own.wants_fresh) != fresh:
                    t = -1
                    break
                if self.leaves[i].coef != first:
                    self.leaves[i].coef = first
            if self.n_coefs == first:
                continue
            if t < 0 or fresh:
                self.n_coefs = first
                self.set_mixed(group, own)
            else:
                if not own.begin <= t < own.end:
                    self.stale = True
                    own.have(t)
                own.fold(&self.coefs[first], own.table + (t - own.begin) * own.columns, self.rates[group], self.scale)
        if self.named is not None:
            self.set_rows(terms)
        return 0

    cdef int set_mixed(self, int group, Terms own) except -1:
        """The same for a group whose leaves differ in their number of updates, or have new state."""
        cdef int64_t t = 0
        cdef bint fresh = False
        cdef Py_ssize_t i
        cdef list places = []
        self.stale = True
        for i in range(self.first_leaf[group], self.first_leaf[group + 1]):
            if self.leaves[i].active:
                places.append(place_of(self.watches[i].count + 1, self.watches[i].fresh and own.wants_fresh))
        own.have_all(places)
        for i in range(self.first_leaf[group], self.first_leaf[group + 1]):
            if not self.leaves[i].active:
                continue
            if t != self.watches[i].count + 1 or fresh != (self.watches[i].fresh and own.wants_fresh):
                t, fresh = self.watches[i].count + 1, self.watches[i].fresh and own.wants_fresh
                own.fold(self.new_coef(), own.row(t, fresh), self.rates[group], self.scale)
            self.leaves[i].coef = self.n_coefs - 1
        return 0

    cdef int check_rows(self, list changes) except -1:
        """Raise if a table that has gradients in this step is of a class that cannot update rows one by one."""
        cdef Terms own
        terms = self.terms if changes is None else self.terms_after(changes)
        for i in self.named:
            group = self.leaves[<Py_ssize_t>i].group
            own, cls = terms[group], self.classes[group]
            if own.in_numpy:
                why = "computes in NumPy"
            elif own.wants_numbers:
                why = "keeps numbers for each parameter"
            elif own.sums:
                why = "adds up over each parameter first"
            elif self.tables[i] is None and self.has_other_shapes(i):
                why = "keeps state of another shape"
            else:
                continue
            raise TypeError(f"{self.gradient_names[i]} is for rows of {self.names[i]}, which {cls.__name__} cannot "
                            f"update one by one: it {why}")
        return 0

    def has_other_shapes(self, Py_ssize_t i):
        """Whether a leaf has state of another shape than its own."""
        cls, shape = self.classes[self.leaves[i].group], self.shape_of(i)
        for slot in cls.slots:
            if cls.state_shape(slot, shape) != shape:
                return True
        return False

    cdef int set_rows(self, list terms) except -1:
        """Give the rows of tables that have gradients the coefficients for their own numbers of updates."""
        cdef Py_ssize_t i, k
        cdef Table table
        cdef Terms own
        cdef list places
        self.stale = True
        for leaf in self.named:
            i, table = leaf, self.named[leaf]
            own = terms[self.leaves[i].group]
            table.number(self.watches[i].count, self.watches[i].fresh, own.wants_fresh, self.n_coefs)
            places = []
            for k in range(table.n_found):
                places.append(place_of(abs(table.found[k]), table.found[k] < 0))
            own.have_all(places)
            for k in range(table.n_found):
                own.fold(self.new_coef(), own.row(abs(table.found[k]), table.found[k] < 0),
                         self.rates[self.leaves[i].group], self.scale)
        return 0

    cdef int set_unsummed(self, list terms) except -1:
        """Give leaves of classes that ask for sums the coefficients of their first pass."""
        cdef int group
        cdef Terms own
        self.n_coefs = 0
        for group in range(self.n_groups):
            own = terms[group]
            if own.wants_sums or own.wants_totals:
                self.set_each(group, own, False)
        return 0

    cdef dict sums_of(self, Terms own, list leaves):
        """What the first pass over each of these leaves added up, by name."""
        cdef Py_ssize_t i, k = 0, n = len(leaves), row, rows = len(own.sums)
        found = np.empty((rows, n))
        cdef double *to = <double *>cnp.PyArray_DATA(<cnp.ndarray>found)
        for i in leaves:
            for row in range(rows):
                to[row * n + k] = self.totals[i * FO_MAX_SUMS + row]
            k += 1
        return dict(zip(own.sums, found))

    cdef dict totals_of(self, Terms own):
        """The sums over all leaves whose learning rate is not 0, by name; and the largest of these rates, `lr`."""
        cdef Py_ssize_t i, row
        cdef double sum, largest = 0.0
        cdef dict found = {}
        for row, name in enumerate(own.sums):
            sum = 0
            for i in range(self.n_leaves):
                if self.leaves[i].active and self.rates[self.leaves[i].group] > 0:
                    sum += self.totals[i * FO_MAX_SUMS + row]
            found[name] = sum
        for i in range(self.n_groups):
            largest = max(largest, self.rates[i])
        found["lr"] = largest
        return found

    cdef int set_each(self, int group, Terms own, bint summed) except -1:
        """The same for a class with numbers of its own, which is asked about each leaf in each step.

        Leaves with all in common, as they mostly are, are asked about once.
        """
        cdef Py_ssize_t i, k = 0, n = 0, first = -1, begin = self.first_leaf[group], end = self.first_leaf[group + 1]
        cdef int row, rows = len(self.number_names)
        cdef bint alike = not (own.wants_sums and summed)
        cdef const double *kept = <double *>cnp.PyArray_DATA(self.numbers)
        cdef double *made = <double *>cnp.PyArray_DATA(self.next_numbers)
        cdef double *value
        cdef const Watch *h
        cdef list active = []
        for i in range(begin, end):
            if not self.leaves[i].active:
                continue
            n += 1
            if first < 0:
                first = i
            h = &self.watches[first]
            alike = alike and self.watches[i].count == h.count and (self.watches[i].fresh != 0) == (h.fresh != 0)
            for row in range(rows):
                alike = alike and kept[row * self.n_leaves + i] == kept[row * self.n_leaves + first]
        if n == 0:
            return 0
        self.stale = True
        if alike:
            n, active = 1, [first]
        else:
            for i in range(begin, end):
                if self.leaves[i].active:
                    active.append(i)
        t, fresh = np.empty(n, np.int64), np.empty(n, np.bool_)
        for i in active:
            (<int64_t *>cnp.PyArray_DATA(<cnp.ndarray>t))[k] = self.watches[i].count + 1
            (<char *>cnp.PyArray_DATA(<cnp.ndarray>fresh))[k] = self.watches[i].fresh != 0
            k += 1
        numbers = dict(zip(self.number_names, self.numbers[:, active])) if rows else {}
        numbers.update(zip(self.group_number_names, self.group_numbers[:, group].tolist()))
        sums = None
        if own.wants_sums and summed:
            sums = self.sums_of(own, active)
        elif own.wants_totals and summed:
            sums = self.totals_of(own)
        new = own.ask_each(t, fresh, self.rates[group], numbers, sums)
        if new.keys() != numbers.keys():
            raise KeyError(f"scalars() gave the numbers {sorted(new)}: wanted {sorted(numbers)}")
        for row, name in enumerate(self.number_names):
            values = np.ascontiguousarray(np.broadcast_to(np.asarray(new[name], np.float64), (n,)))
            value = <double *>cnp.PyArray_DATA(<cnp.ndarray>values)
            k = 0
            for i in range(begin, end):
                if self.leaves[i].active:
                    made[row * self.n_leaves + i] = value[0 if alike else k]
                    k += 1
        for k, name in enumerate(self.group_number_names):
            self.next_group_numbers[k, group] = new[name]
        k = 0
        for i in range(begin, end):
            if self.leaves[i].active:
                if k < n:
                    own.fold(self.new_coef(), own.rows + k * own.columns, self.rates[group], self.scale)
                    k += 1
                self.leaves[i].coef = self.n_coefs - 1
        self.asked[group] = True
        return 0

    cdef fo_coef *new_coef(self) except NULL:
        cdef fo_coef *grown
        if self.n_coefs == self.room_coefs:
            grown = <fo_coef *>PyMem_Realloc(self.coefs, (2 * self.room_coefs + 4) * sizeof(fo_coef))
            if grown == NULL:
                raise MemoryError
            self.coefs = grown
            self.room_coefs = 2 * self.room_coefs + 4
        self.n_coefs += 1
        return &self.coefs[self.n_coefs - 1]

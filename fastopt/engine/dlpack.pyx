"""How do tensors of other libraries come in without NumPy? By DLPack's functions in C: address, shape, strides, type.

An adapter has a plan over NumPy views of tensors that have had a gradient. In each step, the library is asked where
these tensors and their gradients lie. A gradient that lies as its tensor does is taken in by its address; any other one
as a view of NumPy's. What is not as it was, a tensor that was moved or a group that was edited, raises `Changed`: the
adapter makes another plan then, and `carry` has it go on where the old one was.
"""

cimport cython
from cpython.dict cimport PyDict_GetItemWithError, PyDict_Next
from cpython.exc cimport PyErr_Clear
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.ref cimport Py_INCREF, PyObject
from libc.math cimport isfinite
from libc.stdint cimport uintptr_t

cimport numpy as cnp

from .arrays cimport Extent, sorted_extents
from .leaves cimport Watch

import numpy as np

cnp.import_array()

cdef enum:
    CPU = 1    # a device of DLPack's
    FLOAT = 2  # a type code of DLPack's

cdef extern from "Python.h":
    PyTypeObject *Py_TYPE(object x)
    ctypedef struct PyTypeObject:
        pass


class Changed(Exception):
    """Tensors, groups or state are not as they were when the plan was made; nothing has been written."""


@cython.final
cdef class Exchange:
    """How one library's tensors are looked at.

    Parameters
    ----------
    functions : capsule, optional
        The library's DLPack exchange functions; without them gradients come as views of NumPy's.
    kind : type
        Its tensors. Others, of a subclass, come as views.
    negated : callable
        Whether a tensor's elements are to be read with the other sign.
    viewed : callable
        From a gradient and an order of axes to its array in that order, or its `Rows`, or an error with the reason.
    lies : callable
        From a tensor to something that is equal as long as it lies where it lies.
    changed : callable
        Told which tensors a step writes to, a list.
    """

    def __cinit__(self, object functions, object kind, object negated, object viewed, object lies, object changed):
        cdef Functions *found
        self.kind, self.negated, self.viewed, self.lies, self.changed = kind, negated, viewed, lies, changed
        if functions is not None:
            found = <Functions *>PyCapsule_GetPointer(functions, "dlpack_exchange_api")
            while found != NULL and found.major > 1:
                found = found.previous
            if found != NULL and found.major == 1:
                self.look = found.look

    @property
    def by_address(self):
        """Whether gradients are taken in by their addresses."""
        return self.look != NULL


@cython.final
cdef class Tensors(Source):
    """The tensors of an adapter's groups, and the gradients that they have in each step.

    Parameters
    ----------
    plan : Plan
        Over arrays that are views of some of the tensors, each with its axes in the order that makes it contiguous.
    owner : Optimizer
        What the plan asks.
    exchange : Exchange
    groups : list of dict
        The live groups.
    tensors : list of list
        The tensors of each.
    leaves : list of int
        Of each tensor, in order, its place in the plan, or -1.
    axes : list of tuple
        Of each leaf, that order of its axes.
    """

    def __cinit__(self, Plan plan, object owner, Exchange exchange, list groups, list tensors, list leaves, list axes):
        cdef Py_ssize_t i, n = len(leaves), n_axes = 0, at = 0
        cdef int64_t *to
        cdef Row *r
        self.plan, self.owner, self.exchange, self.groups, self.tensors = plan, owner, exchange, groups, tensors
        self.axes = axes
        self.members = [None] * plan.n_leaves
        self.places = [None] * plan.n_leaves
        self.record = []
        self.counts = np.array(plan.counts, np.float32)
        self.shown = <float *>cnp.PyArray_DATA(<cnp.ndarray>self.counts)
        for order in axes:
            n_axes += len(order)
        self.rows = <Row *>PyMem_Calloc(n + 1, sizeof(Row))
        self.layouts = <int64_t *>PyMem_Calloc(2 * n_axes + 1, sizeof(int64_t))
        if not (self.rows and self.layouts):
            raise MemoryError
        to = self.layouts
        for group in tensors:
            for tensor in group:
                r = &self.rows[at]
                r.leaf = leaves[at]
                at += 1
                if r.leaf < 0:
                    continue
                self.members[r.leaf], self.places[r.leaf] = tensor, exchange.lies(tensor)
                shape, strides = tensor.shape, tensor.stride()
                r.shape, r.ndim = to, len(shape)
                for i in range(r.ndim):
                    to[i], to[r.ndim + i] = shape[i], strides[i]
                to += 2 * r.ndim

    def __dealloc__(self):
        PyMem_Free(self.rows)
        PyMem_Free(self.layouts)

    def known(self, object state, list record):
        """Have it noticed when the dict that users see is another one, or does not hold what is on record."""
        self.state, self.record = state, record

    cdef bint holds(self) except -1:
        """Whether the dict that users see holds what is on record; keys are not hashed, as that may be Python."""
        cdef PyObject *key
        cdef PyObject *value
        cdef Py_ssize_t at = 0, i = 0, k
        cdef tuple row, keys, values
        if len(self.state) != len(self.record):
            return False
        while PyDict_Next(self.state, &at, &key, &value):
            row = self.record[i]
            if key != <PyObject *>row[0] or value != <PyObject *>row[1]:
                return False
            keys, values = row[2], row[3]
            for k in range(len(keys)):
                if PyDict_GetItemWithError(<object>value, keys[k]) != <PyObject *>values[k]:
                    return False
            i += 1
        return True

    cdef int check(self, dict attributes) except -1:
        """Raise `Changed` if groups or state are others, seen without a look at the tensors."""
        if (attributes["param_groups"] is not self.groups or len(self.groups) != self.plan.n_groups
                or attributes["state"] is not self.state or not self.holds()):
            raise Changed
        return 0

    def check_all(self, dict attributes):
        """Raise `Changed` if the plan does not fit any more; see `step`."""
        cdef Py_ssize_t at = 0
        self.check(attributes)
        for group, own in zip(self.groups, self.tensors):
            if len(group["params"]) != len(own):
                raise Changed
            for live, tensor in zip(group["params"], own):
                if live is not tensor:
                    raise Changed
                if self.rows[at].leaf >= 0:
                    self.check_place(&self.rows[at], tensor, &self.plan.leaves[self.rows[at].leaf])
                at += 1

    def step(self, dict attributes):
        """Do a step by the gradients that the tensors have now; True if there is state that was not there before.

        Parameters
        ----------
        attributes : dict
            Of the optimizer that users see: its ``"param_groups"`` and ``"state"``.

        Raises
        ------
        Changed
            If the plan does not fit any more.
        """
        cdef Plan plan = self.plan
        cdef Py_ssize_t i
        cdef list terms = plan.terms
        self.check(attributes)
        self.news = False
        try:
            plan.step(self.owner, self, None, False)
        finally:
            plan.source = None  # which would be a cycle
        for i in range(plan.n_leaves):
            if plan.leaves[i].active:
                self.shown[i] = <float>plan.watches[i].count
        return self.news or plan.terms is not terms

    # -- gradients --

    cdef Py_ssize_t give(self, Leaves leaves) except -1:
        """Take in a gradient, or none, for each leaf; how many there are."""
        cdef Py_ssize_t j, at = 0, found = 0
        cdef list own
        if leaves is not self.plan:
            raise Changed
        for group, own in zip(self.groups, self.tensors):
            live = group.get("params")
            if type(live) is not list or PyList_GET_SIZE(live) != PyList_GET_SIZE(own):
                raise Changed
            for j in range(PyList_GET_SIZE(own)):
                if j >= PyList_GET_SIZE(live) or PyList_GET_ITEM(live, j) != PyList_GET_ITEM(own, j):
                    raise Changed
                found += self.give_one(leaves, &self.rows[at], <object>PyList_GET_ITEM(own, j))
                at += 1
        self.tell(leaves, found)
        return found

    cdef int tell(self, Leaves leaves, Py_ssize_t found) except -1:
        """Tell the library what the step will write to.

        Now, while what it keeps of its tensors is in the caches, though the step may be refused yet: in autograd, a
        version that was counted in vain does no harm. (After the update, a step of 148 tensors with 620,000 elements
        took 3 % longer.)
        """
        cdef Py_ssize_t i
        cdef list written = self.members
        if found < leaves.n_leaves:
            written = []
            for i in range(leaves.n_leaves):
                if leaves.leaves[i].active:
                    written.append(self.members[i])
        self.exchange.changed(written)
        return 0

    cdef int check_place(self, Row *r, object tensor, const Leaf *f) except -1:
        """Raise `Changed` if a tensor does not lie where and as it lay."""
        cdef DLTensor x
        cdef int i
        if self.exchange.look == NULL:
            if self.exchange.lies(tensor) != self.places[r.leaf]:
                raise Changed
            return 0
        if self.exchange.look(<PyObject *>tensor, &x) != 0:
            PyErr_Clear()
            raise Changed
        if x.data + x.byte_offset != f.p and f.n > 0 or x.ndim != r.ndim or x.code != FLOAT or x.bits != 8 * f.itemsize:
            raise Changed
        for i in range(x.ndim):
            if x.shape[i] != r.shape[i] or x.strides[i] != r.shape[r.ndim + i]:
                raise Changed
        return 0

    cdef int give_one(self, Leaves leaves, Row *r, object tensor) except -1:
        """Take in one tensor's gradient; 1 if it has one."""
        cdef object gradient = tensor.grad
        cdef Leaf *f
        cdef Watch *h
        cdef DLTensor y
        cdef int i
        cdef bint alike
        if r.leaf < 0:
            if gradient is not None:
                raise Changed
            return 0
        f = &leaves.leaves[r.leaf]
        h = &leaves.watches[r.leaf]
        if self.shown[r.leaf] != <float>h.count:
            self.recount(leaves, r.leaf)
        if gradient is None:
            leaves.complete = leaves.complete and not f.active
            f.active = False
            return 0
        self.news = self.news or h.count == 0 or h.fresh
        self.check_place(r, tensor, f)
        if (leaves.tables[r.leaf] is not None or self.exchange.look == NULL
                or <PyObject *>Py_TYPE(gradient) != <PyObject *>self.exchange.kind):
            return self.give_view(leaves, r, gradient)
        if self.exchange.look(<PyObject *>gradient, &y) != 0:
            PyErr_Clear()
            return self.give_view(leaves, r, gradient)
        alike = (y.code == FLOAT and y.bits == 8 * f.itemsize and y.device_type == CPU and y.ndim == r.ndim
                 and (y.data != NULL or f.n == 0))  # of one whose storage was freed
        for i in range(r.ndim if alike else 0):
            alike = alike and y.shape[i] == r.shape[i] and (y.strides[i] == r.shape[r.ndim + i] or r.shape[i] == 1)
        # What is to be read with the other sign is a part of complex numbers, and so no two of its elements are
        # neighbours.
        if not alike or f.n == 1 and self.exchange.negated(gradient):
            return self.give_view(leaves, r, gradient)
        y.data += y.byte_offset
        if y.data != h.cleared:
            if not clear_of(leaves, <uintptr_t>y.data, f.n * f.itemsize):
                return self.give_view(leaves, r, gradient)  # which says so
            h.cleared = y.data
        if f.g != y.data or f.order != NULL or not f.active:
            f.g, f.order, f.active = y.data, NULL, True
        h.held = <PyObject *>gradient
        Py_INCREF(gradient)
        return 1

    cdef int give_view(self, Leaves leaves, Row *r, object gradient) except -1:
        """The same for a gradient that is not of the usual kind, or does not lie as its tensor does."""
        leaves.stale = True
        leaves.take_leaf(r.leaf, self.exchange.viewed(gradient, self.axes[r.leaf]))
        if leaves.leaves[r.leaf].rows != NULL and leaves.tables[r.leaf] is None:
            self.news = True
        return 1

    def look_at_count(self, Py_ssize_t leaf):
        """Take over what was written to the count of a leaf, which another plan is to go on from."""
        if self.shown[leaf] != <float>self.plan.watches[leaf].count:
            self.recount(self.plan, leaf)

    cdef int recount(self, Leaves leaves, Py_ssize_t leaf) except -1:
        """A count was written to."""
        cdef float count = self.shown[leaf]
        if not (isfinite(count) and 0 <= count < 2.0 ** 62):
            raise ValueError(f"the step of {leaves.names[leaf]} was set to {count}: wanted a number of at least 0")
        leaves.watches[leaf].count = <int64_t>count
        return 0

    cdef bint still_there(self, Leaves leaves, Py_ssize_t i) noexcept:
        """Whether a gradient lies where it lay."""
        cdef DLTensor y
        if self.exchange.look(leaves.watches[i].held, &y) != 0:
            PyErr_Clear()
            return False
        return y.data + y.byte_offset == leaves.leaves[i].g


cdef bint clear_of(Leaves leaves, uintptr_t begin, Py_ssize_t nbytes) noexcept:
    """Whether these bytes are apart from parameters and state."""
    cdef Py_ssize_t at = leaves.extent_after(begin)
    return nbytes == 0 or at == leaves.n_extents or leaves.extents[at].begin >= begin + nbytes


def carry(Plan old, Plan new, list origins):
    """Have a new plan go on where the old one, which is not to be used any more, has been.

    Parameters
    ----------
    old, new : Plan
    origins : list of int
        Of each leaf of the new one its place in the old one, where it had the same type, shape and memory order; -1 if
        it is new.
    """
    cdef Py_ssize_t i, was
    cdef int k
    cdef Leaf *f
    cdef Extent *extents
    cdef Py_ssize_t n_extents = 0
    memory = new.own_memory()
    for i in range(new.n_leaves):
        was = origins[i]
        if was >= 0:
            for slot, array in old.states[was].items():
                memory.append((array, i, new.slots.index(slot)))
    extents = sorted_extents(memory, &n_extents)
    PyMem_Free(new.extents)
    new.extents, new.n_extents = extents, n_extents
    for i in range(new.n_leaves):
        was = origins[i]
        if was < 0:
            continue
        f = &new.leaves[i]
        for k in range(len(new.slots)):
            f.s[k] = old.leaves[was].s[k]
        f.updated = old.leaves[was].updated
        new.states[i] = old.states[was]
        new.tables[i] = old.tables[was]
        new.watches[i].count, new.watches[i].fresh = old.watches[was].count, old.watches[was].fresh
        new.numbers[:, i] = old.numbers[:, was]
    new.steps, new.skipped, new.unlooked, new.sweeper = old.steps, old.skipped, old.unlooked, old.sweeper

"""Where do parameters and this step's gradients lie? What is taken in here has passed every check.

A tree of gradients is taken apart in the order of the parameters. An array that passed at the same address before is
recognised at a glance. Where Python ran in between (a list subclass, `__dlpack__`), all is looked at once more.
"""

cimport cython
from cpython.dict cimport PyDict_Next
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_REFCNT, Py_XDECREF
from libc.string cimport memcpy

from .arrays cimport (
    check_parameter, extent, overlap, raw_data, raw_flags, raw_ndim, raw_shape, raw_type, real_of, same_shape, shown,
    sorted_extents, viewed)
from .chunks cimport lay_out
from .kernels cimport FO_F32
from .rows cimport Table, new_table

import weakref

import numpy as np

from ..memory import is_mapped, overlapping_maps
from ..rows import Rows
from ..tree import described as described_tree

cnp.import_array()

cdef int CONTIGUOUS = cnp.NPY_ARRAY_C_CONTIGUOUS | cnp.NPY_ARRAY_F_CONTIGUOUS


@cython.boundscheck(True)  # what Python code runs here may shorten a list
cdef bint take_apart(object x, object structure, list found) except -1:
    """`Tree.take_apart` without its messages: append the leaves of x, or return False if its structure is another."""
    cdef object value
    cdef PyObject *part
    cdef PyObject *key
    cdef Py_ssize_t at = 0
    if structure is None:
        if isinstance(x, (dict, list, tuple)):
            return False
        found.append(x)
        return True
    if isinstance(structure, dict):
        if not isinstance(x, dict) or len(x) != len(structure):
            return False
        while PyDict_Next(structure, &at, &key, &part):
            value = (<dict>x).get(<object>key, structure)  # which is no array either
            if not take_apart(value, <object>part, found):
                return False
        return True
    if not isinstance(x, (list, tuple)) or len(x) != len(structure):
        return False
    for at in range(len(<tuple>structure)):
        if not take_apart(x[at], (<tuple>structure)[at], found):
            return False
    return True


cdef inline bint unmoved(const Leaf *f, const Watch *h) noexcept:
    """Whether a parameter is as it was when the plan was made, seen at a glance."""
    return (
        raw_data(h.array) == f.p
        and raw_type(h.array) == h.type
        and raw_shape(h.array) == h.dims
        and raw_ndim(h.array) == h.ndim
        and (raw_flags(h.array) & h.needed) == h.needed
    )


cdef inline bint familiar(const Leaf *f, const Watch *h, PyObject *x) noexcept:
    """Whether x is an array that passes every check of `Leaves.take_leaf`, seen at a glance."""
    cdef const RawArray *a = <const RawArray *>x
    return (
        cnp.PyArray_CheckExact(<object>x)
        and raw_data(a) == h.cleared
        and raw_type(a) == h.type
        and (raw_flags(a) & h.wanted) == h.wanted
        and same_shape(a, h.ndim, h.shape)
        and unmoved(f, h)
    )


cdef class Source:
    """Where the gradients of an adapter lie."""

    cdef Py_ssize_t give(self, Leaves leaves) except -1:
        """Have a gradient, or none, taken in for each leaf; how many there are."""
        raise NotImplementedError

    cdef bint still_there(self, Leaves leaves, Py_ssize_t i) noexcept:
        """Whether a gradient that is no array lies where it lay."""
        return False


cdef class Leaves:
    """The parameters of one optimizer, and the gradients of a step.

    Parameters
    ----------
    tree : Tree
        The parameters, their names and groups; the arrays are checked here.
    """

    def __cinit__(self, object tree, *_):
        cdef Py_ssize_t i, n_axes = 0
        cdef Leaf *f
        cdef Watch *h
        cdef cnp.ndarray a
        self.tree = tree
        self.single, self.flat, self.order = tree.single, tree.flat, tree.order
        self.structure = tree.structure[1]
        self.arrays, self.names, self.gradient_names = tree.leaves, tree.names, tree.gradient_names
        self.n_leaves = len(self.arrays)
        self.n_groups = tree.n_groups
        for i in range(self.n_leaves):
            check_parameter(self.arrays[i], self.names[i])
            n_axes += cnp.PyArray_NDIM(self.arrays[i])
        self.references = list(map(weakref.ref, self.arrays))
        self.tables = [None] * self.n_leaves
        self.leaves = <Leaf *>PyMem_Calloc(self.n_leaves + 1, sizeof(Leaf))
        self.watches = <Watch *>PyMem_Calloc(self.n_leaves + 1, sizeof(Watch))
        self.shapes = <Py_ssize_t *>PyMem_Calloc(n_axes + 1, sizeof(Py_ssize_t))
        self.first_leaf = <Py_ssize_t *>PyMem_Calloc(self.n_groups + 1, sizeof(Py_ssize_t))
        if not (self.leaves and self.watches and self.shapes and self.first_leaf):
            raise MemoryError
        self.all.leaves, self.all.n_leaves = self.leaves, self.n_leaves
        n_axes = 0
        for i in range(self.n_leaves):
            f = &self.leaves[i]
            h = &self.watches[i]
            a = self.arrays[i]
            f.real = f.kernel = real_of(a)
            f.p = <char *>cnp.PyArray_DATA(a)
            f.n = cnp.PyArray_SIZE(a)
            f.itemsize = cnp.PyArray_ITEMSIZE(a)
            f.reversed = not cnp.PyArray_IS_C_CONTIGUOUS(a)
            f.group = tree.groups[i]
            h.array = <RawArray *>a
            h.type = raw_type(h.array)
            h.dims = raw_shape(h.array)
            h.ndim = cnp.PyArray_NDIM(a)
            h.shape = self.shapes + n_axes
            if h.ndim > 0:  # else there may be no dims
                memcpy(self.shapes + n_axes, h.dims, h.ndim * sizeof(Py_ssize_t))
            n_axes += h.ndim
            h.needed = cnp.NPY_ARRAY_ALIGNED | cnp.NPY_ARRAY_WRITEABLE | (cnp.PyArray_FLAGS(a) & CONTIGUOUS)
            h.wanted = cnp.NPY_ARRAY_ALIGNED | (
                cnp.NPY_ARRAY_F_CONTIGUOUS if f.reversed else cnp.NPY_ARRAY_C_CONTIGUOUS)
            self.first_leaf[f.group + 1] += 1
        for i in range(self.n_groups):
            self.first_leaf[i + 1] += self.first_leaf[i]
        self.largest, self.smallest = np.inf, 0.0
        for a in self.arrays:
            info = np.finfo(a.dtype)
            self.largest, self.smallest = min(self.largest, float(info.max)), max(self.smallest, float(info.tiny))
        self.check_overlaps()

    def __dealloc__(self):
        if self.watches != NULL:
            self.let_go()
        PyMem_Free(self.leaves)
        PyMem_Free(self.watches)
        PyMem_Free(self.shapes)
        PyMem_Free(self.first_leaf)
        PyMem_Free(self.extents)

    cdef void require(self, bint zero_gradients) noexcept:
        """Have gradients zeroed by each step, or not; those that are to be must be writable."""
        cdef Py_ssize_t i
        self.zero_gradients = zero_gradients
        for i in range(self.n_leaves):
            self.watches[i].wanted &= ~cnp.NPY_ARRAY_WRITEABLE
            if zero_gradients:
                self.watches[i].wanted |= cnp.NPY_ARRAY_WRITEABLE
        self.complete = False

    cdef list own_memory(self):
        """(array, leaf, slot) of all that is the optimizer's own; here the parameters, slot -1."""
        return list(zip(self.arrays, range(self.n_leaves), [-1] * self.n_leaves))

    cdef int check_overlaps(self) except -1:
        """Raise if two parameters share memory."""
        cdef Py_ssize_t i, j, k
        self.extents = sorted_extents(self.own_memory(), &self.n_extents)
        self.mapped = []
        for i in range(self.n_leaves):
            if is_mapped(self.arrays[i]):
                self.mapped.append(i)
        pair = overlapping_maps(self.arrays) if self.mapped else None
        if pair is not None:
            raise ValueError(f"{self.names[pair[1]]} overlaps the memory of {self.names[pair[0]]}: both are maps of "
                             "one file, and each parameter must have memory of its own")
        for k in range(1, self.n_extents):
            if self.extents[k - 1].end > self.extents[k].begin:
                i, j = sorted((self.extents[k - 1].leaf, self.extents[k].leaf))
                if self.arrays[i] is self.arrays[j]:
                    raise ValueError(f"{self.names[j]} is the same array as {self.names[i]}: "
                                     "each parameter must appear once")
                raise ValueError(f"{self.names[j]} overlaps the memory of {self.names[i]}: "
                                 "each parameter must have memory of its own")
        return 0

    # -- the gradients of a step --

    cdef int take(self, object grads) except -1:
        """Take in one gradient a leaf, None to leave it out."""
        cdef Py_ssize_t i, n_active = 0
        cdef object x
        cdef Leaf *f
        cdef Watch *h
        cdef object leaves = grads
        cdef bint one = self.single and not isinstance(grads, (list, tuple, dict))
        self.stale = False
        if isinstance(grads, Source):
            self.source = grads
            n_active = self.source.give(self)
            if not self.complete:
                self.renumber()
                self.complete = n_active == self.n_leaves
            return 0
        if not one and not (self.flat and type(grads) in (list, tuple) and len(grads) == self.n_leaves):
            leaves = []
            try:
                if not take_apart(grads, self.structure, leaves):
                    leaves = self.tree.take_apart(grads)  # which raises, and says where
            except IndexError:
                raise RuntimeError("grads changed while it was read") from None
            if self.order is not None:
                leaves = list(map(leaves.__getitem__, self.order))
        for i in range(self.n_leaves):
            if one:
                x = grads
            elif type(leaves) is list:
                if len(<list>leaves) != self.n_leaves:
                    raise RuntimeError("grads changed while it was read")
                x = (<list>leaves)[i]
            else:
                x = (<tuple>leaves)[i]
            f = &self.leaves[i]
            h = &self.watches[i]
            if familiar(f, h, <PyObject *>x):
                h.held = <PyObject *>x
                Py_INCREF(x)
                if f.g != h.cleared or f.order != NULL or not f.active:
                    f.g, f.order, f.active = h.cleared, NULL, True
            else:
                self.take_leaf(i, x)
                if not f.active:
                    self.complete = False
            n_active += f.active
        if self.zero_gradients:
            self.check_gradient_overlaps()
        if not self.complete:
            self.renumber()
            self.complete = n_active == self.n_leaves
        return 0

    def taken(self, object grads):
        """Return the array of each leaf of `grads`, None where there is none, once all have passed every check."""
        cdef Py_ssize_t i
        cdef list found = []
        try:
            self.take(grads)
            for i in self.named or ():
                raise TypeError(f"{self.gradient_names[i]} is Rows: wanted the gradient of a whole parameter")
            if self.stale:
                self.look_again()
            for i in range(self.n_leaves):
                found.append(self.gradient(i))
        finally:
            if self.end_step(False):
                self.let_go()
        return found

    cdef int take_leaf(self, Py_ssize_t i, object x) except -1:
        """Check one gradient, and take it in."""
        cdef Leaf *f = &self.leaves[i]
        cdef Watch *h = &self.watches[i]
        cdef cnp.ndarray a
        f.active = False
        f.order = NULL
        if x is None:
            return 0
        if type(x) is not np.ndarray:
            if isinstance(x, Rows):
                return self.take_rows(i, x)
            if isinstance(x, (list, tuple, dict)):
                raise ValueError(f"{self.gradient_names[i]} is {described_tree(x)}: wanted one array")
            x = viewed(x, self.gradient_names[i])
            self.stale = True
        a = x
        self.check_unmoved(i)
        if real_of(a) != f.real:
            swapped = "" if cnp.PyArray_ISNOTSWAPPED(a) else "byte-swapped "
            raise TypeError(f"{self.gradient_names[i]} has {swapped}dtype {a.dtype.str if swapped else a.dtype}: "
                            f"wanted {self.arrays[i].dtype}, as {self.names[i]} has")
        if not same_shape(<RawArray *>a, h.ndim, h.shape):
            raise ValueError(f"{self.gradient_names[i]} has shape {shown(a)}: "
                             f"wanted {shown(self.arrays[i])}, as {self.names[i]} has")
        if self.zero_gradients and not cnp.PyArray_ISWRITEABLE(a):
            raise ValueError(f"{self.gradient_names[i]} is read-only: zero_grads=True cannot zero it")
        if self.tables[i] is not None:
            return self.take_rows(i, a)
        if (cnp.PyArray_FLAGS(a) & h.wanted) != h.wanted:
            a = a.view()  # one of our own: without the GIL, who set the other's shape could make us read elsewhere
            self.check_apart(i, a)
            f.order = <RawArray *>a
        elif <const char *>cnp.PyArray_DATA(a) != h.cleared:
            self.check_apart(i, a)
            h.cleared = <const char *>cnp.PyArray_DATA(a)
        f.g = <const char *>cnp.PyArray_DATA(a)
        h.held = <PyObject *>a
        Py_INCREF(a)
        f.active = True
        return 0

    cdef int take_rows(self, Py_ssize_t i, object x) except -1:
        """Take in gradients of a table's rows: of some, or a gradient that has been checked of all of them."""
        cdef Leaf *f = &self.leaves[i]
        cdef Watch *h = &self.watches[i]
        cdef Table table = self.tables[i]
        cdef cnp.ndarray a
        if isinstance(x, Rows):
            self.check_unmoved(i)
            if table is None:
                table = new_table(self.arrays[i], h.count, self.names[i], self.gradient_names[i])
            a = table.name(x, self.arrays[i], self.zero_gradients, self.names[i], self.gradient_names[i])
        else:
            a = table.name_all(x)
        self.stale = True
        self.check_apart(i, a)
        if self.named is None:
            self.named = {}
        self.named[i] = table
        f.rows = &table.named
        f.g, f.order, f.active = <const char *>cnp.PyArray_DATA(table.values), <RawArray *>a, True
        h.cleared = NULL  # to be looked at anew each time
        h.held = <PyObject *>a
        Py_INCREF(a)
        self.complete = False
        return 0

    cdef void end_rows(self, bint counted) noexcept:
        """The step is over for rows; `end_step` counts it for their tables."""
        cdef Py_ssize_t i
        cdef Table table
        for i, table in self.named.items():
            self.leaves[i].rows, self.leaves[i].order, table.values = NULL, NULL, None
            if counted:
                table.counted(self.watches[i].count, self.watches[i].fresh, self.leaves[i].arrays > 2)
                self.tables[i] = table
        self.complete = False
        self.named = None

    cdef int look_again(self) except -1:
        """Raise if Python code has moved what was looked at before."""
        cdef Py_ssize_t i
        for i in range(self.n_leaves):
            if not unmoved(&self.leaves[i], &self.watches[i]):
                self.check_unmoved(i)
            if self.watches[i].held != NULL and not self.still_there(i):
                raise RuntimeError(f"{self.gradient_names[i]} changed while gradients were read")
        self.stale = False
        return 0

    cdef bint still_there(self, Py_ssize_t i) noexcept:
        """Whether a gradient that was taken in lies where it lay, and may be zeroed if it is to be."""
        cdef Leaf *f = &self.leaves[i]
        cdef Watch *h = &self.watches[i]
        cdef cnp.ndarray a
        cdef object base
        cdef uintptr_t begin, end, low, high
        if not cnp.PyArray_Check(<object>h.held):
            return self.source.still_there(self, i)
        a = <cnp.ndarray>h.held
        base = (<object>a).base
        if raw_data(<RawArray *>a) != f.g and f.rows == NULL:  # which may be of a copy
            return False
        if f.order == NULL:
            return ((raw_flags(<RawArray *>a) & h.wanted) == h.wanted and real_of(a) == f.real
                    and same_shape(<RawArray *>a, h.ndim, h.shape))
        if isinstance(base, np.ndarray):  # of our view
            extent(a, &begin, &end)
            extent(base, &low, &high)
            if not (low <= begin and end <= high) and begin < end:
                return False
            return not self.zero_gradients or cnp.PyArray_ISWRITEABLE(<cnp.ndarray>base)
        return True

    @property
    def specs(self):
        """(dtype, shape) that each parameter had when the plan was made."""
        cdef Py_ssize_t i
        found = []
        for i in range(self.n_leaves):
            found.append((np.dtype(np.float32 if self.leaves[i].real == FO_F32 else np.float64), self.shape_of(i)))
        return found

    def shape_of(self, Py_ssize_t i):
        """The shape that a parameter had when the plan was made."""
        cdef int axis
        shape = []
        for axis in range(self.watches[i].ndim):
            shape.append(self.watches[i].shape[axis])
        return tuple(shape)

    def check_parameters(self):
        """Raise if a parameter cannot be updated any more where it was when the plan was made."""
        cdef Py_ssize_t i
        for i in range(self.n_leaves):
            self.check_unmoved(i)

    cdef int check_unmoved(self, Py_ssize_t i) except -1:
        """Raise if a parameter is not as it was: moved, read-only, or of another shape, type or order."""
        cdef Leaf *f = &self.leaves[i]
        cdef Watch *h = &self.watches[i]
        cdef cnp.ndarray p = self.arrays[i]
        if check_parameter(p, self.names[i]) != f.real:
            raise ValueError(f"{self.names[i]} was given another dtype, {p.dtype}: make another optimizer for it")
        if <char *>cnp.PyArray_DATA(p) != f.p:
            raise ValueError(f"{self.names[i]} is not the memory it was: call bind(params)")
        if not same_shape(h.array, h.ndim, h.shape):
            raise ValueError(f"{self.names[i]} was given another shape, {shown(p)}: wanted {self.shape_of(i)}, as it "
                             "had")
        if (cnp.PyArray_FLAGS(p) & h.needed) != h.needed:
            raise ValueError(f"{self.names[i]} was given other strides, {(<object>p).strides}: wanted those it had")
        h.type, h.dims = raw_type(h.array), raw_shape(h.array)
        return 0

    cdef int check_apart(self, Py_ssize_t i, cnp.ndarray a) except -1:
        """Raise if a gradient overlaps a parameter or state."""
        cdef uintptr_t begin, end
        cdef Py_ssize_t low
        cdef Extent *e
        extent(a, &begin, &end)
        if begin == end:
            return 0
        low = self.extent_after(begin)
        while low < self.n_extents and self.extents[low].begin < end:
            e = &self.extents[low]
            others = self.memory_of(e.leaf, e.slot)
            if overlap(a, others):
                what = "the memory of" if e.slot < 0 else "the optimizer's state of"
                raise ValueError(f"{self.gradient_names[i]} overlaps {what} {self.names[e.leaf]}: "
                                 "it would change while it is read")
            low += 1
        if self.mapped:
            pair = overlapping_maps([*map(self.arrays.__getitem__, self.mapped), a])
            if pair is not None:
                raise ValueError(f"{self.gradient_names[i]} overlaps the memory of {self.names[self.mapped[pair[0]]]}: "
                                 "both are maps of one file")
        return 0

    cdef Py_ssize_t extent_after(self, uintptr_t begin) noexcept:
        """The first of the optimizer's extents that ends after a gradient begins."""
        cdef Py_ssize_t low = 0, high = self.n_extents, middle
        while low < high:
            middle = (low + high) // 2
            if self.extents[middle].end > begin:
                high = middle
            else:
                low = middle + 1
        return low

    def memory_of(self, Py_ssize_t leaf, int slot):
        """The array that an extent is of."""
        return self.arrays[leaf]

    cdef int check_gradient_overlaps(self) except -1:
        """Raise if two gradients share memory: the first update would zero the other's."""
        cdef uintptr_t begin, end
        cdef Py_ssize_t i
        extents = []
        for i in range(self.n_leaves):
            if self.leaves[i].active and self.leaves[i].n > 0:
                extent(<cnp.ndarray>self.watches[i].held, &begin, &end)
                extents.append((begin, end, i))
        extents.sort()
        held = []
        reaching = []  # earlier ones that end after this one begins; apart all the same if they interleave
        for begin, end, i in extents:
            still = []
            for reach, j in reaching:
                if reach <= begin:
                    continue
                still.append((reach, j))
                if overlap(<object>self.watches[i].held, <object>self.watches[<Py_ssize_t>j].held):
                    self.refuse_zeroing(i, j)
            still.append((end, i))
            reaching = still
            held.append(<object>self.watches[i].held)
        pair = overlapping_maps(held)
        if pair is not None:
            self.refuse_zeroing(extents[pair[0]][2], extents[pair[1]][2])
        return 0

    def refuse_zeroing(self, i, j):
        """Raise: two gradients share memory."""
        first, second = sorted((i, j))
        raise ValueError(f"{self.gradient_names[second]} overlaps the memory of {self.gradient_names[first]}: "
                         "zero_grads=True needs gradients apart")

    cdef bint end_step(self, bint counted) noexcept:
        """Count the update of each leaf that has a gradient, if there was one, and let go of the gradients.

        True if some are left for `let_go`: nobody else holds them, and to end them may run Python code.
        """
        cdef Py_ssize_t i
        cdef PyObject *held
        cdef bint others = False
        if self.named is not None:
            self.end_rows(counted)
        for i in range(self.n_leaves):
            held = self.watches[i].held
            if held != NULL:
                self.watches[i].count += counted
                if counted and not self.leaves[i].updated:
                    self.leaves[i].updated = True
                if counted and self.watches[i].fresh and self.leaves[i].arrays > 2:  # an update without state uses none
                    self.watches[i].fresh = False
                if Py_REFCNT(<object>held) > 1:
                    self.watches[i].held = NULL
                    Py_DECREF(<object>held)
                else:
                    others = True
        return others

    cdef void let_go(self) noexcept:
        """Let go of the step's gradients."""
        cdef Py_ssize_t i
        cdef PyObject *held
        for i in range(self.n_leaves):
            held = self.watches[i].held
            self.watches[i].held = NULL
            Py_XDECREF(held)

    def gradient(self, Py_ssize_t leaf):
        """Return the array that is a leaf's gradient in this step, or None."""
        return <object>self.watches[leaf].held if self.watches[leaf].held != NULL else None

    cdef void renumber(self) noexcept:
        """Number the chunks of the active leaves."""
        self.complete = False
        lay_out(&self.all)

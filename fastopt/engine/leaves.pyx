"""Where do parameters and this step's gradients lie? What is taken in here has passed every check.

A tree of gradients is taken apart in the order of the parameters. An array that passed at the same address before is
recognised.
"""

from cpython.dict cimport PyDict_Next
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.stdlib cimport calloc, free

from .arrays cimport (
    check_parameter, extent, raw_data, raw_flags, raw_size, raw_type, real_of, same_shape, shown, viewed)
from .sweep cimport lay_out

import numpy as np

from ..tree import described as described_tree

cnp.import_array()


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


cdef inline bint familiar(const Leaf *f, const Watch *h, PyObject *x) noexcept:
    """Whether x is an array that passes every check of `Leaves.take_leaf`, seen at a glance."""
    cdef const RawArray *a = <const RawArray *>x
    return (
        cnp.PyArray_CheckExact(<object>x)
        and raw_data(a) == h.cleared
        and raw_type(a) == raw_type(h.array)
        and (raw_flags(a) & h.wanted) == h.wanted
        and same_shape(a, h.array)
        and raw_data(h.array) == f.p
        and raw_size(h.array) == f.n
        and (raw_flags(h.array) & cnp.NPY_ARRAY_WRITEABLE)
    )
cdef class Leaves:
    """The parameters of one optimizer, and the gradients of a step.

    Parameters
    ----------
    tree : Tree
        The parameters, their names and groups; the arrays are checked here.
    zero_gradients : bool
        Whether a step zeroes the gradients.
    """

    def __cinit__(self, object tree, bint zero_gradients, *_):
        cdef Py_ssize_t i
        cdef Leaf *f
        cdef Watch *h
        cdef cnp.ndarray a
        self.tree, self.zero_gradients = tree, zero_gradients
        self.single, self.flat = tree.single, tree.flat
        self.structure = tree.structure[1]
        self.arrays, self.names, self.gradient_names = tree.leaves, tree.names, tree.gradient_names
        self.n_leaves = len(self.arrays)
        self.n_groups = tree.n_groups
        self.leaves = <Leaf *>calloc(self.n_leaves + 1, sizeof(Leaf))
        self.watches = <Watch *>calloc(self.n_leaves + 1, sizeof(Watch))
        self.by_address = <Py_ssize_t *>calloc(self.n_leaves + 1, sizeof(Py_ssize_t))
        self.first_leaf = <Py_ssize_t *>calloc(self.n_groups + 1, sizeof(Py_ssize_t))
        if not (self.leaves and self.watches and self.by_address and self.first_leaf):
            raise MemoryError
        self.all.leaves, self.all.n_leaves = self.leaves, self.n_leaves
        for i in range(self.n_leaves):
            f = &self.leaves[i]
            h = &self.watches[i]
            f.real = check_parameter(self.arrays[i], self.names[i])
            a = self.arrays[i]
            h.array = <RawArray *>a
            f.p = <char *>cnp.PyArray_DATA(a)
            f.n = cnp.PyArray_SIZE(a)
            f.itemsize = cnp.PyArray_ITEMSIZE(a)
            f.reversed = not cnp.PyArray_IS_C_CONTIGUOUS(a)
            h.wanted = cnp.NPY_ARRAY_ALIGNED | (
                cnp.NPY_ARRAY_F_CONTIGUOUS if f.reversed else cnp.NPY_ARRAY_C_CONTIGUOUS)
            if zero_gradients:
                h.wanted |= cnp.NPY_ARRAY_WRITEABLE
            f.group = tree.groups[i]
            self.first_leaf[f.group + 1] += 1
        for i in range(self.n_groups):
            self.first_leaf[i + 1] += self.first_leaf[i]
        self.largest = min([float(np.finfo(array.dtype).max) for array in self.arrays], default=np.inf)
        self.smallest = max([float(np.finfo(array.dtype).tiny) for array in self.arrays], default=0.0)
        self.check_overlaps()

    def __dealloc__(self):
        free(self.leaves)
        free(self.watches)
        free(self.by_address)
        free(self.first_leaf)

    cdef int check_overlaps(self) except -1:
        """Raise if two parameters share memory; sort them by address for later look-ups."""
        cdef Py_ssize_t i, j, k
        order = sorted((<uintptr_t>self.leaves[i].p, i) for i in range(self.n_leaves) if self.leaves[i].n > 0)
        for k in range(len(order)):
            self.by_address[k] = order[k][1]
        self.n_by_address = len(order)
        for k in range(1, self.n_by_address):
            i, j = self.by_address[k - 1], self.by_address[k]
            if self.leaves[i].p + self.leaves[i].n * self.leaves[i].itemsize > self.leaves[j].p:
                i, j = min(i, j), max(i, j)
                if self.arrays[i] is self.arrays[j]:
                    raise ValueError(f"{self.names[j]} is the same array as {self.names[i]}: "
                                     "each parameter must appear once")
                raise ValueError(f"{self.names[j]} overlaps the memory of {self.names[i]}: "
                                 "each parameter must have memory of its own")
        return 0

    # -- state --
    cdef int take(self, object grads) except -1:
        """Take in one gradient a leaf, None to leave it out."""
        cdef Py_ssize_t i, n_active = 0
        cdef PyObject *x
        cdef Leaf *f
        cdef Watch *h
        cdef object leaves = grads
        cdef bint one = self.single and not isinstance(grads, (list, tuple, dict))
        if not one and not (self.flat and type(grads) in (list, tuple) and len(grads) == self.n_leaves):
            leaves = []
            if not take_apart(grads, self.structure, leaves):
                leaves = self.tree.take_apart(grads)  # which raises, and says where
        for i in range(self.n_leaves):
            if one:
                x = <PyObject *>grads
            elif type(leaves) is list:
                if len(<list>leaves) != self.n_leaves:
                    raise RuntimeError("grads changed while it was read")
                x = <PyObject *>(<list>leaves)[i]
            else:
                x = <PyObject *>(<tuple>leaves)[i]
            f = &self.leaves[i]
            h = &self.watches[i]
            if familiar(f, h, x):
                h.held = x
                Py_INCREF(<object>x)
                if f.g != h.cleared or f.order != NULL or not f.active:
                    f.g, f.order, f.active = h.cleared, NULL, True
            else:
                self.take_leaf(i, <object>x)
                if not f.active:
                    self.complete = False
            n_active += f.active
        if self.zero_gradients:
            self.check_gradient_overlaps()
        if not self.complete:
            self.renumber()
            self.complete = n_active == self.n_leaves
        return 0

    cdef int take_leaf(self, Py_ssize_t i, object x) except -1:
        """Check one gradient, and take it in."""
        cdef Leaf *f = &self.leaves[i]
        cdef Watch *h = &self.watches[i]
        cdef cnp.ndarray a, p
        f.active = False
        f.order = NULL
        if x is None:
            return 0
        if type(x) is not np.ndarray:
            if isinstance(x, (list, tuple, dict)):
                raise ValueError(f"{self.gradient_names[i]} is {described_tree(x)}: wanted one array")
            x = viewed(x, self.gradient_names[i])
        a, p = x, self.arrays[i]
        if real_of(a) != f.real:
            swapped = "" if cnp.PyArray_ISNOTSWAPPED(a) else "byte-swapped "
            raise TypeError(f"{self.gradient_names[i]} has {swapped}dtype {a.dtype.str if swapped else a.dtype}: "
                            f"wanted {p.dtype}, as {self.names[i]} has")
        if not same_shape(<RawArray *>a, <RawArray *>p):
            raise ValueError(f"{self.gradient_names[i]} has shape {shown(a)}: "
                             f"wanted {shown(p)}, as {self.names[i]} has")
        self.check_unmoved(i)
        if self.zero_gradients and not cnp.PyArray_ISWRITEABLE(a):
            raise ValueError(f"{self.gradient_names[i]} is read-only: zero_grads=True cannot zero it")
        f.g = <const char *>cnp.PyArray_DATA(a)
        if (cnp.PyArray_FLAGS(a) & h.wanted) != h.wanted:
            f.order = <RawArray *>a
            self.check_apart(i, a)
        elif f.g != h.cleared:
            self.check_apart(i, a)
            h.cleared = f.g
        h.held = <PyObject *>a
        Py_INCREF(a)
        f.active = True
        return 0

    def check_parameters(self):
        """Raise if a parameter cannot be updated any more where it was when the plan was made."""
        cdef Py_ssize_t i
        for i in range(self.n_leaves):
            self.check_unmoved(i)

    cdef int check_unmoved(self, Py_ssize_t i) except -1:
        cdef Leaf *f = &self.leaves[i]
        cdef cnp.ndarray p = self.arrays[i]
        if raw_data(self.watches[i].array) != f.p or cnp.PyArray_SIZE(p) != f.n or not cnp.PyArray_ISWRITEABLE(p):
            check_parameter(p, self.names[i])
            raise ValueError(f"{self.names[i]} is not the memory it was: call bind(params)")
        return 0

    cdef int check_apart(self, Py_ssize_t i, cnp.ndarray a) except -1:
        """Raise if a gradient overlaps a parameter."""
        cdef uintptr_t begin, end
        cdef Py_ssize_t low = 0, high = self.n_by_address, middle
        cdef Leaf *f
        extent(a, &begin, &end)
        if begin == end:
            return 0
        while low < high:  # the first parameter that ends after the gradient begins
            middle = (low + high) // 2
            f = &self.leaves[self.by_address[middle]]
            if <uintptr_t>f.p + f.n * f.itemsize > begin:
                high = middle
            else:
                low = middle + 1
        while low < self.n_by_address:
            f = &self.leaves[self.by_address[low]]
            if <uintptr_t>f.p >= end:
                break
            if np.shares_memory(a, self.arrays[self.by_address[low]]):
                raise ValueError(f"{self.gradient_names[i]} overlaps the memory of "
                                 f"{self.names[self.by_address[low]]}: it would change while it is read")
            low += 1
        return 0

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
        reaching = []  # earlier ones that end after this one begins; apart all the same if they interleave
        for begin, end, i in extents:
            reaching = [(reach, j) for reach, j in reaching if reach > begin]
            for _, j in reaching:
                if np.shares_memory(<object>self.watches[i].held, <object>self.watches[<Py_ssize_t>j].held):
                    first, second = sorted((i, j))
                    raise ValueError(f"{self.gradient_names[second]} overlaps the memory of "
                                     f"{self.gradient_names[first]}: zero_grads=True needs gradients apart")
            reaching.append((end, i))
        return 0

    cdef void release(self, bint counted) noexcept:
        """Let go of the step's gradients, and count the updates if they took place."""
        cdef Py_ssize_t i
        cdef PyObject *held
        for i in range(self.n_leaves):
            held = self.watches[i].held
            if held != NULL:
                self.watches[i].count += counted
                self.watches[i].held = NULL
                Py_XDECREF(held)

    def gradient(self, Py_ssize_t leaf):
        """Return the array that is a leaf's gradient in this step, or None."""
        return <object>self.watches[leaf].held if self.watches[leaf].held != NULL else None

    cdef void renumber(self) noexcept:
        """Number the chunks of the active leaves."""
        self.complete = False
        lay_out(&self.all)

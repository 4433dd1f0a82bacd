"""Where parameters and this step's gradients lie, for the rooms that build on it."""

from cpython.ref cimport PyObject
from libc.stdint cimport int64_t, uintptr_t

cimport numpy as cnp

from .arrays cimport Extent, RawArray
from .chunks cimport Layout, Leaf

cdef struct Watch:
    # What the plan keeps of a parameter besides its Leaf, for the thread that calls step().
    const RawArray *array    # the parameter,
    const void *type         # and how it was when its plan was made:
    const Py_ssize_t *dims   # where it keeps its shape,
    int needed               # flags that it has
    int ndim
    const Py_ssize_t *shape  # [ndim]: a copy, since what lies around the parameter's own is written to by workers
    const char *cleared      # the gradient last seen to overlap nothing
    PyObject *held           # the gradient's array, during a step
    int wanted               # flags of a gradient that can be read as it lies
    bint fresh               # its state is new: no update has used it
    int64_t count            # updates this parameter has had

cdef class Source:
    # What an adapter steps with instead of a tree of gradients: it has them taken in where they lie.
    cdef Py_ssize_t give(self, Leaves leaves) except -1
    cdef bint still_there(self, Leaves leaves, Py_ssize_t i) noexcept

cdef class Leaves:
    cdef readonly list arrays, names, gradient_names
    cdef readonly double largest, smallest  # normal numbers of the narrowest type among the parameters
    cdef readonly object tree
    cdef object structure           # the tree's
    cdef list references            # weak ones to the parameters: NumPy resizes no array that has one
    cdef list mapped                # leaves whose parameters lie in memory maps
    cdef bint single, flat          # the tree is one array, or a flat list
    cdef list order                 # of leaves in the tree; None where it is the plan's
    cdef bint zero_gradients        # once they are used
    cdef bint stale                 # Python ran since parameters and gradients were looked at
    cdef Layout all                 # the leaves of all groups
    cdef Leaf *leaves               # [leaves + 1]: all.leaves
    cdef Watch *watches             # [leaves]
    cdef Py_ssize_t *shapes         # of all parameters
    cdef Py_ssize_t n_leaves
    cdef Extent *extents            # of parameters and state that are not empty, by address
    cdef Py_ssize_t n_extents
    cdef int n_groups
    cdef Py_ssize_t *first_leaf     # [groups + 1]
    cdef bint complete              # all leaves are active and laid out
    cdef Source source              # of the last gradients that came from one
    cdef readonly list tables       # of each leaf, its Table if some of its rows had updates of their own, or None
    cdef dict named                 # the tables that have gradients in this step, by leaf; None if there are none

    cdef void require(self, bint zero_gradients) noexcept
    cdef list own_memory(self)
    cdef int check_overlaps(self) except -1
    cdef int take(self, object grads) except -1
    cdef int take_leaf(self, Py_ssize_t i, object x) except -1
    cdef int take_rows(self, Py_ssize_t i, object x) except -1
    cdef void end_rows(self, bint counted) noexcept
    cdef int look_again(self) except -1
    cdef bint still_there(self, Py_ssize_t i) noexcept
    cdef int check_unmoved(self, Py_ssize_t i) except -1
    cdef int check_apart(self, Py_ssize_t i, cnp.ndarray a) except -1
    cdef Py_ssize_t extent_after(self, uintptr_t begin) noexcept
    cdef int check_gradient_overlaps(self) except -1
    cdef bint end_step(self, bint counted) noexcept
    cdef void let_go(self) noexcept
    cdef void renumber(self) noexcept

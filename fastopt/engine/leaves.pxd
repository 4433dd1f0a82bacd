"""Where parameters and this step's gradients lie, for the rooms that build on it."""

from cpython.ref cimport PyObject
from libc.stdint cimport int64_t, uintptr_t

cimport numpy as cnp

from .arrays cimport RawArray
from .sweep cimport Layout, Leaf

cdef struct Watch:
    # What the plan keeps of a parameter besides its Leaf, for the thread that calls step().
    const RawArray *array    # the parameter
    const char *cleared      # the gradient last seen to overlap no parameter
    PyObject *held           # the gradient's array, during a step
    int wanted               # flags of a gradient that can be read as it lies
    int64_t count            # updates this parameter has had

cdef class Leaves:
    cdef readonly list arrays, names, gradient_names
    cdef readonly double largest, smallest  # normal numbers of the narrowest type among the parameters
    cdef object tree
    cdef object structure           # the tree's
    cdef bint single, flat          # the tree is one array, or a flat list
    cdef bint zero_gradients
    cdef Layout all                 # the leaves of all groups
    cdef Leaf *leaves               # [leaves + 1]: all.leaves
    cdef Watch *watches             # [leaves]
    cdef Py_ssize_t n_leaves
    cdef Py_ssize_t *by_address     # non-empty leaves in order of address
    cdef Py_ssize_t n_by_address
    cdef int n_groups
    cdef Py_ssize_t *first_leaf     # [groups + 1]
    cdef bint complete              # all leaves are active and laid out

    cdef int check_overlaps(self) except -1
    cdef int take(self, object grads) except -1
    cdef int take_leaf(self, Py_ssize_t i, object x) except -1
    cdef int check_unmoved(self, Py_ssize_t i) except -1
    cdef int check_apart(self, Py_ssize_t i, cnp.ndarray a) except -1
    cdef int check_gradient_overlaps(self) except -1
    cdef void release(self, bint counted) noexcept
    cdef void renumber(self) noexcept

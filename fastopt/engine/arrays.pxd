"""What other rooms may use of arrays: their inside, and the questions that are asked of each."""

from libc.stdint cimport uintptr_t

cimport numpy as cnp

cdef enum:
    LINE = 64          # bytes of a cache line
    ALIGN_FROM = 1024  # elements: from there on an array's place in cache lines matters

cdef extern from "numpy/arrayobject.h" nogil:
    # An array seen without the GIL and without a reference.
    ctypedef struct RawArray "PyArrayObject":
        pass
    int raw_ndim "PyArray_NDIM"(const RawArray *a)
    const char *raw_data "PyArray_BYTES"(const RawArray *a)
    const Py_ssize_t *raw_shape "PyArray_DIMS"(const RawArray *a)
    const Py_ssize_t *raw_strides "PyArray_STRIDES"(const RawArray *a)
    const void *raw_type "PyArray_DESCR"(const RawArray *a)
    int raw_flags "PyArray_FLAGS"(const RawArray *a)
    Py_ssize_t raw_size "PyArray_SIZE"(const RawArray *a)

cdef struct Extent:
    # Memory of the optimizer's own.
    uintptr_t begin
    uintptr_t end
    Py_ssize_t leaf
    int slot                 # -1: the parameter

cdef object shown(cnp.ndarray a)
cdef int real_of(cnp.ndarray a) noexcept
cdef int check_parameter(object x, str name) except -1
cdef object viewed(object x, str name, str wanted=*)
cdef bint overlap(object a, object b) except -1
cdef void extent(cnp.ndarray a, uintptr_t *low, uintptr_t *high) noexcept
cdef Extent *sorted_extents(list memory, Py_ssize_t *n) except? NULL


cdef inline bint same_shape(const RawArray *a, int ndim, const Py_ssize_t *shape) noexcept:
    cdef int i
    if ndim != raw_ndim(a):
        return False
    for i in range(ndim):
        if raw_shape(a)[i] != shape[i]:
            return False
    return True

"""Tensors of another library, for adapters: a plan steps by their addresses."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from .chunks cimport Leaf
from .leaves cimport Leaves, Source
from .plan cimport Plan

# The memory layout of the DLPack standard, version 1.
cdef struct DLTensor:
    char *data
    int32_t device_type
    int32_t device_id
    int32_t ndim
    uint8_t code             # of the element type
    uint8_t bits
    uint16_t lanes
    int64_t *shape
    int64_t *strides         # in elements
    uint64_t byte_offset

cdef struct Functions:
    # Of a library, for who wants its tensors from C.
    uint32_t major
    uint32_t minor
    Functions *previous      # of an older version
    void *allocate
    void *manage
    void *make
    int (*look)(void *tensor, DLTensor *out) noexcept  # borrowed; NULL where the library has none
    void *stream

cdef class Exchange:
    cdef int (*look)(void *tensor, DLTensor *out) noexcept
    cdef object kind, negated, viewed, lies, changed

cdef struct Row:
    # A tensor of the groups.
    Py_ssize_t leaf          # its place in the plan; -1 if it is not there
    int ndim
    int64_t *shape           # [ndim], then [ndim] strides: as they were when it was put there

cdef class Tensors(Source):
    cdef Plan plan
    cdef Exchange exchange
    cdef object owner
    cdef list groups         # live ones,
    cdef list tensors        # and what their "params" were
    cdef list members        # tensors that have a place in the plan, in its order
    cdef list axes, places   # of these: the order of axes that makes them contiguous; what `lies` gave
    cdef Row *rows           # [tensors]
    cdef int64_t *layouts
    cdef readonly object counts     # updates of each leaf, as floats: what users see, and may write to
    cdef float *shown        # these
    cdef object state        # the dict that users see,
    cdef list record         # and what it was known to hold: (key, entry, keys, values) of each
    cdef bint news           # a tensor has its first update in this step

    cdef bint holds(self) except -1
    cdef int check(self, dict attributes) except -1
    cdef int tell(self, Leaves leaves, Py_ssize_t found) except -1
    cdef int check_place(self, Row *r, object tensor, const Leaf *f) except -1
    cdef int give_one(self, Leaves leaves, Row *r, object tensor) except -1
    cdef int give_view(self, Leaves leaves, Row *r, object gradient) except -1
    cdef int recount(self, Leaves leaves, Py_ssize_t leaf) except -1

"""Matrices whose second moments are kept by lines and places, for the rooms that have them updated."""

from .chunks cimport Layout, Leaf, Sweep
from .sweep cimport Sweeper

cdef struct Matrices:
    # The matrices of one leaf, as they lie in memory.
    Leaf *leaf
    Py_ssize_t index         # of the leaf
    Py_ssize_t n, lines, length
    Py_ssize_t block         # lines of a cell
    Py_ssize_t blocks, strips  # of cells, in a matrix
    Py_ssize_t group         # cells of a chunk
    int line, place          # slots of their second moments
    double *line_sums        # [n, lines, strips], NULL if a strip is a whole line
    double *place_sums       # [n, blocks, length], NULL if a block is a whole matrix
    double *means            # [n] of second moments of lines, NULL if a cell is a whole matrix

cdef class Factored:
    cdef Layout all          # the leaves that have matrices; a chunk is a group of cells
    cdef Matrices *matrices

    cdef int add(self, Py_ssize_t i, Leaf *leaf, tuple shape, int rows, int columns) except -1
    cdef void mark(self) noexcept
    cdef void update(self, Sweeper sweeper, Sweep *w, double *totals) noexcept

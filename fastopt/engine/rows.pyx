"""Which rows of a table have a gradient in this step, and how many updates has each had?

A table is updated as a list of its rows would be, of which those that are not named have no gradient. The batch is
sorted by row with its order kept, and rows that it names more than once have their gradients added up in that order.
What it costs grows with the batch, not with the table: all rows are gone over when the first batch comes, and when they
are given new state.
"""

cimport cython
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.string cimport memcpy, memset

cimport numpy as cnp

from .arrays cimport real_of, shown as shape_of, viewed
from .chunks cimport CHUNK_ELEMENTS

import numpy as np

cnp.import_array()

cdef extern from *:
    """
    #define fo_fetch(x) __builtin_prefetch(x)
    """
    void fo_fetch(const void *x) noexcept nogil

cdef enum:
    LARGE = 1024             # entries from which on digits of 11 bits sort faster than digits of 8
    FEW_BITS = 6             # of the first table of hashes
    AHEAD = 16               # entries: counts of rows lie anywhere in memory, and are asked for so far ahead

cdef int64_t MOST_UPDATES = 1 << 62


cdef int64_t updates_of(int64_t count) noexcept nogil:
    """How many updates an entry of `Table.counts` says; users can write to it."""
    if count < 0:
        count = -count
    return count if 0 <= count < MOST_UPDATES else MOST_UPDATES


cdef Table new_table(cnp.ndarray p, int64_t count, str shown_p, str shown_x):
    """A table for a parameter whose rows have all had so many updates."""
    if cnp.PyArray_NDIM(p) == 0 or not cnp.PyArray_IS_C_CONTIGUOUS(p):
        why = "has no axes" if cnp.PyArray_NDIM(p) == 0 else "is not C-contiguous"
        raise ValueError(f"{shown_x} is Rows: {shown_p} {why}, and so no row of it is one piece of memory")
    rows = cnp.PyArray_DIM(p, 0)
    counts = np.full(rows, count, np.int64) if count else np.zeros(rows, np.int64)
    return Table(counts, cnp.PyArray_SIZE(p) // rows if rows else 0)


cdef int grow(void **memory, Py_ssize_t nbytes) except -1:
    cdef void *grown = PyMem_Realloc(memory[0], nbytes)
    if grown == NULL:
        raise MemoryError
    memory[0] = grown
    return 0


cdef Entry *sorted_by_row(Entry *entries, Entry *spare, Py_ssize_t n, int64_t rows) noexcept nogil:
    """The entries by row, in their order where the row is the same: a digit after the other; where they are now."""
    cdef Py_ssize_t places[1 << 11]
    cdef int bits = 11 if n >= LARGE else 8, shift = 0
    cdef Py_ssize_t k, place, here
    cdef int64_t digit, mask = (1 << bits) - 1
    while shift < 63 and (rows - 1) >> shift > 0:
        memset(places, 0, (mask + 1) * sizeof(Py_ssize_t))
        for k in range(n):
            places[entries[k].row >> shift & mask] += 1
        place = 0
        for digit in range(mask + 1):
            here = places[digit]
            places[digit] = place
            place += here
        for k in range(n):
            digit = entries[k].row >> shift & mask
            spare[places[digit]] = entries[k]
            places[digit] += 1
        entries, spare = spare, entries
        shift += bits
    return entries


cdef void add(char *to, const char *g, Py_ssize_t n, int itemsize) noexcept nogil:
    cdef Py_ssize_t j
    if itemsize == 4:
        for j in range(n):
            (<float *>to)[j] += (<const float *>g)[j]
    else:
        for j in range(n):
            (<double *>to)[j] += (<const double *>g)[j]


@cython.final
cdef class Table:
    """A parameter whose rows have counts of their own.

    Parameters
    ----------
    counts : array of int64, shape (rows,)
        Updates of each row so far, negative where none of them has used the state that is there now.
    size : int
        Elements of a row.
    """

    def __cinit__(self, cnp.ndarray counts, Py_ssize_t size):
        self.counts = counts
        self.named.size = size
        self.named.parts = (size + CHUNK_ELEMENTS - 1) // CHUNK_ELEMENTS
        self.named.counts = <const int64_t *>cnp.PyArray_DATA(counts)

    def __dealloc__(self):
        PyMem_Free(self.entries)
        PyMem_Free(self.row)
        PyMem_Free(self.g)
        PyMem_Free(self.sums)
        PyMem_Free(self.coef)
        PyMem_Free(self.found)
        PyMem_Free(self.slots)

    cdef cnp.ndarray name_all(self, cnp.ndarray values):
        """Every row has a gradient in this step; a view of our own of these, as `Leaves.take_leaf` wants it."""
        values = values.view()
        self.values = cnp.PyArray_FROM_OF(values, cnp.NPY_ARRAY_CARRAY_RO)
        self.one_count = False
        self.named.row, self.named.g = NULL, NULL
        self.named.n = cnp.PyArray_DIM(self.counts, 0)
        return values

    cdef cnp.ndarray name(self, object x, cnp.ndarray p, bint writable, str shown_p, str shown_x):
        """The rows of the parameter p that x says have a gradient in this step; a view of our own of these gradients.

        From the look at their shape on, no Python code runs that could change it.
        """
        cdef str shown_values = f"{shown_x}.values"
        cdef object i = x.indices, g = x.values
        cdef bint one_count = x.counts == "table"
        cdef cnp.ndarray indices = i if type(i) is np.ndarray else viewed(
            i, f"{shown_x}.indices", "indices must be an array")
        cdef cnp.ndarray values = g if type(g) is np.ndarray else viewed(g, shown_values)
        indices, values = indices.view(), values.view()
        if not (cnp.PyArray_ISNOTSWAPPED(indices) and cnp.PyArray_ISINTEGER(indices)
                and cnp.PyArray_ISSIGNED(indices) and cnp.PyArray_ITEMSIZE(indices) in (4, 8)):
            raise TypeError(f"{shown_x}.indices has dtype {indices.dtype}: wanted int32 or int64")
        if cnp.PyArray_NDIM(indices) != 1:
            raise ValueError(f"{shown_x}.indices has shape {shape_of(indices)}: wanted one axis")
        if real_of(values) != real_of(p):
            raise TypeError(f"{shown_values} has dtype {values.dtype.str}: wanted {p.dtype}, as {shown_p} has")
        wanted = (cnp.PyArray_DIM(indices, 0), *shape_of(p)[1:])
        if shape_of(values) != wanted:
            raise ValueError(f"{shown_values} has shape {shape_of(values)}: wanted {wanted}, for each index a row of "
                             f"{shown_p}")
        if writable and not cnp.PyArray_ISWRITEABLE(values):
            raise ValueError(f"{shown_values} is read-only: zero_grads=True cannot zero it")
        self.values = cnp.PyArray_FROM_OF(values, cnp.NPY_ARRAY_CARRAY_RO)
        self.sort(cnp.PyArray_FROM_OF(indices, cnp.NPY_ARRAY_CARRAY_RO), shown_p, shown_x)
        self.gather(cnp.PyArray_DIM(indices, 0), cnp.PyArray_ITEMSIZE(values))
        self.one_count = one_count
        return values

    cdef int sort(self, cnp.ndarray indices, str shown_p, str shown_x) except -1:
        """Have the batch sorted by row."""
        cdef Py_ssize_t n = cnp.PyArray_DIM(indices, 0), k
        cdef int64_t rows = cnp.PyArray_DIM(self.counts, 0), row, before = -1
        cdef const void *at = cnp.PyArray_DATA(indices)
        cdef bint wide = cnp.PyArray_ITEMSIZE(indices) == 8, ascending = True
        if self.room < n:
            grow(<void **>&self.entries, 2 * n * sizeof(Entry))
            grow(<void **>&self.row, n * sizeof(int64_t))
            grow(<void **>&self.g, n * sizeof(char *))
            self.room = n
        for k in range(n):
            row = (<const int64_t *>at)[k] if wide else (<const int32_t *>at)[k]
            if not 0 <= row < rows:
                wanted = f", wanted 0 to {rows - 1}" if rows else ""
                raise IndexError(f"{shown_x}.indices[{k}] is {row}: {shown_p} has {rows} rows{wanted}")
            ascending = ascending and row > before
            before = row
            self.entries[k].row, self.entries[k].at = row, k
        self.sorted = self.entries
        if not ascending:
            self.sorted = sorted_by_row(self.entries, self.entries + self.room, n, rows)
        return 0

    cdef int gather(self, Py_ssize_t n, int itemsize) except -1:
        """Find each row's gradient: where it lies, or the sum of several, in the order of the batch."""
        cdef Py_ssize_t k, m = 0, sums = 0, nbytes = self.named.size * itemsize
        cdef const char *g
        cdef const Entry *e = self.sorted
        cdef char *sum
        for k in range(1, n):
            sums += e[k].row == e[k - 1].row and (k == 1 or e[k].row != e[k - 2].row)
        if self.room_sums < sums * nbytes:
            grow(<void **>&self.sums, sums * nbytes)
            self.room_sums = sums * nbytes
        sum = self.sums
        for k in range(n):
            g = <const char *>cnp.PyArray_DATA(self.values) + e[k].at * nbytes
            if k == 0 or e[k].row != e[k - 1].row:
                self.row[m], self.g[m] = e[k].row, g
                m += 1
                continue
            if k == 1 or e[k].row != e[k - 2].row:
                if nbytes > 0:  # else there is no memory to copy to
                    memcpy(sum, self.g[m - 1], nbytes)
                self.g[m - 1] = sum
                sum += nbytes
            add(<char *>self.g[m - 1], g, self.named.size, itemsize)
        self.named.row, self.named.g, self.named.n = self.row, self.g, m
        return 0

    cdef int number(self, int64_t count, bint fresh, bint wants_fresh, int first) except -1:
        """Find the steps that the named rows are in, and number them from `first` on in `Named.coef`.

        `count` and `fresh` are those of the table as a whole.
        """
        cdef Named *named = &self.named
        cdef Py_ssize_t k
        cdef int64_t step, before = 0
        cdef uint64_t place
        cdef int64_t c
        if self.room_coef < named.n:
            grow(<void **>&self.coef, named.n * sizeof(int))
            self.room_coef = named.n
        named.coef = self.coef
        if self.slots == NULL:
            self.grow_slots()
        memset(self.slots, 0xff, sizeof(int) << self.bits)
        self.n_found = 0
        for k in range(named.n):
            if named.row != NULL and k + AHEAD < named.n:
                fo_fetch(named.counts + named.row[k + AHEAD])
            c = named.counts[k if named.row == NULL else named.row[k]]
            step = 1 + (count if self.one_count else updates_of(c))
            if wants_fresh and (fresh or c <= 0):
                step = -step
            if step == before:
                self.coef[k] = self.coef[k - 1]
                continue
            before = step
            place = <uint64_t>step * <uint64_t>0x9E3779B97F4A7C15 >> (64 - self.bits)
            while self.slots[place] >= 0 and self.found[self.slots[place]] != step:
                place = place + 1 & (1 << self.bits) - 1
            if self.slots[place] < 0:
                if 2 * self.n_found >= 1 << self.bits:
                    self.grow_slots()
                    place = <uint64_t>step * <uint64_t>0x9E3779B97F4A7C15 >> (64 - self.bits)
                    while self.slots[place] >= 0:
                        place = place + 1 & (1 << self.bits) - 1
                self.found[self.n_found] = step
                self.slots[place] = self.n_found
                self.n_found += 1
            self.coef[k] = first + self.slots[place]
        return 0

    cdef int grow_slots(self) except -1:
        """Have twice the room for steps that differ."""
        cdef int bits = self.bits + 1 if self.bits else FEW_BITS
        cdef Py_ssize_t k
        cdef uint64_t place
        grow(<void **>&self.found, (sizeof(int64_t) << bits) // 2)
        grow(<void **>&self.slots, sizeof(int) << bits)
        self.bits = bits
        memset(self.slots, 0xff, sizeof(int) << bits)
        for k in range(self.n_found):
            place = <uint64_t>self.found[k] * <uint64_t>0x9E3779B97F4A7C15 >> (64 - bits)
            while self.slots[place] >= 0:
                place = place + 1 & (1 << bits) - 1
            self.slots[place] = k
        return 0

    cdef void counted(self, int64_t count, bint fresh, bint stateful) noexcept:
        """The named rows have been updated.

        `count` and `fresh` are those of the table as a whole, before. An update without state uses none.
        """
        cdef Named *named = &self.named
        cdef int64_t *counts = <int64_t *>cnp.PyArray_DATA(self.counts)
        cdef int64_t *c
        cdef Py_ssize_t k
        if fresh and stateful and count > 0:  # from now on, rows say it themselves
            for k in range(cnp.PyArray_DIM(self.counts, 0)):
                counts[k] = -updates_of(counts[k])
        for k in range(named.n):
            if named.row != NULL and k + AHEAD < named.n:
                fo_fetch(counts + named.row[k + AHEAD])
            c = counts + (k if named.row == NULL else named.row[k])
            if c[0] <= 0 and not stateful and not fresh:
                c[0] = -updates_of(c[0]) - 1
            else:
                c[0] = updates_of(c[0]) + 1

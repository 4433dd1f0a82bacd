"""How are matrices updated whose second moments are kept by rows and columns?

Of a matrix in memory, a line is a stretch of neighbours, and a place is where something lies in its line: in C order
lines are rows and places columns. Cells of at most BLOCK lines and STRIP places (and more lines where they are short)
are what is computed at once, and some CELL elements of them, several small matrices among them, are a chunk.

A leaf of no more elements than that is done by one worker, while it lies in caches. A larger one takes three sweeps:

1. squares of gradients are added up by lines and by places, then second moments follow;
2. the rule's sums;
3. parameters are updated.

Sums are added cell by cell and chunk by chunk in their order, so that they do not depend on who computed which.
"""

cimport cython
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from libc.string cimport memset

from .chunks cimport (
    CHUNK_ELEMENTS, DESCEND, FACTOR, RATIOS, TILE, WHOLE, Leaf, Sweep, added_up, chunks_of, clamp, in_order, lay_out,
    leaf_of)
from .kernels cimport FO_LANES, FO_MAX_SUMS, fo_block, fo_coef, fo_factored

cdef enum:
    STRIP = TILE             # places of a cell
    BLOCK = 64               # lines of a cell of this width
    CELL = BLOCK * STRIP     # elements


@cython.final
cdef class Factored:
    """The matrices of a plan.

    Parameters
    ----------
    n : int
        How many leaves have some.
    """

    def __cinit__(self, Py_ssize_t n):
        self.all.leaves = <Leaf *>PyMem_Calloc(n + 1, sizeof(Leaf))
        self.matrices = <Matrices *>PyMem_Calloc(n, sizeof(Matrices))
        if not (self.all.leaves and self.matrices):
            raise MemoryError

    def __dealloc__(self):
        cdef Py_ssize_t k
        for k in range(self.all.n_leaves):
            PyMem_Free(self.matrices[k].line_sums)
            PyMem_Free(self.matrices[k].place_sums)
            PyMem_Free(self.matrices[k].means)
        PyMem_Free(self.matrices)
        PyMem_Free(self.all.leaves)

    cdef int add(self, Py_ssize_t i, Leaf *leaf, tuple shape, int rows, int columns) except -1:
        """Take in leaf i, with the slots of its second moments."""
        cdef Matrices *m = &self.matrices[self.all.n_leaves]
        cdef Leaf *f = &self.all.leaves[self.all.n_leaves]
        self.all.n_leaves += 1
        m.leaf, m.index = leaf, i
        cdef Py_ssize_t ndim = len(shape)
        m.lines, m.length, m.line, m.place = shape[ndim - 2], shape[ndim - 1], rows, columns
        if leaf.reversed:
            m.lines, m.length, m.line, m.place = m.length, m.lines, columns, rows
        m.n = 0 if leaf.n == 0 else leaf.n // (m.lines * m.length)
        m.block = max(<Py_ssize_t>BLOCK, CELL // max(m.length, 1))
        m.blocks, m.strips = (m.lines + m.block - 1) // m.block, (m.length + STRIP - 1) // STRIP
        m.group = max(1, CELL // max(1, min(m.lines, m.block) * min(m.length, <Py_ssize_t>STRIP)))
        if m.strips > 1:
            m.line_sums = <double *>PyMem_Malloc((m.n * m.lines * m.strips + 1) * sizeof(double))
        if m.blocks > 1:
            m.place_sums = <double *>PyMem_Malloc((m.n * m.blocks * m.length + 1) * sizeof(double))
        if m.blocks * m.strips > 1:
            m.means = <double *>PyMem_Malloc((m.n + 1) * sizeof(double))
        if (m.strips > 1 and not m.line_sums) or (m.blocks > 1 and not m.place_sums) or (
                m.blocks * m.strips > 1 and not m.means):
            raise MemoryError
        f.n = (m.n * m.blocks * m.strips + m.group - 1) // m.group * CHUNK_ELEMENTS
        f.itemsize, f.active = leaf.itemsize, True
        f.arrays = 1 if f.n == 0 else 1 + 2 * leaf.n // f.n  # parameters and gradients
        return 0

    cdef void mark(self) noexcept:
        """Let sweeps over all leaves know whose update is done here."""
        cdef Py_ssize_t k
        for k in range(self.all.n_leaves):
            self.matrices[k].leaf.factored = True

    cdef void update(self, Sweeper sweeper, Sweep *w, double *totals) noexcept:
        """Update all that are active; `totals` is where sums of large leaves go, by leaf."""
        cdef Py_ssize_t k
        cdef int j
        cdef bint large = False
        cdef Leaf *f
        for k in range(self.all.n_leaves):
            f = &self.all.leaves[k]
            f.active = self.matrices[k].leaf.active
            large = large or f.active and not done_at_once(&self.matrices[k])
        lay_out(&self.all)
        if self.all.chunks == 0:
            return
        w.all, w.matrices, w.run = &self.all, self.matrices, run_cells
        w.what = FACTOR
        sweeper.sweep(w)
        if not large:
            return
        for k in range(self.all.n_leaves):
            if self.all.leaves[k].active and not done_at_once(&self.matrices[k]):
                finish(w, &self.matrices[k])
        w.what = RATIOS
        sweeper.sweep(w)
        for k in range(self.all.n_leaves):
            f = &self.all.leaves[k]
            if not f.active or done_at_once(&self.matrices[k]):
                continue
            for j in range(FO_MAX_SUMS):
                totals[self.matrices[k].index * FO_MAX_SUMS + j] = added_up(f, w.partial, FO_MAX_SUMS, j)
        w.what = DESCEND
        sweeper.sweep(w)


cdef inline bint done_at_once(const Matrices *m) noexcept nogil:
    return m.leaf.n <= WHOLE * CHUNK_ELEMENTS


cdef inline const fo_factored *kernels_of(const Sweep *w, const Leaf *f) noexcept nogil:
    return w.bindings[f.group].factored[f.real]


cdef void coefficients(const Sweep *w, const Matrices *m, fo_coef *c) noexcept nogil:
    c[0] = w.coefs[m.leaf.coef]
    if w.factors != NULL:
        c.scale *= w.factors[m.index]


cdef void run_cells(const Sweep *w, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    """The sweep's operation on chunks begin to end."""
    cdef Py_ssize_t k = leaf_of(w, begin)
    cdef const Matrices *m
    cdef fo_coef c
    while begin < end:
        while w.all.leaves[k + 1].first <= begin:
            k += 1
        m = &(<const Matrices *>w.matrices)[k]
        coefficients(w, m, &c)
        if not done_at_once(m):
            if w.what == DESCEND:
                w.bindings[m.leaf.group].finish(w.totals + m.index * FO_MAX_SUMS, m.leaf.n, c.c)
            run_chunk(w, m, w.what, begin - w.all.leaves[k].first, &c,
                      w.partial + begin * FO_MAX_SUMS if w.what == RATIOS else NULL)
        elif w.what == FACTOR and begin == w.all.leaves[k].first:  # by whoever has its first chunk
            run_leaf(w, m, chunks_of(&w.all.leaves[k]), &c)
        begin += 1


cdef void run_leaf(const Sweep *w, const Matrices *m, Py_ssize_t chunks, fo_coef *c) noexcept nogil:
    """All of a leaf's update."""
    cdef double sums[FO_MAX_SUMS]
    cdef double of_chunk[FO_MAX_SUMS]
    cdef Py_ssize_t chunk
    cdef int j
    for chunk in range(chunks):
        run_chunk(w, m, FACTOR, chunk, c, NULL)
    finish(w, m)
    for j in range(FO_MAX_SUMS):
        sums[j] = 0
    for chunk in range(chunks):
        run_chunk(w, m, RATIOS, chunk, c, of_chunk)
        for j in range(FO_MAX_SUMS):
            sums[j] += of_chunk[j]
    w.bindings[m.leaf.group].finish(sums, m.leaf.n, c.c)
    for chunk in range(chunks):
        run_chunk(w, m, DESCEND, chunk, c, NULL)


cdef void run_chunk(const Sweep *w, const Matrices *m, int what, Py_ssize_t chunk, const fo_coef *c,
                    double *sums) noexcept nogil:
    """An operation on a group of cells; of RATIOS, with the rule's sums over them."""
    cdef double lanes[FO_MAX_SUMS * FO_LANES]
    cdef Py_ssize_t cell, cells = m.n * m.blocks * m.strips
    cdef int j, lane
    if what == RATIOS:
        memset(lanes, 0, sizeof(lanes))
    for cell in range(chunk * m.group, min((chunk + 1) * m.group, cells)):
        run_cell(w, m, what, cell, c, lanes)
    if what == RATIOS:
        for j in range(FO_MAX_SUMS):
            sums[j] = 0
            for lane in range(FO_LANES):
                sums[j] += lanes[j * FO_LANES + lane]


cdef void run_cell(const Sweep *w, const Matrices *m, int what, Py_ssize_t cell, const fo_coef *c,
                   double *lanes) noexcept nogil:
    cdef const Leaf *f = m.leaf
    cdef const fo_factored *kernels = kernels_of(w, f)
    cdef double squares[STRIP]
    cdef double tile[TILE]
    cdef double clamped[TILE]
    cdef double *place_sums = squares
    cdef double *line_sums = NULL
    cdef Py_ssize_t matrix = cell, line = 0, strip = 0, place, lines, begin, _k
    cdef fo_coef own
    cdef fo_block x
    if m.means != NULL:  # a matrix has several
        strip, matrix = cell % m.strips, cell // m.strips
        line, matrix = matrix % m.blocks * m.block, matrix // m.blocks
    place, lines = strip * STRIP, min(m.block, m.lines - line)
    begin = (matrix * m.lines + line) * m.length + place
    x.lines, x.length, x.apart, x.g_apart = lines, min(<Py_ssize_t>STRIP, m.length - place), m.length, m.length
    x.p, x.g = f.p + begin * f.itemsize, f.g + begin * f.itemsize
    x.line = f.s[m.line] + (matrix * m.lines + line) * f.itemsize
    x.place = f.s[m.place] + (matrix * m.length + place) * f.itemsize
    if what == FACTOR:
        if m.place_sums != NULL:
            place_sums = m.place_sums + (matrix * m.blocks + line // m.block) * m.length + place
        if m.line_sums != NULL:
            line_sums = m.line_sums + (matrix * m.lines + line) * m.strips + strip
        memset(place_sums, 0, x.length * sizeof(double))
    else:
        x.mean = kernels.mean(x.line, lines) if m.means == NULL else m.means[matrix]
    if f.order == NULL and w.clip_value <= 0:
        run_block(w, f, what, &x, c, lanes, place_sums, line_sums, m.strips)
    else:  # line by line, with gradients that are brought into order, and clamped
        x.lines, own = 1, c[0]
        for _k in range(lines):
            if f.order != NULL:
                in_order(<char *>tile, f, begin, x.length)
                x.g = tile
            else:
                x.g = f.g + begin * f.itemsize
            if w.clip_value > 0:
                clamp(w, f, x.length, x.g, c.scale, clamped)
                x.g, own.scale = clamped, 1.0
            run_block(w, f, what, &x, &own, lanes, place_sums, line_sums, m.strips)
            begin += m.length
            x.p = <char *>x.p + m.length * f.itemsize
            x.line = <char *>x.line + f.itemsize
            if line_sums != NULL:
                line_sums += m.strips
    if what == FACTOR and m.place_sums == NULL:
        kernels.follow(c, x.place, x.length, squares, lines)


cdef void run_block(const Sweep *w, const Leaf *f, int what, const fo_block *x, const fo_coef *c,
                    double *lanes, double *place_sums, double *line_sums, Py_ssize_t strips) noexcept nogil:
    if what == FACTOR:
        kernels_of(w, f).squares(x, c, place_sums, line_sums, strips)
    elif what == RATIOS:
        kernels_of(w, f).sums(x, c, lanes)
    else:
        w.bindings[f.group].block_step[f.kernel](x, c)


cdef void finish(const Sweep *w, const Matrices *m) noexcept nogil:
    """Second moments, where they must wait for all cells of their matrices."""
    cdef const Leaf *f = m.leaf
    cdef const fo_factored *kernels = kernels_of(w, f)
    cdef const fo_coef *c = &w.coefs[f.coef]
    cdef double *sums
    cdef double sum
    cdef Py_ssize_t k, j, matrix
    if m.line_sums != NULL:
        for k in range(m.n * m.lines):
            sums = m.line_sums + k * m.strips
            sum = 0
            for j in range(m.strips):
                sum += sums[j]
            kernels.follow(c, f.s[m.line] + k * f.itemsize, 1, &sum, m.length)
    for matrix in range(m.n if m.means != NULL else 0):
        if m.place_sums != NULL:
            sums = m.place_sums + matrix * m.blocks * m.length
            for k in range(1, m.blocks):
                for j in range(m.length):
                    sums[j] += sums[k * m.length + j]
            kernels.follow(c, f.s[m.place] + matrix * m.length * f.itemsize, m.length, sums, m.lines)
        m.means[matrix] = kernels.mean(f.s[m.line] + matrix * m.lines * f.itemsize, m.lines)

"""What does an operation do to a chunk? Leaves laid end to end, and one operation over a stretch of their chunks.

A sum over gradients is kept for each chunk and added up in the order of chunks, so that it does not depend on who
computed which. Inside a chunk it is taken a TILE at a time, the unit in which gradients that lie in memory in another
order than their parameter are brought into order.
"""

from libc.stdint cimport uintptr_t
from libc.string cimport memcpy, memset

from .arrays cimport ALIGN_FROM, LINE, raw_data, raw_ndim, raw_shape, raw_strides
from .kernels cimport enter_mode, fo_coef, fo_span, leave_mode

cdef enum:
    TILE = 1024

CHUNK = CHUNK_ELEMENTS


cdef Py_ssize_t chunks_of(const Leaf *f) noexcept nogil:
    return (f.n + CHUNK_ELEMENTS - 1) // CHUNK_ELEMENTS


cdef void lay_out(Layout *all) noexcept nogil:
    """Number the chunks of the active leaves."""
    cdef Py_ssize_t i
    cdef Leaf *f
    all.chunks = all.elements = all.nbytes = all.traffic = 0
    for i in range(all.n_leaves):
        f = &all.leaves[i]
        f.first = all.chunks
        if f.active:
            all.chunks += chunks_of(f)
            all.elements += f.n
            all.nbytes += f.n * f.itemsize
            all.traffic += f.n * f.itemsize * f.arrays
    all.leaves[all.n_leaves].first = all.chunks


cdef void in_order(char *to, const Leaf *f, Py_ssize_t start, Py_ssize_t count) noexcept nogil:
    """Copy elements start, start + 1, ... of a gradient, counted in its parameter's memory order.

    To nowhere means: set them to zero instead.
    """
    cdef const RawArray *a = f.order
    cdef const Py_ssize_t *shape = raw_shape(a)
    cdef const Py_ssize_t *strides = raw_strides(a)
    cdef int ndim = raw_ndim(a), axis, k
    cdef int fastest = 0 if f.reversed else ndim - 1
    cdef Py_ssize_t index[64]  # of the axes, fastest first
    cdef Py_ssize_t rest = start, run, j
    cdef char *at = <char *>raw_data(a)
    if ndim == 0:
        if to == NULL:
            memset(at, 0, f.itemsize)
        else:
            memcpy(to, at, f.itemsize)
        return
    for k in range(ndim):
        axis = k if f.reversed else ndim - 1 - k
        index[k] = rest % shape[axis]
        rest //= shape[axis]
        at += index[k] * strides[axis]
    while True:
        run = min(count, shape[fastest] - index[0])
        if to == NULL:
            for j in range(run):
                memset(at + j * strides[fastest], 0, f.itemsize)
        elif f.itemsize == 4:
            for j in range(run):
                memcpy(to + 4 * j, at + j * strides[fastest], 4)
        else:
            for j in range(run):
                memcpy(to + 8 * j, at + j * strides[fastest], 8)
        count -= run
        if count == 0:
            return
        if to != NULL:
            to += run * f.itemsize
        at -= index[0] * strides[fastest]
        index[0] = 0
        for k in range(1, ndim):  # carry into the slower axes
            axis = k if f.reversed else ndim - 1 - k
            index[k] += 1
            at += strides[axis]
            if index[k] < shape[axis]:
                break
            at -= index[k] * strides[axis]
            index[k] = 0


cdef void run_span(const Sweep *w, const Leaf *f, Py_ssize_t start, Py_ssize_t count, Py_ssize_t reach,
                   const void *g, const fo_coef *c) noexcept nogil:
    """One kernel call: elements start to start + count of a leaf, with their gradients at g."""
    cdef fo_span x
    cdef const Binding *b = &w.bindings[f.group]
    cdef int k
    x.n = count
    x.reach = reach
    x.backward = w.backward
    x.p = f.p + start * f.itemsize
    x.g = g
    for k in range(b.n_state):
        x.s[k] = f.s[b.slot[k]] + start * f.itemsize
    b.kernel[f.kernel](&x, c)


cdef void run_clamped(const Sweep *w, const Leaf *f, Py_ssize_t start, Py_ssize_t count,
                      const void *g) noexcept nogil:
    """The same for at most a tile, with gradients that are scaled and clamped before: the kernel scales them by 1."""
    cdef double tile[TILE]
    cdef fo_coef c = w.coefs[f.coef]
    cdef Py_ssize_t i
    cdef float scale32 = <float>c.scale, limit32 = <float>w.clip_value, x32
    cdef double x
    if f.itemsize == 4:
        for i in range(count):
            x32 = scale32 * (<const float *>g)[i]
            (<float *>tile)[i] = -limit32 if x32 < -limit32 else limit32 if x32 > limit32 else x32
    else:
        for i in range(count):
            x = c.scale * (<const double *>g)[i]
            tile[i] = -w.clip_value if x < -w.clip_value else w.clip_value if x > w.clip_value else x
    c.scale = 1.0
    run_span(w, f, start, count, 0, tile, &c)


cdef void update_part(const Sweep *w, const Leaf *f, Py_ssize_t start, Py_ssize_t end) noexcept nogil:
    """Update a part of a leaf whose gradient lies in its order.

    What lies before a cache line of its parameter is a call of its own, unless there is little to gain: a register's
    worth of elements that lies in two cache lines takes twice as long.
    """
    cdef Py_ssize_t before, reach = 0
    cdef const fo_coef *c = &w.coefs[f.coef]
    if w.clip_value > 0:
        while start < end:
            before = min(<Py_ssize_t>TILE, end - start)
            run_clamped(w, f, start, before, f.g + start * f.itemsize)
            start += before
        return
    if end - start >= ALIGN_FROM:
        before = -<uintptr_t>(f.p + start * f.itemsize) % LINE // f.itemsize
        run_span(w, f, start, before, 0, f.g + start * f.itemsize, c)
        start += before
    if w.fetch:
        reach = end if w.backward else f.n - start
    run_span(w, f, start, end - start, reach, f.g + start * f.itemsize, c)


cdef void run_chunk(const Sweep *w, const Leaf *f, Py_ssize_t chunk) noexcept nogil:
    """The sweep's operation on one chunk of a leaf."""
    cdef Py_ssize_t start = chunk * CHUNK_ELEMENTS
    cdef Py_ssize_t end = min(f.n, start + CHUNK_ELEMENTS)
    cdef double tile[TILE]
    cdef const char *g
    cdef Py_ssize_t count
    cdef double sum = 0
    if w.what == ZERO_STATE:
        memset(f.p + start * f.itemsize, 0, (end - start) * f.itemsize)
        return
    if (w.what == UPDATE_AND_ZERO or w.what == ZERO_GRADIENTS) and f.order == NULL:
        if w.what == UPDATE_AND_ZERO:
            update_part(w, f, start, end)
        memset(<void *>(f.g + start * f.itemsize), 0, (end - start) * f.itemsize)
        return
    if w.what == ZERO_GRADIENTS:
        return  # see `zero_ordered`
    while start < end:
        count = min(<Py_ssize_t>TILE, end - start)
        if f.order == NULL:
            g = f.g + start * f.itemsize
            if w.what == FIND_NONFINITE:  # no sum, whose bits would change with the length of its parts
                count = end - start
        else:
            g = <char *>tile
            in_order(<char *>tile, f, start, count)
        if w.what == SUM_SQUARES:
            sum += w.variant.tables[f.real].sum_squares(g, count, w.scale)
        elif w.what == FIND_NONFINITE:
            sum += w.variant.tables[f.real].nonfinite(g, count)
        elif w.clip_value > 0:
            run_clamped(w, f, start, count, g)
        else:
            run_span(w, f, start, count, 0, g, &w.coefs[f.coef])
        start += count
    if w.partial != NULL:
        w.partial[f.first + chunk] = sum


cdef Py_ssize_t leaf_of(const Sweep *w, Py_ssize_t chunk) noexcept nogil:
    """The leaf that a chunk is of: the last one whose first chunk is not past it."""
    cdef Py_ssize_t low = 0, high = w.all.n_leaves, middle
    while high - low > 1:
        middle = (low + high) // 2
        if w.all.leaves[middle].first <= chunk:
            low = middle
        else:
            high = middle
    return low


cdef void run_chunks(const Sweep *w, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    """Chunks begin to end of the sequence; neighbours in one call of the kernel, where it is all there is to do."""
    cdef Py_ssize_t upto, leaf = leaf_of(w, begin)
    cdef const Leaf *f
    while begin < end:
        while w.all.leaves[leaf + 1].first <= begin:
            leaf += 1
        f = &w.all.leaves[leaf]
        if w.what == UPDATE and f.order == NULL:
            upto = min(end, w.all.leaves[leaf + 1].first)
            update_part(w, f, (begin - f.first) * CHUNK_ELEMENTS, min(f.n, (upto - f.first) * CHUNK_ELEMENTS))
        else:
            upto = begin + 1
            run_chunk(w, f, begin - f.first)
        begin = upto


cdef void run_chunks_backward(const Sweep *w, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    """The same, the last first. (One loop for both directions: 3 % more instructions a small tensor.)"""
    cdef Py_ssize_t first, leaf = leaf_of(w, end - 1)
    cdef const Leaf *f
    while end > begin:
        while w.all.leaves[leaf].first >= end:
            leaf -= 1
        f = &w.all.leaves[leaf]
        if w.what == UPDATE and f.order == NULL:
            first = max(begin, f.first)
            update_part(w, f, (first - f.first) * CHUNK_ELEMENTS, min(f.n, (end - f.first) * CHUNK_ELEMENTS))
        else:
            first = end - 1
            run_chunk(w, f, first - f.first)
        end = first


cdef void run_stretch(const Sweep *w, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    """The same, in the direction of the sweep."""
    if w.backward:
        run_chunks_backward(w, begin, end)
    else:
        run_chunks(w, begin, end)


cdef void run_alone(const Sweep *w) noexcept nogil:
    """All chunks, in the calling thread."""
    cdef unsigned long long mode = enter_mode(w.flush)
    run_stretch(w, 0, w.all.chunks)
    leave_mode(mode)


cdef void zero_ordered(const Sweep *w) noexcept nogil:
    """Zero the gradients that lie in another order: once all have been used, since one may overlap itself."""
    cdef Py_ssize_t i
    cdef const Leaf *f
    for i in range(w.all.n_leaves):
        f = &w.all.leaves[i]
        if f.active and f.order != NULL and f.n > 0:
            in_order(NULL, f, 0, f.n)

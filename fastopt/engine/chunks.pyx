"""What does an operation do to a chunk? Leaves laid end to end, and one operation over a stretch of their chunks.

A sum is kept for each chunk and added up in the order of chunks, so that it does not depend on who computed which.
Inside a chunk it is taken a TILE at a time, the unit in which gradients that lie in memory in another order than their
parameter are brought into order.
"""

from libc.stdint cimport int64_t, uintptr_t
from libc.string cimport memcpy, memset

from .arrays cimport ALIGN_FROM, LINE, raw_data, raw_ndim, raw_shape, raw_strides
from .kernels cimport FO_MAX_SUMS, enter_mode, fo_coef, fo_kernel, fo_span, leave_mode

cdef extern from *:
    """
    /* Into the second level: 15 to 25 % faster than into the first. gcc takes a function that does nothing else for one
       without effects, and leaves out its calls. */
    #define fo_fetch(x) ({ __builtin_prefetch(x, 0, 2); __asm__ volatile(""); })
    """
    void fo_fetch(const void *x) noexcept nogil

cdef enum:
    ROWS_AHEAD = 8           # chunks of rows that are asked for before it is their turn: 4 or 16 do as well,
    FETCH_BYTES = 1024       # and how much of each array: the rest is foreseen

CHUNK = CHUNK_ELEMENTS


cdef Py_ssize_t chunks_of(const Leaf *f) noexcept nogil:
    if f.rows != NULL:
        return f.rows.n * f.rows.parts
    return (f.n + CHUNK_ELEMENTS - 1) // CHUNK_ELEMENTS


cdef double added_up(const Leaf *f, const double *partial, int sums, int k) noexcept:
    """The k-th of so many sums that a sweep has kept for each chunk, over a leaf: in the order of chunks."""
    cdef Py_ssize_t chunk
    cdef double sum = 0
    for chunk in range(f.first, f.first + chunks_of(f)):
        sum += partial[chunk * sums + k]
    return sum


cdef void lay_out(Layout *all) noexcept nogil:
    """Number the chunks of the active leaves."""
    cdef Py_ssize_t i, n
    cdef Leaf *f
    all.chunks = all.elements = all.nbytes = all.traffic = 0
    for i in range(all.n_leaves):
        f = &all.leaves[i]
        f.first = all.chunks
        if f.active:
            n = f.n if f.rows == NULL else f.rows.n * f.rows.size
            all.chunks += chunks_of(f)
            all.elements += n
            all.nbytes += n * f.itemsize
            all.traffic += n * f.itemsize * f.arrays
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
    lay_span(&x, w, f, start, count, reach, g)
    w.bindings[f.group].kernel[f.kernel](&x, c)


cdef inline void lay_span(fo_span *x, const Sweep *w, const Leaf *f, Py_ssize_t start, Py_ssize_t count,
                          Py_ssize_t reach, const void *g) noexcept nogil:
    cdef const Binding *b = &w.bindings[f.group]
    cdef int k
    x.n = count
    x.reach = reach
    x.backward = w.backward
    x.p = f.p + start * f.itemsize
    x.g = g
    for k in range(b.n_state):
        x.s[k] = f.s[b.slot[k]] + start * f.itemsize


cdef void clamp(const Sweep *w, const Leaf *f, Py_ssize_t count, const void *g, double scale, void *to) noexcept nogil:
    """Gradients that are scaled and clamped before a kernel, which scales them by 1."""
    cdef Py_ssize_t i
    cdef float scale32 = <float>scale, limit32 = <float>w.clip_value, x32
    cdef double x
    if f.itemsize == 4:
        for i in range(count):
            x32 = scale32 * (<const float *>g)[i]
            (<float *>to)[i] = -limit32 if x32 < -limit32 else limit32 if x32 > limit32 else x32
    else:
        for i in range(count):
            x = scale * (<const double *>g)[i]
            (<double *>to)[i] = -w.clip_value if x < -w.clip_value else w.clip_value if x > w.clip_value else x


cdef void run_clamped(const Sweep *w, const Leaf *f, Py_ssize_t start, Py_ssize_t count, const void *g,
                      const fo_coef *c) noexcept nogil:
    """A kernel call for at most a tile, with clamped gradients."""
    cdef double tile[TILE]
    cdef fo_coef unscaled = c[0]
    clamp(w, f, count, g, c.scale, tile)
    unscaled.scale = 1.0
    run_span(w, f, start, count, 0, tile, &unscaled)


cdef inline void update_by(const Sweep *w, const Leaf *f, Py_ssize_t start, Py_ssize_t end, const char *g,
                           Py_ssize_t reach, const fo_coef *c) noexcept nogil:
    """Update a part of a leaf by gradients in its order.

    What lies before a cache line of its parameter is a call of its own, unless there is little to gain: a register's
    worth of elements that lies in two cache lines takes twice as long.
    """
    cdef Py_ssize_t before
    if w.clip_value > 0:
        while start < end:
            before = min(<Py_ssize_t>TILE, end - start)
            run_clamped(w, f, start, before, g, c)
            start, g = start + before, g + before * f.itemsize
        return
    if end - start >= ALIGN_FROM:
        before = -<uintptr_t>(f.p + start * f.itemsize) % LINE // f.itemsize
        run_span(w, f, start, before, 0, g, c)
        start, g = start + before, g + before * f.itemsize
    run_span(w, f, start, end - start, reach, g, c)


cdef void update_part(const Sweep *w, const Leaf *f, Py_ssize_t start, Py_ssize_t end, const fo_coef *c) noexcept nogil:
    """Update a part of a leaf whose gradient lies in its order."""
    cdef Py_ssize_t reach = 0
    if w.fetch:
        reach = end if w.backward else f.n - start
    update_by(w, f, start, end, f.g + start * f.itemsize, reach, c)


cdef inline void average(const Sweep *w, const Leaf *f, Py_ssize_t start, Py_ssize_t end,
                         bint updated) noexcept nogil:
    """Move the parameters' average on, where there is one: while they are in the cache."""
    cdef fo_kernel *kernel
    cdef fo_span x
    if w.what > UPDATE_AND_ZERO:
        return
    kernel = w.bindings[f.group].average[f.real]
    if kernel != NULL:
        x.n, x.reach, x.backward = end - start, 0, False
        x.p = f.p + start * f.itemsize
        x.g = x.p  # which is not used
        x.s[0] = f.s[MAX_SLOTS - 1] + start * f.itemsize
        kernel(&x, &w.average[not updated])


cdef void sum_chunk(const Sweep *w, const Leaf *f, Py_ssize_t chunk, double *sums) noexcept nogil:
    """The sums of a rule's first pass over one chunk."""
    cdef Py_ssize_t start = chunk * CHUNK_ELEMENTS, count
    cdef Py_ssize_t end = min(f.n, start + CHUNK_ELEMENTS)
    cdef double tile[TILE]
    cdef double clamped[TILE]
    cdef double of_tile[FO_MAX_SUMS]
    cdef const void *g
    cdef const Binding *b = &w.bindings[f.group]
    cdef fo_coef c
    cdef fo_span x
    cdef int k
    own_coef(w, f, &c)
    cdef double scale = c.scale
    for k in range(b.n_sums):
        sums[k] = 0
    while start < end:
        count = min(<Py_ssize_t>TILE, end - start)
        if f.order == NULL:
            g = f.g + start * f.itemsize
        else:
            g = tile
            in_order(<char *>tile, f, start, count)
        if w.clip_value > 0:
            clamp(w, f, count, g, scale, clamped)
            g, c.scale = clamped, 1.0
        lay_span(&x, w, f, start, count, f.n - start if w.fetch and f.order == NULL and w.clip_value == 0 else 0, g)
        b.sums[f.kernel](&x, &c, of_tile)
        for k in range(b.n_sums):
            sums[k] += of_tile[k]
        start += count


cdef bint done_whole(const Sweep *w, const Leaf *f, Py_ssize_t chunk) noexcept nogil:
    """Do what must be done of a leaf as a whole; False if its chunks, one of which is given, are to be gone over."""
    cdef const Binding *b = &w.bindings[f.group]
    if f.factored:  # which has been updated
        return w.what == SUM_UP or w.what == UPDATE and b.average[f.real] == NULL
    if w.what == SUM_UP:
        return b.n_sums == 0 or (b.finish == NULL) != w.for_class or b.finish != NULL and chunks_of(f) <= w.whole
    if b.finish == NULL or chunks_of(f) > w.whole:
        return False
    if chunk == f.first:  # by whoever has its first chunk
        run_whole(w, f)
    return True


cdef inline void own_coef(const Sweep *w, const Leaf *f, fo_coef *own) noexcept nogil:
    """A leaf's coefficients with its own factor of gradients."""
    own[0] = w.coefs[f.coef]
    if w.factors != NULL:
        own.scale *= w.factors[f - w.all.leaves]


cdef inline const fo_coef *coef_of(const Sweep *w, const Leaf *f, fo_coef *own) noexcept nogil:
    """A leaf's coefficients; where they are its own, made in `own`."""
    cdef const Binding *b
    cdef Py_ssize_t leaf
    if w.what > UPDATE_AND_ZERO:
        return NULL
    b = &w.bindings[f.group]
    if b.finish == NULL and w.factors == NULL:
        return &w.coefs[f.coef]
    own_coef(w, f, own)
    if b.finish != NULL:
        leaf = f - w.all.leaves
        b.finish(w.totals + leaf * FO_MAX_SUMS, f.n if w.sizes == NULL else w.sizes[leaf], own.c)
    return own


cdef void run_whole(const Sweep *w, const Leaf *f) noexcept nogil:
    """Sum and update a leaf."""
    cdef const Binding *b = &w.bindings[f.group]
    cdef double sums[FO_MAX_SUMS]
    cdef double of_chunk[FO_MAX_SUMS]
    cdef fo_coef c
    cdef Py_ssize_t chunk
    cdef int k
    own_coef(w, f, &c)
    for k in range(b.n_sums):
        sums[k] = 0
    for chunk in range(chunks_of(f)):
        sum_chunk(w, f, chunk, of_chunk)
        for k in range(b.n_sums):
            sums[k] += of_chunk[k]
    b.finish(sums, f.n, c.c)
    if w.what == UPDATE and f.order == NULL and b.average[f.real] == NULL:
        update_part(w, f, 0, f.n, &c)
    else:
        for chunk in range(chunks_of(f)):
            run_chunk(w, f, chunk, &c)


cdef void run_chunk(const Sweep *w, const Leaf *f, Py_ssize_t chunk, const fo_coef *c) noexcept nogil:
    """The sweep's operation on one chunk of a leaf."""
    cdef Py_ssize_t start = chunk * CHUNK_ELEMENTS
    cdef Py_ssize_t end = min(f.n, start + CHUNK_ELEMENTS)
    cdef double tile[TILE]
    cdef const char *g
    cdef Py_ssize_t count
    cdef double sum = 0
    if w.what == START_STATE:
        if f.g == NULL:
            memset(f.p + start * f.itemsize, 0, (end - start) * f.itemsize)
        else:
            memcpy(f.p + start * f.itemsize, f.g + start * f.itemsize, (end - start) * f.itemsize)
        return
    if w.what <= ZERO_GRADIENTS and f.order == NULL:
        if w.what != ZERO_GRADIENTS:
            if not f.factored:
                update_part(w, f, start, end, c)
            average(w, f, start, end, f.updated)
        if w.what != UPDATE:
            memset(<void *>(f.g + start * f.itemsize), 0, (end - start) * f.itemsize)
        return
    if w.what == ZERO_GRADIENTS:
        return  # see `zero_ordered`
    if w.what == SUM_UP:
        sum_chunk(w, f, chunk, w.partial + (f.first + chunk) * FO_MAX_SUMS)
        return
    if f.factored and w.what <= UPDATE_AND_ZERO:
        start = end
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
            run_clamped(w, f, start, count, g, c)
        else:
            run_span(w, f, start, count, 0, g, c)
        start += count
    average(w, f, chunk * CHUNK_ELEMENTS, end, f.updated)
    if w.partial != NULL:
        w.partial[f.first + chunk] = sum


cdef struct Piece:
    # A chunk of a named row, or several that lie one after the other, with their gradients.
    Py_ssize_t start         # elements of the table before it
    Py_ssize_t count
    const char *g
    const fo_coef *coef      # in updates
    int64_t row


cdef inline Piece piece_of(const Sweep *w, const Leaf *f, Py_ssize_t chunk) noexcept nogil:
    cdef const Named *rows = f.rows
    cdef Py_ssize_t k = chunk if rows.parts == 1 else chunk // rows.parts
    cdef Py_ssize_t part = (chunk - k * rows.parts) * CHUNK_ELEMENTS
    cdef Piece x
    x.row = k if rows.row == NULL else rows.row[k]
    x.start = x.row * rows.size + part
    x.count = min(rows.size - part, <Py_ssize_t>CHUNK_ELEMENTS)
    x.g = f.g + x.start * f.itemsize if rows.g == NULL else rows.g[k] + part * f.itemsize
    x.coef = &w.coefs[rows.coef[k]] if w.what <= UPDATE_AND_ZERO else NULL
    return x


cdef inline void fetch_piece(const Sweep *w, const Leaf *f, Py_ssize_t chunk) noexcept nogil:
    """Ask for a chunk of a row: the next one may lie anywhere, and processors foresee none."""
    cdef Piece x = piece_of(w, f, chunk)
    cdef const Binding *b = &w.bindings[f.group]
    cdef Py_ssize_t at = x.start * f.itemsize, end = at + min(x.count * f.itemsize, <Py_ssize_t>FETCH_BYTES)
    cdef int k
    x.g -= at
    at -= <uintptr_t>(f.p + at) % LINE
    while at < end:
        fo_fetch(f.p + at)
        fo_fetch(x.g + at)
        for k in range(b.n_state):
            fo_fetch(f.s[b.slot[k]] + at)
        at += LINE


cdef void run_rows(const Sweep *w, const Leaf *f, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    """Chunks begin to end of a table's named rows; neighbours in one call of the kernel."""
    cdef bint updates = w.what <= UPDATE_AND_ZERO, averaged = w.bindings[f.group].average[f.real] != NULL
    cdef Py_ssize_t at = begin, fetched = begin, count, start
    cdef Piece x, y
    cdef double sum
    if w.what == ZERO_GRADIENTS:
        return  # see `zero_ordered`
    while at < end:
        x = piece_of(w, f, at)
        at += 1
        if not updates:
            sum, start = 0, 0
            while start < x.count:
                count = min(<Py_ssize_t>TILE, x.count - start)
                if w.what == SUM_SQUARES:
                    sum += w.variant.tables[f.real].sum_squares(x.g + start * f.itemsize, count, w.scale)
                else:
                    sum += w.variant.tables[f.real].nonfinite(x.g + start * f.itemsize, count)
                start += count
            w.partial[f.first + at - 1] = sum
            continue
        while at < end:
            y = piece_of(w, f, at)
            if (y.start != x.start + x.count or y.g != x.g + x.count * f.itemsize or y.coef != x.coef
                    or averaged and (f.rows.counts[y.row] != 0) != (f.rows.counts[x.row] != 0)):
                break
            x.count += y.count
            at += 1
        fetched = max(fetched, at)
        while fetched < min(at + ROWS_AHEAD, end):
            fetch_piece(w, f, fetched)
            fetched += 1
        update_by(w, f, x.start, x.start + x.count, x.g, x.count if w.fetch else 0, x.coef)
        if averaged:
            average(w, f, x.start, x.start + x.count, f.rows.counts[x.row] != 0)


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
    cdef fo_coef own
    while begin < end:
        while w.all.leaves[leaf + 1].first <= begin:
            leaf += 1
        f = &w.all.leaves[leaf]
        upto = min(end, w.all.leaves[leaf + 1].first)
        if w.plain and f.order == NULL:
            update_part(w, f, (begin - f.first) * CHUNK_ELEMENTS, min(f.n, (upto - f.first) * CHUNK_ELEMENTS),
                        &w.coefs[f.coef])
        elif w.sums and done_whole(w, f, begin):
            pass
        elif w.what == UPDATE and f.order == NULL and w.bindings[f.group].average[f.real] == NULL:
            update_part(w, f, (begin - f.first) * CHUNK_ELEMENTS, min(f.n, (upto - f.first) * CHUNK_ELEMENTS),
                        coef_of(w, f, &own))
        elif f.rows != NULL:
            run_rows(w, f, begin - f.first, upto - f.first)
        else:
            upto = begin + 1
            run_chunk(w, f, begin - f.first, coef_of(w, f, &own))
        begin = upto


cdef void run_chunks_backward(const Sweep *w, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    """The same, the last first. (One loop for both directions: 3 % more instructions a small tensor.)"""
    cdef Py_ssize_t first, leaf = leaf_of(w, end - 1)
    cdef const Leaf *f
    cdef fo_coef own
    while end > begin:
        while w.all.leaves[leaf].first >= end:
            leaf -= 1
        f = &w.all.leaves[leaf]
        first = max(begin, f.first)
        if w.plain and f.order == NULL:
            update_part(w, f, (first - f.first) * CHUNK_ELEMENTS, min(f.n, (end - f.first) * CHUNK_ELEMENTS),
                        &w.coefs[f.coef])
        elif w.sums and done_whole(w, f, first):
            pass
        elif w.what == UPDATE and f.order == NULL and w.bindings[f.group].average[f.real] == NULL:
            update_part(w, f, (first - f.first) * CHUNK_ELEMENTS, min(f.n, (end - f.first) * CHUNK_ELEMENTS),
                        coef_of(w, f, &own))
        elif f.rows != NULL:
            run_rows(w, f, first - f.first, end - f.first)
        else:
            first = end - 1
            run_chunk(w, f, first - f.first, coef_of(w, f, &own))
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
    w.run(w, 0, w.all.chunks)
    leave_mode(mode)


cdef void zero_ordered(const Sweep *w) noexcept nogil:
    """Zero the gradients that lie in another order: once all have been used, since one may overlap itself."""
    cdef Py_ssize_t i, n
    cdef const Leaf *f
    for i in range(w.all.n_leaves):
        f = &w.all.leaves[i]
        if not f.active or f.order == NULL or f.n == 0:
            continue
        n = f.n if f.rows == NULL else raw_shape(f.order)[0] * f.rows.size  # those that name a row twice are more
        if f.g == raw_data(f.order) and f.rows != NULL:
            memset(<void *>f.g, 0, n * f.itemsize)
        elif n > 0:
            in_order(NULL, f, 0, n)

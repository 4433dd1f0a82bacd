/* roofline.c: moves exactly the bytes of one optimizer step with as little arithmetic as there can be.
 *
 * Built by roofline.py for this machine, once per type and number of slots (-DREAL=float -DSLOTS=2); never shipped.
 * Each tensor has 2 + SLOTS arrays: parameter, gradient, state. A sweep reads all and writes all but the gradient, as a
 * fused step must. Before that it reads those of a rule's first passes: bit k of `first`, and then of `second`, is for
 * array k. c is 0 at run
 * time, which the compiler cannot know, so values never change and a sweep may run over anybody's live arrays.
 */
#include <stddef.h>

typedef REAL real;

enum {
    LINE = 64 / sizeof(real),  /* elements in a cache line */
    BLOCK = 4 * LINE,          /* elements between two rounds of prefetching */
    AHEAD = 2048 / sizeof(real)
};

/* One stretch of n elements. Inlined with a constant for `prefetch`. */
static inline __attribute__((always_inline)) void
stretch(real *const *array, size_t begin, size_t n, real c, int prefetch)
{
    real *restrict p = array[0] + begin;
    const real *restrict g = array[1] + begin;
    real *s[SLOTS + 1]; /* one more than there are, for C has no empty arrays */
    for (int k = 0; k < SLOTS; k++)
        s[k] = array[2 + k] + begin;
    const size_t block = prefetch ? BLOCK : n;
    for (size_t i = 0; i < n; i += block) {
        const size_t end = n - i < block ? n : i + block;
        if (prefetch)
            for (size_t j = i + AHEAD; j < i + AHEAD + BLOCK; j += LINE) {
                __builtin_prefetch(p + j, 1);
                __builtin_prefetch(g + j, 0);
                for (int k = 0; k < SLOTS; k++)
                    __builtin_prefetch(s[k] + j, 1);
            }
#pragma omp simd
        for (size_t j = i; j < end; j++) {
            p[j] += c * g[j];
            for (int k = 0; k < SLOTS; k++)
                s[k][j] += c * g[j];
        }
    }
}

/* The first pass over one stretch; its result is of use to tests only. */
real look(real *const *array, size_t begin, size_t n, unsigned first)
{
    real sum = 0;
    for (int k = 0; k < 2 + SLOTS; k++)
        if (first >> k & 1) {
            const real *restrict x = array[k] + begin;
#pragma omp simd reduction(+ : sum)
            for (size_t i = 0; i < n; i++)
                sum += x[i];
        }
    return sum;
}

/* The share of thread `me`: equal numbers of elements, whole blocks, whichever tensors they lie in. */
static inline __attribute__((always_inline)) void
share(size_t tensors, const size_t *size, real *const *array, size_t total, real c, int prefetch, unsigned first,
      unsigned second, size_t me, size_t threads)
{
    volatile real kept = 0; /* so that the sums are computed */
    const size_t blocks = (total + BLOCK - 1) / BLOCK;
    size_t from = blocks * me / threads * BLOCK, to = blocks * (me + 1) / threads * BLOCK;
    for (size_t i = 0; i < tensors && to > 0; i++, array += 2 + SLOTS) {
        const size_t n = size[i], end = to < n ? to : n;
        if (from < end && first)
            kept = look(array, from, end - from, first);
        if (from < end && second)
            kept = look(array, from, end - from, second);
        if (from < end && prefetch)
            stretch(array, from, end - from, c, 1);
        else if (from < end)
            stretch(array, from, end - from, c, 0);
        from -= from < n ? from : n;
        to -= end;
    }
    (void)kept;
}

void sweep(size_t tensors, const size_t *size, real *const *array, real c, int prefetch, unsigned first, unsigned second,
           int threads, size_t repeats)
{
    size_t total = 0;
    for (size_t i = 0; i < tensors; i++)
        total += size[i];
    for (size_t r = 0; r < repeats; r++)
        if (threads == 1)
            share(tensors, size, array, total, c, prefetch, first, second, 0, 1);
        else {
#pragma omp parallel for num_threads(threads) schedule(static, 1)
            for (int me = 0; me < threads; me++)
                share(tensors, size, array, total, c, prefetch, first, second, me, threads);
        }
}

/* n rows of `size` elements, anywhere in the arrays of one table, and their gradients, which lie one after the other. */
void scattered(size_t n, size_t size, const long long *row, real *const *array, const real *grad, real c, int prefetch)
{
    enum { ROWS_AHEAD = 8 };
    for (size_t i = 0; i < n; i++) {
        if (prefetch && i + ROWS_AHEAD < n) {
            const size_t ahead = (size_t)row[i + ROWS_AHEAD] * size;
            for (size_t j = 0; j < size + LINE - 1; j += LINE) /* a row may begin in the middle of a line */
                for (int k = 0; k < 1 + SLOTS; k++)
                    __builtin_prefetch(array[k] + ahead + (j < size ? j : size - 1), 0, 2);
        }
        const real *restrict g = grad + i * size;
        for (int k = 0; k < 1 + SLOTS; k++) {
            real *restrict x = array[k] + (size_t)row[i] * size;
#pragma omp simd
            for (size_t j = 0; j < size; j++)
                x[j] += c * g[j];
        }
    }
}

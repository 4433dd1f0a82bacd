/* roofline.c: moves exactly the bytes of one optimizer step with as little arithmetic as there can be.
 *
 * Built by roofline.py for this machine, once per type (-DREAL=float|double); never shipped. Each tensor has 2 + slots
 * arrays: parameter, gradient, state. A sweep reads all and writes all but the gradient, as a fused step must. c is 0 at
 * run time, which the compiler cannot know, so values never change and a sweep may run over anybody's live arrays.
 */
#include <stddef.h>

typedef REAL real;

enum {
    LINE = 64 / sizeof(real),  /* elements in a cache line */
    BLOCK = 4 * LINE,          /* elements between two rounds of prefetching */
    AHEAD = 2048 / sizeof(real)
};

/* One stretch of n elements. Inlined with constants, so that the loop over the arrays unrolls. */
static inline __attribute__((always_inline)) void
stretch(real *const *array, size_t begin, size_t n, real c, int slots, int prefetch)
{
    real *restrict p = array[0] + begin;
    const real *restrict g = array[1] + begin;
    real *s[4];
    for (int k = 0; k < slots; k++)
        s[k] = array[2 + k] + begin;
    const size_t block = prefetch ? BLOCK : n;
    for (size_t i = 0; i < n; i += block) {
        const size_t end = n - i < block ? n : i + block;
        if (prefetch)
            for (size_t j = i + AHEAD; j < i + AHEAD + BLOCK; j += LINE) {
                __builtin_prefetch(p + j, 1);
                __builtin_prefetch(g + j, 0);
                for (int k = 0; k < slots; k++)
                    __builtin_prefetch(s[k] + j, 1);
            }
#pragma omp simd
        for (size_t j = i; j < end; j++) {
            p[j] += c * g[j];
            for (int k = 0; k < slots; k++)
                s[k][j] += c * g[j];
        }
    }
}

static void sweep_stretch(real *const *array, size_t begin, size_t n, real c, int slots, int prefetch)
{
    switch (2 * slots + prefetch) {
    case 0: stretch(array, begin, n, c, 0, 0); break;
    case 1: stretch(array, begin, n, c, 0, 1); break;
    case 2: stretch(array, begin, n, c, 1, 0); break;
    case 3: stretch(array, begin, n, c, 1, 1); break;
    case 4: stretch(array, begin, n, c, 2, 0); break;
    case 5: stretch(array, begin, n, c, 2, 1); break;
    case 6: stretch(array, begin, n, c, 3, 0); break;
    case 7: stretch(array, begin, n, c, 3, 1); break;
    case 8: stretch(array, begin, n, c, 4, 0); break;
    case 9: stretch(array, begin, n, c, 4, 1); break;
    }
}

/* The share of thread `me`: equal numbers of elements, whole blocks, whichever tensors they lie in. */
static void share(size_t tensors, const size_t *size, real *const *array, size_t total, real c, int slots, int prefetch,
                  size_t me, size_t threads)
{
    const size_t blocks = (total + BLOCK - 1) / BLOCK;
    size_t from = blocks * me / threads * BLOCK, to = blocks * (me + 1) / threads * BLOCK;
    for (size_t i = 0; i < tensors && to > 0; i++, array += 2 + slots) {
        const size_t n = size[i], end = to < n ? to : n;
        if (from < end)
            sweep_stretch(array, from, end - from, c, slots, prefetch);
        from -= from < n ? from : n;
        to -= end;
    }
}

void sweep(size_t tensors, const size_t *size, real *const *array, real c, int slots, int prefetch, int threads,
           size_t repeats)
{
    size_t total = 0;
    for (size_t i = 0; i < tensors; i++)
        total += size[i];
    for (size_t r = 0; r < repeats; r++)
        if (threads == 1)
            share(tensors, size, array, total, c, slots, prefetch, 0, 1);
        else {
#pragma omp parallel for num_threads(threads) schedule(static, 1)
            for (int me = 0; me < threads; me++)
                share(tensors, size, array, total, c, slots, prefetch, me, threads);
        }
}

/* Reads the gradients once and writes nothing: the least that a norm or a search for NaN costs. */
real gradients(size_t tensors, const size_t *size, real *const *array, int slots, int threads, size_t repeats)
{
    real all = 0;
    for (size_t r = 0; r < repeats; r++)
        for (size_t i = 0; i < tensors; i++) {
            const real *g = array[(2 + slots) * i + 1];
            const size_t n = size[i];
            real sum = 0;
#pragma omp parallel for simd num_threads(threads) if (parallel : threads > 1) reduction(+ : sum) schedule(static)
            for (size_t j = 0; j < n; j++)
                sum += g[j];
            all += sum;
        }
    return all;
}

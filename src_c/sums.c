/* sums.c: what a step must know of all gradients before it writes: their norm, and
 * whether one of them is Inf or NaN. Compiled like rules.c. Memory is asked for 2 KB
 * ahead, as there: at 10^7 elements the norm took 1.4 times one read, and takes 1.0 to
 * 1.3, run by run (python -m bench --part conditions). */
#include "rule.h"

static double sum_squares(const void *gradients, ptrdiff_t n, double scale)
{
    const real *g = gradients;
    double lane[LANES] = {0};
    ptrdiff_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (int j = 0; j < LANES; j += LINE)
            __builtin_prefetch(g + i + j + AHEAD);
        for (int j = 0; j < LANES; j++) {
            const double x = scale * (double)g[i + j];
            lane[j] += x * x;
        }
    }
    for (int j = 0; i + j < n; j++) {
        const double x = scale * (double)g[i + j];
        lane[j] += x * x;
    }
    return added(lane);
}

/* An Inf or NaN has every exponent bit set: one more carries into the sign's place. */
static int nonfinite(const void *gradients, ptrdiff_t n)
{
    const real_bits *g = gradients;
    real_bits lane[STRIP] = {0}, carried = 0;
    ptrdiff_t i = 0;
    for (; i + STRIP <= n; i += STRIP) {
        fetch((const real *)gradients + i + AHEAD);
        for (int j = 0; j < STRIP; j++)
            lane[j] |= (g[i + j] & ~SIGN_BIT) + EXPONENT_ONE;
    }
    for (; i < n; i++)
        carried |= (g[i] & ~SIGN_BIT) + EXPONENT_ONE;
    for (int j = 0; j < STRIP; j++)
        carried |= lane[j];
    return (carried & SIGN_BIT) != 0;
}

extern const fo_rule EXPORTED(rules)[];
extern const fo_table EXPORTED(table);
const fo_table EXPORTED(table) = {EXPORTED(rules), sum_squares, nonfinite};

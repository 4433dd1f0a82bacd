/* sums.c: what a step must know of all gradients before it writes: their norm, and
 * whether one of them is Inf or NaN. Compiled like rules.c. */
#include "rule.h"

/* Sums are kept in LANES partial sums whatever the vector width, and these are added in
 * order: the same bits on every instruction set. Lanes past the end add nothing. */
enum { LANES = 16 };

static double sum_squares(const void *gradients, ptrdiff_t n, double scale)
{
    const real *g = gradients;
    double lane[LANES] = {0};
    ptrdiff_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (int j = 0; j < LANES; j++) {
            const double x = scale * (double)g[i + j];
            lane[j] += x * x;
        }
    }
    for (int j = 0; i + j < n; j++) {
        const double x = scale * (double)g[i + j];
        lane[j] += x * x;
    }
    double sum = 0;
    for (int j = 0; j < LANES; j++)
        sum += lane[j];
    return sum;
}

/* An Inf or NaN has every exponent bit set: one more carries into the sign's place. */
static int nonfinite(const void *gradients, ptrdiff_t n)
{
    const real_bits *g = gradients;
    real_bits carried = 0;
    for (ptrdiff_t i = 0; i < n; i++)
        carried |= (g[i] & ~SIGN_BIT) + EXPONENT_ONE;
    return (carried & SIGN_BIT) != 0;
}

extern const fo_rule EXPORTED(rules)[];
extern const fo_table EXPORTED(table);
const fo_table EXPORTED(table) = {EXPORTED(rules), sum_squares, nonfinite};

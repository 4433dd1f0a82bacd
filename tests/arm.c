/* arm.c: every kernel that was built, over the same numbers wherever it runs, and a hash of the bits that come out.
 *
 * A line a rule, element type, kind of decay and instruction set. `make arm` runs it here and, compiled for 64-bit Arm,
 * under qemu: check_arm.py compares the lines. Numbers come from integers, so that no library has a say in them.
 */
#include "fastopt.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { MOST = 1200, STEPS = 4 };
static const ptrdiff_t SIZES[] = {0, 1, 3, 17, 64, 66, 129, 1025, MOST};

static uint64_t seed, hash, count;

static double drawn(double low, double high)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return low + (high - low) * (double)(seed >> 11) * 0x1p-53;
}

static void add(const void *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ ((const unsigned char *)bytes)[i]) * 1099511628211u;
}

/* The sign and payload of a NaN that an operation makes differ by processor: one is as good as another. */
static void add_number(double x)
{
    const double nan = __builtin_nan("");
    add(x == x ? &x : &nan, sizeof x);
    count++;
}

typedef union {
    float f32[MOST];
    double f64[MOST];
} buffer;

static void put(buffer *to, int real, ptrdiff_t i, double x)
{
    if (real == FO_F32)
        to->f32[i] = (float)x;
    else
        to->f64[i] = x;
}

static double get(const buffer *from, int real, ptrdiff_t i)
{
    return real == FO_F32 ? (double)from->f32[i] : from->f64[i];
}

/* Now and then 0, -0, a number that is denormal in the type, one whose square overflows, an Inf. */
static double gradient(int real, ptrdiff_t i)
{
    const double special[] = {0.0, -0.0, real == FO_F32 ? 3e-42 : 3e-312, real == FO_F32 ? 1e30 : 1e200, 1.0 / 0.0};
    return i % 37 == 11 ? special[i / 37 % 5] : drawn(-2, 2);
}

static void run(const fo_rule *rule, int real, int kind, int backward, ptrdiff_t n)
{
    static buffer p, g, s[FO_MAX_STATE];
    double sums[FO_MAX_SUMS] = {0};
    fo_span span = {.n = n, .reach = n, .backward = backward, .p = &p, .g = &g};
    fo_coef coef = {.scale = drawn(0.5, 1), .decay = kind == FO_NO_DECAY ? 0 : drawn(0.001, 0.1)};
    int states = 0, scalars = 0;
    while (rule->state[states])
        states++;
    while (rule->scalars[scalars])
        scalars++;
    for (int k = 0; k < scalars; k++)
        coef.c[k] = drawn(0.05, 0.95);
    for (int k = 0; k < states; k++)
        span.s[k] = &s[k];
    for (ptrdiff_t i = 0; i < n; i++) {
        put(&p, real, i, drawn(-1, 1));
        for (int k = 0; k < states; k++)
            put(&s[k], real, i, drawn(0, 1));
    }
    for (int step = 0; step < STEPS; step++) {
        for (ptrdiff_t i = 0; i < n; i++)
            put(&g, real, i, gradient(real, i));
        if (rule->sum[kind]) {
            rule->sum[kind](&span, &coef, sums);
            for (int k = 0; rule->sums[k]; k++)
                add_number(sums[k]);
        }
        if (rule->finish)
            rule->finish(sums, (double)n, coef.c);
        rule->step[kind](&span, &coef);
        for (ptrdiff_t i = 0; i < n; i++) {
            add_number(get(&p, real, i));
            for (int k = 0; k < states; k++)
                add_number(get(&s[k], real, i));
        }
    }
}

/* The second moments of a matrix by lines and places, and its update. */
static void run_factored(const fo_rule *rule, int real, int kind)
{
    enum { LINES = 7, LENGTH = 83 };
    static buffer p, g, line, place;
    const fo_factored *const f = rule->factored;
    double of_places[LENGTH] = {0}, of_lines[LINES] = {0}, lanes[FO_MAX_SUMS * FO_LANES] = {0};
    fo_block block = {.lines = LINES, .length = LENGTH, .apart = LENGTH, .g_apart = LENGTH};
    block.p = &p, block.g = &g, block.line = &line, block.place = &place;
    fo_coef coef = {.scale = drawn(0.5, 1), .decay = kind == FO_NO_DECAY ? 0 : drawn(0.001, 0.1)};
    for (int k = 0; k < FO_MAX_SCALARS; k++)
        coef.c[k] = drawn(0.05, 0.95);
    for (ptrdiff_t i = 0; i < LINES * LENGTH; i++) {
        put(&p, real, i, drawn(-1, 1));
        put(&g, real, i, drawn(-2, 2));
        put(&line, real, i, drawn(0, 1));
        put(&place, real, i, drawn(0, 1));
    }
    f->squares(&block, &coef, of_places, of_lines, 1);
    f->follow(&coef, &line, LINES, of_lines, LENGTH);
    f->follow(&coef, &place, LENGTH, of_places, LINES);
    block.mean = f->mean(&line, LINES);
    f->sums(&block, &coef, lanes);
    f->step[kind](&block, &coef);
    for (ptrdiff_t i = 0; i < LINES * LENGTH; i++)
        add_number(get(&p, real, i));
    for (int i = 0; i < LENGTH; i++)
        add_number(get(&place, real, i));
    for (int i = 0; i < LINES; i++)
        add_number(get(&line, real, i));
    for (int i = 0; i < FO_MAX_SUMS * FO_LANES; i++)
        add_number(lanes[i]);
}

static void sums_of_gradients(const fo_table *table, int real)
{
    static buffer g;
    for (size_t k = 0; k < sizeof SIZES / sizeof *SIZES; k++) {
        for (ptrdiff_t i = 0; i < SIZES[k]; i++)
            put(&g, real, i, k % 2 ? gradient(real, i) : drawn(-2, 2));
        add_number(table->sum_squares(&g, SIZES[k], 0.75));
        add_number(table->nonfinite(&g, SIZES[k]));
    }
}

int main(void)
{
    for (const fo_variant *variant = fo_variants; variant->isa; variant++) {
        if (!variant->supported())
            continue;
        for (int real = 0; real < FO_REALS; real++) {
            const char *type = real == FO_F32 ? "f32" : "f64";
            for (const fo_rule *rule = variant->tables[real]->rules; rule->name; rule++)
                for (int kind = 0; kind < FO_DECAYS; kind++) {
                    seed = 1, hash = 14695981039346656037u, count = 0;
                    for (int flush = 0; flush < 2; flush++) {
                        const unsigned long long mode = fo_kernel_mode(flush);
                        for (size_t k = 0; k < sizeof SIZES / sizeof *SIZES; k++)
                            run(rule, real, kind, k % 2, SIZES[k]);
                        if (rule->factored && rule->factored->step[kind])
                            run_factored(rule, real, kind);
                        fo_restore_mode(mode);
                    }
                    printf("%s %s %d %" PRIu64 " %016" PRIx64 " %s\n", rule->name, type, kind, count, hash, variant->isa);
                }
            seed = 1, hash = 14695981039346656037u, count = 0;
            sums_of_gradients(variant->tables[real], real);
            printf("sums %s 0 %" PRIu64 " %016" PRIx64 " %s\n", type, count, hash, variant->isa);
        }
    }
    return 0;
}

/* rule.h: the vocabulary of rules.c and sums.c.
 *
 * The build compiles those files once per element type and instruction set, with
 * -DREAL_f32 or -DREAL_f64 and -DISA=<name>. Only this header looks at the defines.
 *
 * RULE(name, (state...), (scalars...)) opens the loop function of one rule; the text
 * that follows it is the body. A state array m is reached by LOAD(m) and STORE(m), so
 * that locals carry the paper's letters and storage formats can change here alone. The
 * body is inlined into one kernel for each kind of weight decay, with `kind` a constant,
 * so each kernel holds one straight loop without a branch. The macro writes what is not
 * the rule's: the unpacking of a span, and its division into strips of constant length,
 * from the first or from the last, each after asking for the memory some strips further
 * on, where span.reach says so.
 * Measured, Adam float32 on two cores of an Intel Xeon, time over that of one plain
 * loop: from cache levels 1 and 2 0.87 to 1.0 (the compiler unrolls a strip whole), 10^6
 * elements 0.79, 10^7 0.88.
 */
#ifndef RULE_H
#define RULE_H

#include "fastopt.h"

#define PASTE3_(a, b, c) a##_##b##_##c
#define PASTE3(a, b, c) PASTE3_(a, b, c)

#if defined REAL_f32
typedef float real;
#define EXPORTED(what) PASTE3(fo_##what, f32, ISA)
#define SQRT __builtin_sqrtf
typedef unsigned real_bits __attribute__((may_alias));
#define EPSILON __FLT_EPSILON__
#define SMALLEST __FLT_MIN__ /* that is no denormal */
#define SIGN_BIT 0x80000000u
#define EXPONENT_ONE 0x00800000u /* the exponent field's lowest bit */
enum { CBRT_BIAS = 709921077, CBRT_STEPS = 2 };
#elif defined REAL_f64
typedef double real;
#define EXPORTED(what) PASTE3(fo_##what, f64, ISA)
#define SQRT __builtin_sqrt
typedef unsigned long long real_bits __attribute__((may_alias));
#define EPSILON __DBL_EPSILON__
#define SMALLEST __DBL_MIN__
#define SIGN_BIT 0x8000000000000000u
#define EXPONENT_ONE 0x0010000000000000u
enum { CBRT_STEPS = 3 };
#define CBRT_BIAS 0x2A9F7893782DA1CEu
#endif

/* The cube root of x >= 0, by operations with the same bits everywhere: a third of its
 * exponent, by shifts since integers are divided one by one, then steps of Halley's. */
static inline __attribute__((always_inline)) real cube_root(real x)
{
    union {
        real value;
        real_bits bits;
    } y = {x};
    real_bits third = (y.bits >> 2) + (y.bits >> 4);
    third += third >> 4;
    third += third >> 8;
    third += third >> 16;
    if (sizeof(real) == 8)
        third += third >> 16 >> 16;
    y.bits = third + CBRT_BIAS;
    for (int i = 0; i < CBRT_STEPS; i++) {
        const real cube = y.value * y.value * y.value;
        y.value = y.value * ((cube + 2 * x) / (2 * cube + x));
    }
    return x == 0 ? x : y.value;
}
#define CBRT(x) cube_root(x)

/* EACH(f, a, (x, y)) is f(a, x) f(a, y): the usual deferred recursion, up to 16 names. */
#define EXPAND(...) EXPAND1(EXPAND1(EXPAND1(EXPAND1(__VA_ARGS__))))
#define EXPAND1(...) EXPAND2(EXPAND2(__VA_ARGS__))
#define EXPAND2(...) __VA_ARGS__
#define PARENS ()
#define UNPACK(...) __VA_ARGS__
#define EACH(f, a, list) EACH_(f, a, UNPACK list)
#define EACH_(f, a, ...) __VA_OPT__(EXPAND(EACH1(f, a, __VA_ARGS__)))
#define EACH1(f, a, x, ...) f(a, x) __VA_OPT__(EACH2 PARENS(f, a, __VA_ARGS__))
#define EACH2() EACH1

#define INDEX_(rule, x) rule##_at_##x,
#define NAME_(rule, x) #x,
#define STATE_PARAM_(rule, x) , real *restrict x##_
#define SCALAR_PARAM_(rule, x) , const real x
#define STATE_ARG_(rule, name) , (real *)span.s[rule##_at_##name] + at
#define SCALAR_ARG_(rule, name) , (real)coef.c[rule##_at_##name]
#define STATE_FETCH_(rule, name) fetch((const real *)span.s[rule##_at_##name] + ahead);

enum {
    LINE = 64 / sizeof(real),    /* elements in a cache line */
    STRIP = 4 * LINE,            /* 2 or 8 lines gain less */
    AHEAD = 2048 / sizeof(real), /* 1 or 3 KB differ by less than the noise */
};

/* Asks for one strip of an array. */
static inline __attribute__((always_inline)) void fetch(const real *from)
{
    for (int i = 0; i < STRIP; i += LINE)
        __builtin_prefetch(from + i);
}

#define LOOP_HEAD_(rule, state, scalars)                                                          \
    static inline __attribute__((always_inline)) void rule##_loop(                                \
        const int kind, const ptrdiff_t n, const real scale, const real decay, real *restrict p_, \
        const real *restrict g_ EACH(STATE_PARAM_, rule, state) EACH(SCALAR_PARAM_, rule, scalars))

#define RUN_(rule, decay_kind, count, state, scalars)                              \
    rule##_loop(decay_kind, count, (real)coef.scale, (real)coef.decay,             \
                (real *)span.p + at, (const real *)span.g + at                     \
                    EACH(STATE_ARG_, rule, state) EACH(SCALAR_ARG_, rule, scalars))

#define STRIP_(rule, decay_kind, worthwhile, state, scalars)   \
    if (worthwhile) {                                          \
        fetch((const real *)span.p + ahead);                   \
        fetch((const real *)span.g + ahead);                   \
        EACH(STATE_FETCH_, rule, state)                        \
    }                                                          \
    RUN_(rule, decay_kind, STRIP, state, scalars);

/* Copies, so that the compiler knows that no store of the loop changes them. One loop for
 * both directions, with a variable stride, takes 6 % more instructions a small tensor. */
#define KERNEL_(rule, decay_kind, state, scalars)                                              \
    static void rule##_##decay_kind(const fo_span *x, const fo_coef *c)                        \
    {                                                                                          \
        const fo_span span = *x;                                                               \
        const fo_coef coef = *c;                                                               \
        ptrdiff_t at = 0, ahead;                                                               \
        if (span.backward)                                                                     \
            for (at = span.n & -STRIP; at > 0;) {                                              \
                at -= STRIP;                                                                   \
                ahead = at - AHEAD;                                                            \
                STRIP_(rule, decay_kind, span.n - ahead < span.reach, state, scalars)          \
            }                                                                                  \
        else                                                                                   \
            for (; at + STRIP <= span.n; at += STRIP) {                                        \
                ahead = at + AHEAD;                                                            \
                STRIP_(rule, decay_kind, ahead < span.reach, state, scalars)                   \
            }                                                                                  \
        at = span.n & -STRIP;                                                                  \
        RUN_(rule, decay_kind, span.n - at, state, scalars);                                   \
    }

#define RULE(rule, state, scalars)                                                 \
    enum { EACH(INDEX_, rule, state) rule##_states };                              \
    enum { EACH(INDEX_, rule, scalars) rule##_scalar_count };                      \
    static const char *const rule##_state[] = {EACH(NAME_, rule, state) NULL};     \
    static const char *const rule##_scalars[] = {EACH(NAME_, rule, scalars) NULL}; \
    _Static_assert((int)rule##_states <= (int)FO_MAX_STATE, #rule ": state");      \
    _Static_assert((int)rule##_scalar_count <= (int)FO_MAX_SCALARS, #rule);        \
    LOOP_HEAD_(rule, state, scalars);                                              \
    KERNEL_(rule, FO_NO_DECAY, state, scalars)                                     \
    KERNEL_(rule, FO_COUPLED, state, scalars)                                      \
    KERNEL_(rule, FO_DECOUPLED, state, scalars)                                    \
    LOOP_HEAD_(rule, state, scalars)

/* SUMS(name, (state...), (scalars...), (sums...)) opens the first pass of the rule of that name, which goes over a whole
 * tensor before the rule does. It reads what it names of the rule's state and scalars, stores nothing, and adds to its
 * sums, in double: ADD(pp, x). They are kept in LANES partial sums whatever the vector width, and these are added in
 * order: the same bits on every instruction set. Lanes past the end add nothing. (gcc unrolls a loop of up to 16 whole
 * before it vectorises, and then may not: 16 lanes took StableAdamW's pass 4 times as long.) */
enum { LANES = FO_LANES };

#define SUM_PARAM_(rule, x) , double *restrict x##_
#define SUM_ARG_(rule, x) , lanes[rule##_sum_##x]
#define SUM_INDEX_(rule, x) rule##_sum_##x,
#define CONST_STATE_PARAM_(rule, x) , const real *restrict x##_
#define CONST_STATE_ARG_(rule, name) , (const real *)span.s[rule##_at_##name] + at

#define SUMS_HEAD_(rule, state, scalars, sums)                                                          \
    static inline __attribute__((always_inline)) void rule##_sums_loop(                                 \
        const int kind, const ptrdiff_t n, const real scale, const real decay, const real *restrict p_, \
        const real *restrict g_ EACH(CONST_STATE_PARAM_, rule, state)                                   \
            EACH(SCALAR_PARAM_, rule, scalars) EACH(SUM_PARAM_, rule, sums))

#define RUN_SUMS_(rule, decay_kind, count, state, scalars, sums)                                       \
    rule##_sums_loop(decay_kind, count, (real)coef.scale, (real)coef.decay, (const real *)span.p + at, \
                     (const real *)span.g + at EACH(CONST_STATE_ARG_, rule, state)                     \
                         EACH(SCALAR_ARG_, rule, scalars) EACH(SUM_ARG_, rule, sums))

#define SUMMER_(rule, decay_kind, state, scalars, sums)                                     \
    static void rule##_sums_##decay_kind(const fo_span *x, const fo_coef *c, double *total) \
    {                                                                                       \
        const fo_span span = *x;                                                            \
        const fo_coef coef = *c;                                                            \
        double lanes[rule##_sum_count][LANES] = {{0}};                                      \
        ptrdiff_t at = 0, ahead;                                                            \
        for (; at + LANES <= span.n; at += LANES) {                                         \
            ahead = at + AHEAD;                                                             \
            if (ahead < span.reach && at % STRIP == 0) {                                    \
                fetch((const real *)span.p + ahead);                                        \
                fetch((const real *)span.g + ahead);                                        \
                EACH(STATE_FETCH_, rule, state)                                             \
            }                                                                               \
            RUN_SUMS_(rule, decay_kind, LANES, state, scalars, sums);                       \
        }                                                                                   \
        RUN_SUMS_(rule, decay_kind, span.n - at, state, scalars, sums);                     \
        for (int k = 0; k < rule##_sum_count; k++)                                          \
            total[k] = added(lanes[k]);                                          \
    }

/* Asks for as many elements of the line that comes next, or further on where lines are short: by themselves processors
 * look ahead in a page only. (Adafactor, one thread, 10^7 elements: 0.44 of the time.) */
#define FETCH_NEXT(from, apart)             \
    for (int i = 0; i < LANES; i += LINE) \
    __builtin_prefetch((from) + MAX(apart, AHEAD) + i)

static inline double added(const double *lane)
{
    double sum = 0;
    for (int j = 0; j < LANES; j++)
        sum += lane[j];
    return sum;
}

#define SUMS(rule, state, scalars, sums)                                     \
    enum { EACH(SUM_INDEX_, rule, sums) rule##_sum_count };                  \
    static const char *const rule##_sums[] = {EACH(NAME_, rule, sums) NULL}; \
    _Static_assert((int)rule##_sum_count <= (int)FO_MAX_SUMS, #rule);        \
    SUMS_HEAD_(rule, state, scalars, sums);                                  \
    SUMMER_(rule, FO_NO_DECAY, state, scalars, sums)                         \
    SUMMER_(rule, FO_COUPLED, state, scalars, sums)                          \
    SUMMER_(rule, FO_DECOUPLED, state, scalars, sums)                        \
    SUMS_HEAD_(rule, state, scalars, sums)

/* FINISH(name, (sums...), (given...), (made...)) opens what makes of these sums over a tensor of n elements, all of the
 * rule's, and of given scalars, others: MADE(x) is for them what STORE is. In double, and no loop. */
#define SUM_VALUE_PARAM_(rule, x) const double x,
#define SUM_VALUE_ARG_(rule, x) sums[rule##_sum_##x],
#define GIVEN_PARAM_(rule, x) const double x,
#define GIVEN_ARG_(rule, x) scalars[rule##_at_##x],
#define MADE_PARAM_(rule, x) , double *x##_
#define MADE_ARG_(rule, x) , &scalars[rule##_at_##x]
#define MADE(x) *x##_ = x

#define FINISH_HEAD_(rule, sums, given, made)                                                         \
    static inline void rule##_made_of(EACH(SUM_VALUE_PARAM_, rule, sums) EACH(GIVEN_PARAM_, rule, given) \
                                          const double n EACH(MADE_PARAM_, rule, made))

#define FINISH(rule, sum_names, given, made_names)                                                           \
    static const char *const rule##_made[] = {EACH(NAME_, rule, made_names) NULL};                           \
    FINISH_HEAD_(rule, sum_names, given, made_names);                                                        \
    static void rule##_finish(const double *sums, double n, double *scalars)                                 \
    {                                                                                                        \
        rule##_made_of(EACH(SUM_VALUE_ARG_, rule, sum_names) EACH(GIVEN_ARG_, rule, given)                   \
                           n EACH(MADE_ARG_, rule, made_names));                                             \
    }                                                                                                        \
    FINISH_HEAD_(rule, sum_names, given, made_names)

/* Declares a rule whose class does the arithmetic itself: its kernels have nothing to do. */
#define IN_NUMPY(rule, state, scalars)                                             \
    static const char *const rule##_state[] = {EACH(NAME_, rule, state) NULL};     \
    static const char *const rule##_scalars[] = {EACH(NAME_, rule, scalars) NULL}; \
    static void rule##_nothing(const fo_span *x, const fo_coef *c) {}
#define ENTRY_IN_NUMPY(rule)                                                                          \
    {#rule, rule##_state, rule##_scalars, {rule##_nothing, rule##_nothing, rule##_nothing}, NULL, {NULL}, \
     NULL, NULL, NULL}

/* A rule's line in the table at the bottom of rules.c; that of a rule with SUMS; with FINISH
 * besides; and with a form for matrices, see fo_factored. */
#define OF_KINDS_(rule) {rule##_FO_NO_DECAY, rule##_FO_COUPLED, rule##_FO_DECOUPLED}
#define ENTRY(rule) {#rule, rule##_state, rule##_scalars, OF_KINDS_(rule), NULL, {NULL}, NULL, NULL, NULL}
#define ENTRY_SUMS(rule) \
    {#rule, rule##_state, rule##_scalars, OF_KINDS_(rule), rule##_sums, OF_KINDS_(rule##_sums), NULL, NULL, NULL}
#define ENTRY_FINISH(rule) ENTRY_FACTORED(rule, NULL)
#define ENTRY_FACTORED(rule, factored)                                                                       \
    {#rule, rule##_state, rule##_scalars, OF_KINDS_(rule), rule##_sums, OF_KINDS_(rule##_sums), rule##_made, \
     rule##_finish, factored}

/* Inside a body: */
#define ELEMENTS ptrdiff_t i = 0; i < n; i++
#define LOAD(x) x##_[i]
#define STORE(x) x##_[i] = x
#define ADD(sum, x) sum##_[i] += x
/* 0 stays 0, of either sign, and a NaN a NaN, in all of these */
#define SIGN(x) ((x) > 0 ? 1 : (x) < 0 ? -1 : (x))
#define ABS(x) ((x) < 0 ? -(x) : (x))
/* a NaN in a stays: put what is new there */
#define MAX(a, b) ((a) <= (b) ? (b) : (a))
/* whether x has the other sign than y, or one of them is 0 (their product could vanish); x, and 0 there */
#define AGAINST(x, y) (SIGN(x) * (y) <= 0)
#define AGREEING(x, y) (AGAINST(x, y) ? 0 : (x))
/* of what is double */
#define ROOT(x) __builtin_sqrt(x)
/* the least second moment: the square of eps, that of the type if it is below 0, and no denormal */
#define LEAST(eps) MAX((eps) < 0 ? EPSILON * EPSILON : (eps) * (eps), (real)SMALLEST)
#define CLAMP(x, low, high) ((x) < (low) ? (low) : (x) > (high) ? (high) : (x))
/* the gradient as the rule is to see it: scaled, and with coupled decay added; */
#define GRAD(p) (kind == FO_COUPLED ? scale * g_[i] + decay * (p) : scale * g_[i])
/* an update u with decoupled decay; */
#define DECAYED(p, u) (kind == FO_DECOUPLED ? decay * (p) + (u) : (u))
/* the parameter after an update u. Decay and update are summed first: p * (1 - decay)
 * would round small decays to none (1 - 1e-8 is 1 in float32). */
#define DESCEND(p, u) ((p) - DECAYED(p, u))

#endif

/* fastopt.h: the C interface. Spans and coefficients in, arithmetic out.
 *
 * Promises: no Python, no OpenMP, no allocation, no state, no errors to report.
 * A kernel touches exactly n elements of each array of its span, and nothing else.
 * Arrays of one span must not overlap; any alignment of whole elements will do.
 */
#ifndef FASTOPT_H
#define FASTOPT_H

#include <stddef.h> /* ptrdiff_t */

/* Hidden declarations: a symbol nobody defines fails the link, not the import. */
#pragma GCC visibility push(hidden)

enum { FO_MAX_STATE = 4, FO_MAX_SCALARS = 12, FO_MAX_SUMS = 2 };

/* Where weight decay enters: nowhere, into the gradient, or beside the update. */
enum { FO_NO_DECAY, FO_COUPLED, FO_DECOUPLED, FO_DECAYS };

/* The element types, and their place in every table that is indexed by type. */
enum { FO_F32, FO_F64, FO_REALS };

typedef struct {
    ptrdiff_t n;           /* elements */
    ptrdiff_t reach;       /* so many, from where it begins, are worth fetching ahead: n or more where others follow */
    int backward;          /* begin at the end: elements are all updated alike, but some may be in caches already */
    void *p;               /* [n] parameters */
    const void *g;         /* [n] gradients; not read by rules that need none */
    void *s[FO_MAX_STATE]; /* [n] each: state, in the order of the rule's list */
} fo_span;

/* What a step knows before it starts, in double; kernels round it to their type once. */
typedef struct {
    double scale;             /* gradient factor: unscaling, clipping, the sign of maximize */
    double decay;             /* weight decay, already times lr where it is decoupled */
    double c[FO_MAX_SCALARS]; /* in the order of the rule's list */
} fo_coef;

typedef void fo_kernel(const fo_span *x, const fo_coef *c);

/* What a rule must know of a whole tensor first: reads what a kernel reads, writes nothing but the sums. */
typedef void fo_summer(const fo_span *x, const fo_coef *c, double *sums);

/* The scalars that follow from the sums over all n elements of a tensor, put among the others. */
typedef void fo_finisher(const double *sums, double n, double *scalars);

/* A part of a matrix: lines of neighbours in memory, which lie `apart` elements from each other. The second moment of an
 * element is the product of its line's and its place's, over the mean of those of all lines. */
typedef struct {
    ptrdiff_t lines, length;
    ptrdiff_t apart, g_apart; /* of p, of g */
    void *p;
    const void *g;
    void *line;  /* [lines] second moments */
    void *place; /* [length] */
    double mean; /* of all lines of the matrix */
} fo_block;

typedef void fo_block_step(const fo_block *x, const fo_coef *c);

enum { FO_LANES = 32 }; /* partial sums, whatever the vector width */

/* What a rule does to matrices whose second moments it keeps by lines and places. */
typedef struct {
    const char *const *state; /* names of the state of rows and of columns, NULL */
    /* Adds squares of gradients to those of their places, which begin at place_sums; to line_sums, so many elements apart,
     * goes the sum of each line. Without line_sums the second moments of lines follow at once. */
    void (*squares)(const fo_block *x, const fo_coef *c, double *place_sums, double *line_sums, ptrdiff_t sums_apart);
    /* Has n second moments follow sums of so many squares. */
    void (*follow)(const fo_coef *c, void *moments, ptrdiff_t n, const double *sums, double count);
    double (*mean)(const void *moments, ptrdiff_t n);
    /* Adds to the lanes of each of the rule's sums; then the update. */
    void (*sums)(const fo_block *x, const fo_coef *c, double *lanes);
    fo_block_step *step[FO_DECAYS];
} fo_factored;

typedef struct {
    const char *name;
    const char *const *state;   /* names of s[0], s[1], ..., NULL */
    const char *const *scalars; /* names of c[0], c[1], ..., NULL */
    fo_kernel *step[FO_DECAYS];
    /* Of a rule with a first pass, else NULL: */
    const char *const *sums; /* their names, NULL */
    fo_summer *sum[FO_DECAYS];
    const char *const *made; /* names of the scalars that `finish` makes, NULL */
    fo_finisher *finish;     /* NULL where the class makes all scalars */
    const fo_factored *factored; /* NULL if matrices are nothing special */
} fo_rule;

/* Everything compiled for one element type and one instruction set. */
typedef struct {
    const fo_rule *rules; /* ends with a rule whose name is NULL */
    double (*sum_squares)(const void *g, ptrdiff_t n, double scale); /* of scale * g */
    int (*nonfinite)(const void *g, ptrdiff_t n);                    /* 1 if an Inf or NaN is among g */
} fo_table;

typedef struct {
    const char *isa;        /* "avx512", "avx2", "baseline" */
    int (*supported)(void); /* by this processor and operating system */
    const fo_table *tables[FO_REALS];
} fo_variant;

extern const fo_variant fo_variants[]; /* best first; ends with an isa that is NULL */

/* Sets this thread's floating-point mode to the one kernels are specified in (nearest,
 * no traps, denormals kept or flushed to zero) and returns the mode it found, for
 * fo_restore_mode. */
unsigned long long fo_kernel_mode(int flush_denormals);
void fo_restore_mode(unsigned long long mode);

/* Whether Intel made this processor. */
int fo_is_intel(void);

#pragma GCC visibility pop
#endif

/* rules.c: every update rule as one plain loop, in order of increasing complexity.
 *
 * Letters are the papers': p parameter, g gradient, m first moment, v second moment.
 * Whatever depends on the step and not on the element comes folded in the scalars (see
 * each class's scalars()); expressions are evaluated exactly as written, one rounding an
 * operation, and the NumPy twin in each class's reference() follows the same order.
 */
#include "rule.h"

/* Gradient descent. */
RULE(sgd, (), (alpha))
{
    for (ELEMENTS) {
        real p = LOAD(p);
        const real g = GRAD(p);
        p = DESCEND(p, alpha * g);
        STORE(p);
    }
}

/* Steps of one size, in the gradient's sign (Bernstein et al. 2018, algorithm 1). */
RULE(signsgd, (), (alpha))
{
    for (ELEMENTS) {
        real p = LOAD(p);
        const real g = GRAD(p);
        p = DESCEND(p, alpha * SIGN(g));
        STORE(p);
    }
}

/* Heavy ball (Polyak 1964). tau weighs the new gradient, alpha the update: torch's form
 * has the learning rate in alpha, the classical form in tau, and a factor of 1 is exact. */
RULE(momentum, (m), (eta, tau, alpha))
{
    for (ELEMENTS) {
        real p = LOAD(p), m = LOAD(m);
        const real g = GRAD(p);
        m = eta * m + tau * g;
        p = DESCEND(p, alpha * m);
        STORE(m);
        STORE(p);
    }
}

/* Nesterov's momentum as torch has it: gradient at p, update looks one step ahead. */
RULE(nesterov, (m), (eta, tau, alpha))
{
    for (ELEMENTS) {
        real p = LOAD(p), m = LOAD(m);
        const real g = tau * GRAD(p);
        m = eta * m + g;
        p = DESCEND(p, alpha * (g + eta * m));
        STORE(m);
        STORE(p);
    }
}

/* Moves to the looked-ahead point of Nesterov's original form, keeping the way back. */
RULE(lookahead, (m, saved), (eta))
{
    for (ELEMENTS) {
        real p = LOAD(p);
        const real m = LOAD(m), saved = p;
        p = p - eta * m;
        STORE(saved);
        STORE(p);
    }
}

/* Moves back from there, to the very bits. */
RULE(restore, (saved), ())
{
    for (ELEMENTS) {
        const real p = LOAD(saved);
        STORE(p);
    }
}

/* Lion (Chen et al. 2023, algorithm 2): the sign of a mean c in which the gradient weighs
 * otherwise than in the mean m that is kept. With equal betas c is the new m, by the very
 * same operations, and this is Signum (Bernstein et al. 2018, algorithm 2). */
RULE(lion, (m), (alpha, beta1, rest1, beta2, rest2))
{
    for (ELEMENTS) {
        real p = LOAD(p), m = LOAD(m);
        const real g = GRAD(p), c = beta1 * m + rest1 * g;
        m = beta2 * m + rest2 * g;
        p = DESCEND(p, alpha * SIGN(c));
        STORE(m);
        STORE(p);
    }
}

/* Quasi-hyperbolic momentum (Ma & Yarats 2019, eq. 1 and 2): a mean of the gradient and
 * of its mean m. */
RULE(qhm, (m), (alpha_g, alpha_m, beta, rest))
{
    for (ELEMENTS) {
        real p = LOAD(p), m = LOAD(m);
        const real g = GRAD(p);
        m = beta * m + rest * g;
        p = DESCEND(p, alpha_g * g + alpha_m * m);
        STORE(m);
        STORE(p);
    }
}

/* Adagrad (Duchi et al. 2011, figure 1, diagonal). start is what the sum s begins with in
 * the first update, when s is 0, and then 0: adding 0 to s >= 0 is exact. */
RULE(adagrad, (s), (alpha, start, eps))
{
    for (ELEMENTS) {
        real p = LOAD(p), s = LOAD(s);
        const real g = GRAD(p);
        s = s + start + g * g;
        p = DESCEND(p, alpha * (g / (SQRT(s) + eps)));
        STORE(s);
        STORE(p);
    }
}

/* RMSprop (Hinton 2012). One of inside and outside is epsilon, the other 0: adding 0 to
 * a square root or to v >= 0 is exact. */
RULE(rmsprop, (v), (alpha, gamma, rest, inside, outside))
{
    for (ELEMENTS) {
        real p = LOAD(p), v = LOAD(v);
        const real g = GRAD(p);
        v = gamma * v + rest * (g * g);
        p = DESCEND(p, alpha * (g / (SQRT(v + inside) + outside)));
        STORE(v);
        STORE(p);
    }
}

RULE(rmsprop_momentum, (v, m), (alpha, gamma, rest, inside, outside, eta))
{
    for (ELEMENTS) {
        real p = LOAD(p), v = LOAD(v), m = LOAD(m);
        const real g = GRAD(p);
        v = gamma * v + rest * (g * g);
        m = eta * m + g / (SQRT(v + inside) + outside);
        p = DESCEND(p, alpha * m);
        STORE(v);
        STORE(m);
        STORE(p);
    }
}

/* Centered RMSprop (Graves 2013, eq. 38-45): a is the mean gradient. The variance is
 * kept at 0 where rounding makes it negative; a NaN stays one. */
RULE(rmsprop_centered, (v, a), (alpha, gamma, rest, inside, outside))
{
    for (ELEMENTS) {
        real p = LOAD(p), v = LOAD(v), a = LOAD(a);
        const real g = GRAD(p);
        v = gamma * v + rest * (g * g);
        a = gamma * a + rest * g;
        const real d = v - a * a, variance = d < 0 ? 0 : d;
        p = DESCEND(p, alpha * (g / (SQRT(variance + inside) + outside)));
        STORE(v);
        STORE(a);
        STORE(p);
    }
}

RULE(rmsprop_centered_momentum, (v, a, m), (alpha, gamma, rest, inside, outside, eta))
{
    for (ELEMENTS) {
        real p = LOAD(p), v = LOAD(v), a = LOAD(a), m = LOAD(m);
        const real g = GRAD(p);
        v = gamma * v + rest * (g * g);
        a = gamma * a + rest * g;
        const real d = v - a * a, variance = d < 0 ? 0 : d;
        m = eta * m + g / (SQRT(variance + inside) + outside);
        p = DESCEND(p, alpha * m);
        STORE(v);
        STORE(a);
        STORE(m);
        STORE(p);
    }
}

/* Adadelta (Zeiler 2012, algorithm 1): d is the paper's update, x the mean of its square. */
RULE(adadelta, (v, x), (alpha, rho, rest, eps))
{
    for (ELEMENTS) {
        real p = LOAD(p), v = LOAD(v), x = LOAD(x);
        const real g = GRAD(p);
        v = rho * v + rest * (g * g);
        const real d = SQRT(x + eps) / SQRT(v + eps) * g;
        x = rho * x + rest * (d * d);
        p = DESCEND(p, alpha * d);
        STORE(v);
        STORE(x);
        STORE(p);
    }
}

/* Adamax (Kingma & Ba 2015, algorithm 2), with epsilon where torch has it. alpha carries
 * the bias correction. A NaN gradient reaches u. */
RULE(adamax, (m, u), (alpha, beta1, rest1, beta2, eps))
{
    for (ELEMENTS) {
        real p = LOAD(p), m = LOAD(m), u = LOAD(u);
        const real g = GRAD(p), old = beta2 * u, new = ABS(g) + eps;
        m = beta1 * m + rest1 * g;
        u = MAX(new, old);
        p = DESCEND(p, alpha * (m / u));
        STORE(m);
        STORE(u);
        STORE(p);
    }
}

/* Adam (Kingma & Ba 2015, algorithm 1), bias correction folded: alpha is
 * lr sqrt(1 - beta2^t) / (1 - beta1^t), and eps carries sqrt(1 - beta2^t) as well, so
 * that this is algorithm 1 and not its "epsilon hat" variant. */
RULE(adam, (m, v), (alpha, beta1, rest1, beta2, rest2, eps))
{
    for (ELEMENTS) {
        real p = LOAD(p), m = LOAD(m), v = LOAD(v);
        const real g = GRAD(p);
        m = beta1 * m + rest1 * g;
        v = beta2 * v + rest2 * (g * g);
        p = DESCEND(p, alpha * (m / (SQRT(v) + eps)));
        STORE(m);
        STORE(v);
        STORE(p);
    }
}

/* AMSGrad (Reddi et al. 2018) as torch has it: x is the largest v so far, before bias
 * correction. Written so that a NaN in v reaches x. */
RULE(amsgrad, (m, v, x), (alpha, beta1, rest1, beta2, rest2, eps))
{
    for (ELEMENTS) {
        real p = LOAD(p), m = LOAD(m), v = LOAD(v), x = LOAD(x);
        const real g = GRAD(p);
        m = beta1 * m + rest1 * g;
        v = beta2 * v + rest2 * (g * g);
        x = v <= x ? x : v;
        p = DESCEND(p, alpha * (m / (SQRT(x) + eps)));
        STORE(m);
        STORE(v);
        STORE(x);
        STORE(p);
    }
}

/* RAdam (Liu et al. 2020, algorithm 2), folded like Adam, but epsilon as torch has it. of_v
 * is 1, or 0 with eps = 1 in steps that are not rectified: they divide by 1, exactly. */
RULE(radam, (m, v), (alpha, beta1, rest1, beta2, rest2, of_v, eps))
{
    for (ELEMENTS) {
        real p = LOAD(p), m = LOAD(m), v = LOAD(v);
        const real g = GRAD(p);
        m = beta1 * m + rest1 * g;
        v = beta2 * v + rest2 * (g * g);
        p = DESCEND(p, alpha * (m / (of_v * SQRT(v) + eps)));
        STORE(m);
        STORE(v);
        STORE(p);
    }
}

/* QHAdam (Ma & Yarats 2019, eq. 6): means of the gradient and of its mean, above and below
 * the fraction. alpha_m and of_v carry the bias corrections. */
RULE(qhadam, (m, v), (alpha_g, alpha_m, beta1, rest1, beta2, rest2, of_g, of_v, eps))
{
    for (ELEMENTS) {
        real p = LOAD(p), m = LOAD(m), v = LOAD(v);
        const real g = GRAD(p), square = g * g;
        m = beta1 * m + rest1 * g;
        v = beta2 * v + rest2 * square;
        const real root = SQRT(of_g * square + of_v * v);
        p = DESCEND(p, (alpha_g * g + alpha_m * m) / (root + eps));
        STORE(m);
        STORE(v);
        STORE(p);
    }
}

extern const fo_rule EXPORTED(rules)[];
const fo_rule EXPORTED(rules)[] = {
    ENTRY(sgd),
    ENTRY(signsgd),
    ENTRY(momentum),
    ENTRY(nesterov),
    ENTRY(lookahead),
    ENTRY(restore),
    ENTRY(lion),
    ENTRY(qhm),
    ENTRY(adagrad),
    ENTRY(rmsprop),
    ENTRY(rmsprop_momentum),
    ENTRY(rmsprop_centered),
    ENTRY(rmsprop_centered_momentum),
    ENTRY(adadelta),
    ENTRY(adamax),
    ENTRY(adam),
    ENTRY(amsgrad),
    ENTRY(radam),
    ENTRY(qhadam),
    {0},
};

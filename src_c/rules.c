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

/* AdaBelief (Zhuang et al. 2020, algorithm 1): v is the mean square of the distance of g from
 * its mean m, the new one. As in the paper epsilon is added to the stored v in each step;
 * inside is epsilon, outside epsilon times the root of v's bias correction. */
RULE(adabelief, (m, v), (alpha, beta1, rest1, beta2, rest2, inside, outside))
{
    for (ELEMENTS) {
        real p = LOAD(p), m = LOAD(m), v = LOAD(v);
        const real g = GRAD(p);
        m = beta1 * m + rest1 * g;
        const real d = g - m;
        v = beta2 * v + rest2 * (d * d) + inside;
        p = DESCEND(p, alpha * (m / (SQRT(v) + outside)));
        STORE(m);
        STORE(v);
        STORE(p);
    }
}

/* LaProp (Ziyin et al. 2020, algorithm 1): gradients are normalised before their mean m is
 * taken. tau is (1 - beta1) times the root of v's bias correction, alpha has that of m. */
RULE(laprop, (m, v), (alpha, beta1, tau, beta2, rest2, eps))
{
    for (ELEMENTS) {
        real p = LOAD(p), m = LOAD(m), v = LOAD(v);
        const real g = GRAD(p);
        v = beta2 * v + rest2 * (g * g);
        m = beta1 * m + tau * (g / (SQRT(v) + eps));
        p = DESCEND(p, alpha * m);
        STORE(m);
        STORE(v);
        STORE(p);
    }
}

/* Yogi (Zaheer et al. 2018, algorithm 2): v goes to the squared gradient by steps of its
 * size. start is what new state starts from, and 0 later. */
RULE(yogi, (m, v), (alpha, beta1, rest1, rest2, eps, start))
{
    for (ELEMENTS) {
        real p = LOAD(p), m = LOAD(m) + start, v = LOAD(v) + start;
        const real g = GRAD(p), q = g * g, d = v - q;
        m = beta1 * m + rest1 * g;
        v = v - rest2 * (SIGN(d) * q);
        p = DESCEND(p, alpha * (m / (SQRT(v) + eps)));
        STORE(m);
        STORE(v);
        STORE(p);
    }
}

/* AdEMAMix (Pagliardini et al. 2024, algorithm 1): Adam with a second, slow mean n. tau is
 * its weight, times the root of v's bias correction as in Adam; n has no correction. */
RULE(ademamix, (m, n, v), (alpha, tau, beta1, rest1, beta2, rest2, beta3, rest3, eps))
{
    for (ELEMENTS) {
        real p = LOAD(p), m = LOAD(m), n = LOAD(n), v = LOAD(v);
        const real g = GRAD(p);
        m = beta1 * m + rest1 * g;
        n = beta3 * n + rest3 * g;
        v = beta2 * v + rest2 * (g * g);
        p = DESCEND(p, (alpha * m + tau * n) / (SQRT(v) + eps));
        STORE(m);
        STORE(n);
        STORE(v);
        STORE(p);
    }
}

/* Grams (Cao et al. 2024, algorithm 1): Adam's size with the gradient's sign. */
RULE(grams, (m, v), (alpha, beta1, rest1, beta2, rest2, eps))
{
    for (ELEMENTS) {
        real p = LOAD(p), m = LOAD(m), v = LOAD(v);
        const real g = GRAD(p);
        m = beta1 * m + rest1 * g;
        v = beta2 * v + rest2 * (g * g);
        const real u = alpha * (m / (SQRT(v) + eps));
        p = DESCEND(p, SIGN(g) * ABS(u));
        STORE(m);
        STORE(v);
        STORE(p);
    }
}

/* ADOPT (Taniguchi et al. 2024, algorithm 2): the old v divides, m is the mean of what
 * comes out, clipped. The first step makes v, and leaves p alone, decay too. */
RULE(adopt, (m, v), (alpha, beta1, rest1, beta2, rest2, eps, low, high, first))
{
    for (ELEMENTS) {
        real p = LOAD(p), m = LOAD(m), v = LOAD(v);
        const real g = GRAD(p), root = SQRT(v), x = g / MAX(root, eps);
        m = first != 0 ? m : beta1 * m + rest1 * CLAMP(x, low, high);
        v = first != 0 ? g * g : beta2 * v + rest2 * (g * g);
        p = first != 0 ? p : DESCEND(p, alpha * m);
        STORE(m);
        STORE(v);
        STORE(p);
    }
}

/* Rprop (Riedmiller & Braun 1993) without backtracking (iRprop-, Igel & Huesken 2000): where
 * the gradient's sign has turned, the step size shrinks and the element waits a step. Signs
 * are multiplied and not gradients, whose product may vanish. start is the learning rate of
 * the first step, and 0 later. */
RULE(rprop, (prev, size), (start, down, up, low, high))
{
    for (ELEMENTS) {
        real p = LOAD(p), prev = LOAD(prev), size = LOAD(size) + start;
        const real g = GRAD(p), y = SIGN(g) * SIGN(prev);
        const real grown = size * (y > 0 ? up : y < 0 ? down : 1);
        size = CLAMP(grown, low, high);
        prev = y < 0 ? 0 : g;
        p = DESCEND(p, SIGN(prev) * size);
        STORE(prev);
        STORE(size);
        STORE(p);
    }
}

/* Dozat 2016 as torch has it: g and m weigh as the schedule of the momentum says. */
RULE(nadam, (m, v), (alpha_g, alpha_m, beta1, rest1, beta2, rest2, eps))
{
    for (ELEMENTS) {
        real p = LOAD(p), m = LOAD(m), v = LOAD(v);
        const real g = GRAD(p);
        m = beta1 * m + rest1 * g;
        v = beta2 * v + rest2 * (g * g);
        p = DESCEND(p, (alpha_g * g + alpha_m * m) / (SQRT(v) + eps));
        STORE(m);
        STORE(v);
        STORE(p);
    }
}

/* AdaBound (Luo et al. 2019, algorithm 2): the rate of each element stays between two. */
RULE(adabound, (m, v), (alpha, low, high, beta1, rest1, beta2, rest2, eps))
{
    for (ELEMENTS) {
        real p = LOAD(p), m = LOAD(m), v = LOAD(v);
        const real g = GRAD(p);
        m = beta1 * m + rest1 * g;
        v = beta2 * v + rest2 * (g * g);
        const real rate = alpha / (SQRT(v) + eps);
        p = DESCEND(p, CLAMP(rate, low, high) * m);
        STORE(m);
        STORE(v);
        STORE(p);
    }
}

/* The same, by the largest v so far. */
RULE(amsbound, (m, v, x), (alpha, low, high, beta1, rest1, beta2, rest2, eps))
{
    for (ELEMENTS) {
        real p = LOAD(p), m = LOAD(m), v = LOAD(v), x = LOAD(x);
        const real g = GRAD(p);
        m = beta1 * m + rest1 * g;
        v = beta2 * v + rest2 * (g * g);
        x = MAX(v, x);
        const real rate = alpha / (SQRT(x) + eps);
        p = DESCEND(p, CLAMP(rate, low, high) * m);
        STORE(m);
        STORE(v);
        STORE(x);
        STORE(p);
    }
}

/* Averaged gradient descent (Polyak & Juditsky 1992, Bottou's schedule): a is the mean of
 * p from some step on; until then keep is 0 and mu 1, which is exactly a = p. */
RULE(asgd, (a), (shrink, eta, keep, mu))
{
    for (ELEMENTS) {
        real p = LOAD(p), a = LOAD(a);
        const real g = GRAD(p);
        p = DESCEND(p, shrink * p + eta * g);
        a = keep * a;
        a = a + mu * (p - a);
        STORE(a);
        STORE(p);
    }
}

/* Adan (Xie et al. 2022, algorithm 1): d averages differences of gradients, q is the last
 * one. later is 0 in the first step, which has no difference; grow is 1 + lr lambda of
 * the proximal decay. */
RULE(adan, (m, d, n, q), (a_m, a_d, beta1, rest1, beta2, rest2, beta3, rest3, eps, later, grow))
{
    for (ELEMENTS) {
        real p = LOAD(p), m = LOAD(m), d = LOAD(d), n = LOAD(n), q = LOAD(q);
        const real g = GRAD(p), difference = later * (g - q);
        m = beta1 * m + rest1 * g;
        d = beta2 * d + rest2 * difference;
        const real x = g + beta2 * difference;
        n = beta3 * n + rest3 * (x * x);
        q = g;
        p = DESCEND(p, (a_m * m + a_d * d) / (SQRT(n) + eps)) / grow;
        STORE(m);
        STORE(d);
        STORE(n);
        STORE(q);
        STORE(p);
    }
}

/* FTRL-Proximal (McMahan et al. 2013, algorithm 1): p is solved for anew in each step.
 * n starts at start. */
RULE(ftrl, (n, z), (start, r, quad, low, high, shrinkage))
{
    for (ELEMENTS) {
        real p = LOAD(p), n = LOAD(n), z = LOAD(z);
        const real g = GRAD(p), before = n + start;
        n = before + g * g;
        const real root = SQRT(n);
        z = z + ((g + shrinkage * p) - ((root - SQRT(before)) * r) * p);
        p = (CLAMP(z, low, high) - z) / (root * r + quad);
        STORE(n);
        STORE(z);
        STORE(p);
    }
}

/* MADGRAD (Defazio & Jelassi 2021, algorithm 1): dual averages from where p began, x. */
RULE(madgrad, (s, v, x), (lamb, eps, c, fresh))
{
    for (ELEMENTS) {
        real p = LOAD(p), s = LOAD(s), v = LOAD(v), x = LOAD(x);
        const real g = GRAD(p);
        x = fresh != 0 ? p : x;
        s = s + lamb * g;
        v = v + lamb * (g * g);
        const real z = x - s / (CBRT(v) + eps);
        p = DESCEND(p, c * (p - z));
        STORE(s);
        STORE(v);
        STORE(x);
        STORE(p);
    }
}

/* Schedule-free gradient descent (Defazio et al. 2024, eq. 2 to 4): p is y, where
 * gradients are taken; z starts at p. */
RULE(schedule_free_sgd, (z), (c, k, lr, fresh))
{
    for (ELEMENTS) {
        real p = LOAD(p), z = LOAD(z);
        const real g = GRAD(p);
        z = fresh != 0 ? p : z;
        p = DESCEND(p, c * (p - z) - k * g);
        z = z - lr * g;
        STORE(z);
        STORE(p);
    }
}

/* The same with Adam's scale (algorithm 1); decay is lambda y beside the scaled gradient. */
RULE(schedule_free_adamw, (z, v), (c, k, lr, fresh, beta2, rest2, root, eps, decay_at_y))
{
    for (ELEMENTS) {
        real p = LOAD(p), z = LOAD(z), v = LOAD(v);
        const real g = GRAD(p);
        z = fresh != 0 ? p : z;
        v = beta2 * v + rest2 * (g * g);
        const real h = root * (g / (SQRT(v) + eps)) + decay_at_y * p;
        p = DESCEND(p, c * (p - z) - k * h);
        z = z - lr * h;
        STORE(z);
        STORE(v);
        STORE(p);
    }
}

/* Layer-wise rates (You et al. 2017, algorithm 1): each tensor's by its norm over its gradient's. */
RULE(lars, (m), (eta, of_m, of_h, lr, coefficient, eps, rate))
{
    for (ELEMENTS) {
        real p = LOAD(p), m = LOAD(m);
        const real h = rate * GRAD(p);
        m = eta * m + h;
        p = p - (of_m * m + of_h * h);
        STORE(m);
        STORE(p);
    }
}
SUMS(lars, (), (), (pp, gg))
{
    for (ELEMENTS) {
        const double p = LOAD(p), g = GRAD(LOAD(p));
        ADD(pp, p * p);
        ADD(gg, g * g);
    }
}
FINISH(lars, (pp, gg), (lr, coefficient, eps), (rate))
{
    const double rate = pp > 0 && gg > 0 ? lr * (coefficient * ROOT(pp) / (ROOT(gg) + eps)) : lr;
    MADE(rate);
}

/* Adam whose steps are as long as the tensor's norm (You et al. 2020, algorithm 2). r comes times lr already. */
RULE(lamb, (m, v), (alpha, beta1, rest1, beta2, rest2, eps, lr, trust))
{
    for (ELEMENTS) {
        real p = LOAD(p), m = LOAD(m), v = LOAD(v);
        const real g = GRAD(p);
        m = beta1 * m + rest1 * g;
        v = beta2 * v + rest2 * (g * g);
        p = p - trust * DECAYED(p, alpha * (m / (SQRT(v) + eps)));
        STORE(m);
        STORE(v);
        STORE(p);
    }
}
SUMS(lamb, (m, v), (alpha, beta1, rest1, beta2, rest2, eps), (pp, rr))
{
    for (ELEMENTS) {
        const real p = LOAD(p), g = GRAD(p);
        const real m = beta1 * LOAD(m) + rest1 * g;
        const real v = beta2 * LOAD(v) + rest2 * (g * g);
        const double r = DECAYED(p, alpha * (m / (SQRT(v) + eps)));
        ADD(pp, (double)p * p);
        ADD(rr, r * r);
    }
}
FINISH(lamb, (pp, rr), (lr), (trust))
{
    const double trust = pp > 0 && rr > 0 ? lr * ROOT(pp) / ROOT(rr) : 1;
    MADE(trust);
}

/* AdamW whose steps shrink where gradients are larger than v knows (Wortsman et al. 2023, algorithm 2). */
RULE(stable_adamw, (m, v), (alpha, beta1, rest1, beta2, rest2, eps, floor, shrink))
{
    for (ELEMENTS) {
        real p = LOAD(p), m = LOAD(m), v = LOAD(v);
        const real g = GRAD(p);
        m = beta1 * m + rest1 * g;
        v = beta2 * v + rest2 * (g * g);
        p = p - shrink * DECAYED(p, alpha * (m / (SQRT(v) + eps)));
        STORE(m);
        STORE(v);
        STORE(p);
    }
}
SUMS_OF_GRADIENTS(stable_adamw, (v), (beta2, rest2, floor), (uu))
{
    for (ELEMENTS) {
        const real g = GRAD(LOAD(p));
        const real v = beta2 * LOAD(v) + rest2 * (g * g);
        ADD(uu, g * g / MAX(v, floor));
    }
}
FINISH(stable_adamw, (uu), (), (shrink))
{
    const double rms = ROOT(uu / n), shrink = rms > 1 ? 1 / rms : 1;
    MADE(shrink);
}

/* Cautious optimizers move only where update and gradient agree in sign, and further there (Liang et al. 2024, algorithm
 * 1). A NaN agrees, so that it is seen. */
RULE(cautious_lion, (m), (alpha, beta1, rest1, beta2, rest2, boosted))
{
    for (ELEMENTS) {
        real p = LOAD(p), m = LOAD(m);
        const real g = GRAD(p);
        const real c = beta1 * m + rest1 * g;
        m = beta2 * m + rest2 * g;
        p = DESCEND(p, boosted * AGREEING(SIGN(c), g));
        STORE(m);
        STORE(p);
    }
}
SUMS_OF_GRADIENTS(cautious_lion, (m), (beta1, rest1), (agreed))
{
    for (ELEMENTS) {
        const real g = GRAD(LOAD(p)), c = beta1 * LOAD(m) + rest1 * g;
        ADD(agreed, AGAINST(c, g) ? 0 : 1);
    }
}
FINISH(cautious_lion, (agreed), (alpha), (boosted))
{
    const double boosted = alpha / MAX(agreed / n, 1e-3);
    MADE(boosted);
}

RULE(cautious_adam, (m, v), (alpha, beta1, rest1, beta2, rest2, eps, boosted))
{
    for (ELEMENTS) {
        real p = LOAD(p), m = LOAD(m), v = LOAD(v);
        const real g = GRAD(p);
        m = beta1 * m + rest1 * g;
        v = beta2 * v + rest2 * (g * g);
        p = DESCEND(p, boosted * (AGREEING(m, g) / (SQRT(v) + eps)));
        STORE(m);
        STORE(v);
        STORE(p);
    }
}
SUMS_OF_GRADIENTS(cautious_adam, (m), (beta1, rest1), (agreed))
{
    for (ELEMENTS) {
        const real g = GRAD(LOAD(p)), m = beta1 * LOAD(m) + rest1 * g;
        ADD(agreed, AGAINST(m, g) ? 0 : 1);
    }
}
FINISH(cautious_adam, (agreed), (alpha), (boosted))
{
    const double boosted = alpha / MAX(agreed / n, 1e-3);
    MADE(boosted);
}

RULE(cautious_nadam, (m, v), (alpha_g, alpha_m, beta1, rest1, beta2, rest2, eps, boost))
{
    for (ELEMENTS) {
        real p = LOAD(p), m = LOAD(m), v = LOAD(v);
        const real g = GRAD(p);
        m = beta1 * m + rest1 * g;
        v = beta2 * v + rest2 * (g * g);
        const real c = alpha_g * g + alpha_m * m;
        p = DESCEND(p, boost * (AGREEING(c, g) / (SQRT(v) + eps)));
        STORE(m);
        STORE(v);
        STORE(p);
    }
}
SUMS_OF_GRADIENTS(cautious_nadam, (m), (alpha_g, alpha_m, beta1, rest1), (agreed))
{
    for (ELEMENTS) {
        const real g = GRAD(LOAD(p)), m = beta1 * LOAD(m) + rest1 * g;
        const real c = alpha_g * g + alpha_m * m;
        ADD(agreed, AGAINST(c, g) ? 0 : 1);
    }
}
FINISH(cautious_nadam, (agreed), (), (boost))
{
    const double boost = 1 / MAX(agreed / n, 1e-3);
    MADE(boost);
}

/* Adam's momentum over gradients of norm 1 (Ginsburg et al. 2019, algorithm 1): norm is the root of the tensor's second
 * moment, a number that the class keeps. */
RULE(novograd, (m), (alpha, beta1, tau, norm, decay_inside))
{
    for (ELEMENTS) {
        real p = LOAD(p), m = LOAD(m);
        const real g = GRAD(p);
        m = beta1 * m + tau * (g / norm + decay_inside * p);
        p = DESCEND(p, alpha * m);
        STORE(m);
        STORE(p);
    }
}
SUMS_OF_GRADIENTS(novograd, (), (), (gg))
{
    for (ELEMENTS) {
        const double g = GRAD(LOAD(p));
        ADD(gg, g * g);
    }
}

/* Adam whose learning rate is an estimate of the distance to go (Mishchenko & Defazio 2023, algorithm 4): tau1, tau2 and
 * weight are in proportion to the old one, eps to the new one. x is where the parameter began. */
RULE(prodigy, (m, v, s, x), (alpha, beta1, tau1, beta2, tau2, beta3, weight, eps, fresh, stretch))
{
    for (ELEMENTS) {
        real p = LOAD(p), m = LOAD(m), v = LOAD(v), s = LOAD(s), x = LOAD(x);
        const real g = GRAD(p);
        x = fresh != 0 ? p : x;
        m = beta1 * m + tau1 * g;
        v = beta2 * v + tau2 * (g * g);
        s = beta3 * s + weight * g;
        p = p - stretch * DECAYED(p, alpha * (m / (SQRT(v) + eps)));
        STORE(m);
        STORE(v);
        STORE(s);
        STORE(x);
        STORE(p);
    }
}
SUMS(prodigy, (s, x), (beta3, weight, fresh), (gained, away))
{
    for (ELEMENTS) {
        const real p = LOAD(p), x = fresh != 0 ? p : LOAD(x);
        const real g = GRAD(p), s = beta3 * LOAD(s) + weight * g;
        ADD(gained, (double)g * (x - p));
        ADD(away, ABS(s));
    }
}

/* Steps in proportion to the parameter, along gradients over their second moment's root (Shazeer & Stern 2018, algorithm
 * 4): of vectors; then of matrices, whose second moments are those of rows and columns. */
RULE(adafactor, (v), (rate, keep, eps1, eps2, most, alpha))
{
    const real least = LEAST(eps1);
    for (ELEMENTS) {
        real p = LOAD(p), v = LOAD(v);
        const real g = GRAD(p);
        v = v + keep * (g * g - v);
        p = DESCEND(p, alpha * (g / SQRT(MAX(v, least))));
        STORE(v);
        STORE(p);
    }
}
SUMS(adafactor, (v), (keep, eps1), (pp, uu))
{
    const real least = LEAST(eps1);
    for (ELEMENTS) {
        const real p = LOAD(p), g = GRAD(p);
        const real v = LOAD(v) + keep * (g * g - LOAD(v));
        ADD(pp, (double)p * p);
        ADD(uu, g * g / MAX(v, least));
    }
}
FINISH(adafactor, (pp, uu), (rate, eps2, most), (alpha))
{
    const double size = ROOT(pp / n), large = ROOT(uu / n) / most;
    const double alpha = rate * MAX(size, eps2) / MAX(large, 1);
    MADE(alpha);
}

static inline real followed(real moment, double mean_of_squares, real keep)
{
    return (real)(moment + keep * (mean_of_squares - moment));
}

static void adafactor_follow(const fo_coef *c, void *moments, ptrdiff_t n, const double *sums, double count)
{
    real *moment = moments;
    const real keep = (real)c->c[adafactor_at_keep];
    for (ptrdiff_t i = 0; i < n; i++)
        moment[i] = followed(moment[i], sums[i] / count, keep);
}

static double adafactor_mean(const void *moments, ptrdiff_t n)
{
    const real *moment = moments;
    double lane[LANES], sum = 0;
    ptrdiff_t i = 0;
    if (n <= LANES) { /* the same sum */
        for (; i < n; i++)
            sum += moment[i];
        return sum / (double)n;
    }
    for (int j = 0; j < LANES; j++)
        lane[j] = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++)
            lane[j] += moment[i + j];
    for (int j = 0; i + j < n; j++)
        lane[j] += moment[i + j];
    return added(lane) / (double)n;
}

/* Neighbours in a line, so many that their places are lanes: with a constant for count, loops that the compiler unrolls. */
static inline __attribute__((always_inline)) void adafactor_square(ptrdiff_t count, const real *restrict g_, real scale,
                                                                   double *restrict lane, double *restrict place_sums)
{
    for (ptrdiff_t i = 0; i < count; i++) {
        const real g = scale * g_[i];
        lane[i] += (double)g * g;
        place_sums[i] += (double)g * g;
    }
}

static void adafactor_squares(const fo_block *x, const fo_coef *c, double *place_sums, double *line_sums,
                              ptrdiff_t sums_apart)
{
    const real scale = (real)c->scale, keep = (real)c->c[adafactor_at_keep];
    for (ptrdiff_t k = 0; k < x->lines; k++) {
        const real *g = (const real *)x->g + k * x->g_apart;
        double lane[LANES], sum = 0;
        ptrdiff_t j = 0;
        if (x->length > LANES) {
            for (int i = 0; i < LANES; i++)
                lane[i] = 0;
            for (; j + LANES <= x->length; j += LANES) {
                FETCH_NEXT(g + j, x->g_apart);
                adafactor_square(LANES, g + j, scale, lane, place_sums + j);
            }
            adafactor_square(x->length - j, g + j, scale, lane, place_sums + j);
            sum = added(lane);
        } else
            for (; j < x->length; j++) { /* the same sum */
                const real square = scale * g[j];
                sum += (double)square * square;
                place_sums[j] += (double)square * square;
            }
        if (line_sums)
            line_sums[k * sums_apart] = sum;
        else
            ((real *)x->line)[k] = followed(((real *)x->line)[k], sum / (double)x->length, keep);
    }
}

/* A line's second moment over the mean of all lines, by which those of its places are multiplied. */
static inline real share_of(const fo_block *x, ptrdiff_t k, real eps1)
{
    const double mean = x->mean, least = eps1 < 0 ? EPSILON : eps1;
    return (real)(((const real *)x->line)[k] / MAX(mean, least));
}

static inline __attribute__((always_inline)) void adafactor_add(ptrdiff_t count, const real *restrict p_,
                                                                const real *restrict g_, const real *restrict place_,
                                                                real scale, real share, real least, double *restrict pp,
                                                                double *restrict uu)
{
    for (ptrdiff_t i = 0; i < count; i++) {
        const real p = p_[i], g = scale * g_[i], v = share * place_[i];
        pp[i] += (double)p * p;
        uu[i] += g * g / MAX(v, least);
    }
}

static void adafactor_block_sums(const fo_block *x, const fo_coef *c, double *lanes)
{
    const real scale = (real)c->scale, eps1 = (real)c->c[adafactor_at_eps1], least = LEAST(eps1), *place = x->place;
    for (ptrdiff_t k = 0; k < x->lines; k++) {
        const real *p = (const real *)x->p + k * x->apart, *g = (const real *)x->g + k * x->g_apart;
        const real share = share_of(x, k, eps1);
        ptrdiff_t j = 0;
        for (; j + LANES <= x->length; j += LANES) {
            FETCH_NEXT(p + j, x->apart);
            FETCH_NEXT(g + j, x->g_apart);
            adafactor_add(LANES, p + j, g + j, place + j, scale, share, least, lanes, lanes + LANES);
        }
        adafactor_add(x->length - j, p + j, g + j, place + j, scale, share, least, lanes, lanes + LANES);
    }
}

static inline __attribute__((always_inline)) void adafactor_descend(const int kind, ptrdiff_t count, real *restrict p_,
                                                                    const real *restrict g_, const real *restrict place_,
                                                                    real scale, real decay, real alpha, real share,
                                                                    real least)
{
    for (ptrdiff_t i = 0; i < count; i++) {
        real p = LOAD(p);
        const real v = share * place_[i];
        p = DESCEND(p, alpha * (GRAD(p) / SQRT(MAX(v, least))));
        STORE(p);
    }
}

static inline __attribute__((always_inline)) void adafactor_block(const int kind, const fo_block *x, const fo_coef *c)
{
    const real scale = (real)c->scale, decay = (real)c->decay, alpha = (real)c->c[adafactor_at_alpha];
    const real eps1 = (real)c->c[adafactor_at_eps1], least = LEAST(eps1), *place = x->place;
    for (ptrdiff_t k = 0; k < x->lines; k++) {
        real *p = (real *)x->p + k * x->apart;
        const real *g = (const real *)x->g + k * x->g_apart;
        const real share = share_of(x, k, eps1);
        ptrdiff_t j = 0;
        for (; j + LANES <= x->length; j += LANES) {
            FETCH_NEXT(p + j, x->apart);
            FETCH_NEXT(g + j, x->g_apart);
            adafactor_descend(kind, LANES, p + j, g + j, place + j, scale, decay, alpha, share, least);
        }
        adafactor_descend(kind, x->length - j, p + j, g + j, place + j, scale, decay, alpha, share, least);
    }
}
static void adafactor_block_plain(const fo_block *x, const fo_coef *c) { adafactor_block(FO_NO_DECAY, x, c); }
static void adafactor_block_decayed(const fo_block *x, const fo_coef *c) { adafactor_block(FO_DECOUPLED, x, c); }

static const char *const adafactor_of_matrices[] = {"r", "c", NULL};
static const fo_factored adafactor_factored = {
    adafactor_of_matrices, adafactor_squares,    adafactor_follow, adafactor_mean,
    adafactor_block_sums,  {adafactor_block_plain, NULL, adafactor_block_decayed},
};

/* Products of matrices (Jordan et al. 2024). */
IN_NUMPY(muon, (m), (alpha, momentum, rest, ahead, a, b, c, eps, steps, adjust))

/* The exponential moving average of parameters, of every optimizer with ema_decay. */
RULE(ema, (e), (keep, rest, fresh))
{
    for (ELEMENTS) {
        const real p = LOAD(p);
        real e = LOAD(e);
        e = fresh != 0 ? p : keep * e + rest * p;
        STORE(e);
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
    ENTRY(adabelief),
    ENTRY(laprop),
    ENTRY(yogi),
    ENTRY(ademamix),
    ENTRY(grams),
    ENTRY(adopt),
    ENTRY(rprop),
    ENTRY(nadam),
    ENTRY(adabound),
    ENTRY(amsbound),
    ENTRY(asgd),
    ENTRY(adan),
    ENTRY(ftrl),
    ENTRY(madgrad),
    ENTRY(schedule_free_sgd),
    ENTRY(schedule_free_adamw),
    ENTRY_FINISH(lars),
    ENTRY_FINISH(lamb),
    ENTRY_FINISH(stable_adamw),
    ENTRY_FINISH(cautious_lion),
    ENTRY_FINISH(cautious_adam),
    ENTRY_FINISH(cautious_nadam),
    ENTRY_SUMS(novograd),
    ENTRY_SUMS(prodigy),
    ENTRY_FACTORED(adafactor, &adafactor_factored),
    ENTRY_IN_NUMPY(muon),
    ENTRY(ema),
    {0},
};

"""Gradients by JAX or autograd, updates by fastopt: logistic regression over a dict of parameters.

Run: python examples/gradients_by_autodiff.py   (pip install jax, or pip install autograd)
"""

import sys

import numpy as np

import fastopt

try:
    import jax
    import jax.numpy as anp

    def gradient_of(function):
        return jax.jit(jax.grad(function))  # JAX arrays on the CPU are viewed, not copied

    source = "JAX"
except ImportError:
    try:
        import autograd.numpy as anp
        from autograd import grad as gradient_of

        source = "autograd"
    except ImportError:
        sys.exit("this example needs JAX or autograd: pip install jax, or pip install autograd")


def loss(params, x, y):
    """Mean logistic loss; y is -1 or 1."""
    margin = y * (anp.dot(x, params["w"]) + params["b"])
    return anp.mean(anp.logaddexp(anp.zeros_like(margin), -margin))


def main():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 20)).astype(np.float32)
    y = np.sign(x @ rng.standard_normal(20).astype(np.float32) + 0.5)
    params = {"w": np.zeros(20, np.float32), "b": np.zeros((), np.float32)}
    opt = fastopt.Adam(params, lr=0.05)
    gradient = gradient_of(loss)

    print(f"gradients by {source}")
    for step in range(1, 301):
        grads = gradient({key: value.copy() for key, value in params.items()}, x, y)
        if source == "autograd":  # which gives a float for a 0-d parameter, and may give float64
            grads = {key: np.asarray(value, np.float32) for key, value in grads.items()}
        opt.step(grads)
        if step % 100 == 0:
            print(f"step {step}  loss {float(loss(params, x, y)):.4f}")


if __name__ == "__main__":
    main()

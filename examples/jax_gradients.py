"""Gradients by JAX, updates by fastopt: logistic regression over a dict of parameters.

Run: python examples/jax_gradients.py   (pip install jax)
"""

import jax
import jax.numpy as jnp
import numpy as np

import fastopt


def loss(params, x, y):
    """Mean logistic loss; y is -1 or 1."""
    return jnp.mean(jnp.logaddexp(0.0, -y * (x @ params["w"] + params["b"])))


rng = np.random.default_rng(0)
x = rng.standard_normal((500, 20)).astype(np.float32)
y = np.sign(x @ rng.standard_normal(20).astype(np.float32) + 0.5)
params = {"w": np.zeros(20, np.float32), "b": np.zeros((), np.float32)}
before = loss(params, x, y)

# recipe: begin
opt = fastopt.Adam(params, lr=0.05)
gradient = jax.jit(jax.grad(loss))
for _ in range(300):
    copies = {key: value.copy() for key, value in params.items()}  # JAX may compute from NumPy's memory, and later
    opt.step(gradient(copies, x, y))  # JAX's arrays on the CPU are viewed, not copied
# recipe: end

print(f"loss {before:.4f} -> {loss(params, x, y):.4f}")

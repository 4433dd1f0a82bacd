"""Gradients by autograd, updates by fastopt: logistic regression over a dict of parameters.

Run: python examples/autograd_gradients.py   (pip install autograd)
"""

import autograd
import autograd.numpy as anp
import numpy as np

import fastopt


def loss(params, x, y):
    """Mean logistic loss; y is -1 or 1."""
    margin = y * (anp.dot(x, params["w"]) + params["b"])
    return anp.mean(anp.logaddexp(0.0, -margin))


rng = np.random.default_rng(0)
x = rng.standard_normal((500, 20))
y = np.sign(x @ rng.standard_normal(20) + 0.5)
params = {"w": np.zeros(20), "b": np.zeros(1)}
before = loss(params, x, y)

# recipe: begin
opt = fastopt.Adam(params, lr=0.05)
gradient = autograd.grad(loss)
for _ in range(300):
    opt.step(gradient(params, x, y))
# recipe: end

print(f"loss {before:.4f} -> {loss(params, x, y):.4f}")

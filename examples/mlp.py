"""A two-layer network on two spirals, forward and backward pass written by hand in NumPy.

Run: python examples/mlp.py
"""

import numpy as np

import fastopt
from fastopt.schedules import CosineDecay, Warmup

EPOCHS, BATCH, HIDDEN = 50, 50, 64


def spirals(rng, n):
    """Points (n, 2) on two interleaved spirals, and which one each is on, 0 or 1."""
    side = rng.integers(0, 2, n)
    turn = np.sqrt(rng.random(n)) * 3 * np.pi
    angle = turn + side * np.pi
    x = np.stack([np.cos(angle), np.sin(angle)], axis=1) * turn[:, None] / 3 + rng.normal(0, 0.1, (n, 2))
    return x.astype(np.float32), side


def new_params(rng):
    def weights(n_in, n_out):
        return (rng.standard_normal((n_in, n_out)) * np.sqrt(2 / n_in)).astype(np.float32)

    return {
        "hidden": [
            {"w": weights(2, HIDDEN), "b": np.zeros(HIDDEN, np.float32)},
            {"w": weights(HIDDEN, HIDDEN), "b": np.zeros(HIDDEN, np.float32)},
        ],
        "out": {"w": weights(HIDDEN, 2), "b": np.zeros(2, np.float32)},
    }


def forward(params, x):
    """Activations of each layer, and the logits."""
    activations = [x]
    for layer in params["hidden"]:
        activations.append(np.maximum(activations[-1] @ layer["w"] + layer["b"], 0))
    return activations, activations[-1] @ params["out"]["w"] + params["out"]["b"]


def loss_and_grads(params, x, y):
    """Mean cross-entropy, and its gradients in the structure of the parameters."""
    activations, logits = forward(params, x)
    logits = logits - logits.max(axis=1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    loss = -log_p[np.arange(len(y)), y].mean()

    delta = np.exp(log_p)
    delta[np.arange(len(y)), y] -= 1
    delta /= len(y)
    grads = {"hidden": [], "out": {"w": activations[-1].T @ delta, "b": delta.sum(axis=0)}}
    upper = params["out"]["w"]
    for layer, inputs, outputs in zip(params["hidden"][::-1], activations[-2::-1], activations[:0:-1], strict=True):
        delta = (delta @ upper.T) * (outputs > 0)
        grads["hidden"].insert(0, {"w": inputs.T @ delta, "b": delta.sum(axis=0)})
        upper = layer["w"]
    return loss, grads


def main():
    rng = np.random.default_rng(0)
    x, y = spirals(rng, 1000)
    x_test, y_test = spirals(rng, 1000)
    params = new_params(rng)
    steps = EPOCHS * len(x) // BATCH
    schedule = Warmup(steps=100, after=CosineDecay(lr=0.01, total=steps - 100))
    opt = fastopt.AdamW(params, lr=schedule, weight_decay=1e-3, clip_norm=1.0)

    for epoch in range(EPOCHS):
        for rows in rng.permutation(len(x)).reshape(-1, BATCH):
            loss, grads = loss_and_grads(params, x[rows], y[rows])
            opt.step(grads)
        if (epoch + 1) % 10 == 0:
            accuracy = (forward(params, x_test)[1].argmax(axis=1) == y_test).mean()
            print(f"epoch {epoch + 1:3}  steps {opt.steps:5}  loss {loss:.4f}  held-out accuracy {accuracy:.1%}")


if __name__ == "__main__":
    main()

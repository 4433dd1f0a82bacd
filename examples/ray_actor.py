"""A parameter server on Ray: an actor holds parameters and optimizer, tasks send gradients.

Run: python examples/ray_actor.py   (pip install ray)
"""

import numpy as np
import ray

import fastopt

TRUTH = np.random.default_rng(0).standard_normal(50)


# recipe: begin
@ray.remote
class Server:
    """Parameters and their optimizer."""

    def __init__(self, n):
        self.w = np.zeros(n)
        self.opt = fastopt.Adam(self.w, lr=0.05)

    def push(self, grads):
        """Take a step; the gradients lie in Ray's memory, and are read there."""
        self.opt.step(grads)
        return self.w


# recipe: end


@ray.remote
def gradient(w, seed):
    """Of the mean squared error over a batch."""
    x = np.random.default_rng(seed).standard_normal((100, w.size))
    return x.T @ (x @ (w - TRUTH)) / len(x)


def main():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    server, w = Server.remote(TRUTH.size), np.zeros(TRUTH.size)
    before = np.mean((w - TRUTH) ** 2)
    for step in range(0, 200, 2):
        for grads in [gradient.remote(w, seed) for seed in (step, step + 1)]:
            w = ray.get(server.push.remote(grads))
    print(f"loss {before:.4f} -> {np.mean((w - TRUTH) ** 2):.4f}")
    ray.shutdown()


if __name__ == "__main__":
    main()

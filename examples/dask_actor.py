"""A parameter server on Dask: an actor holds parameters and optimizer, tasks compute gradients.

Run: python examples/dask_actor.py   (pip install distributed)
"""

import numpy as np
from distributed import Client, LocalCluster

import fastopt

TRUTH = np.random.default_rng(0).standard_normal(50)


# recipe: begin
class Server:
    """Parameters and their optimizer."""

    def __init__(self, n):
        self.w = np.zeros(n)
        self.opt = fastopt.Adam(self.w, lr=0.05)

    def push(self, grads):
        """Take a step."""
        self.opt.step(grads)
        return self.w


# recipe: end


def gradient(w, seed):
    """Of the mean squared error over a batch."""
    x = np.random.default_rng(seed).standard_normal((100, w.size))
    return x.T @ (x @ (w - TRUTH)) / len(x)


def main():
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        server, w = client.submit(Server, TRUTH.size, actor=True).result(), np.zeros(TRUTH.size)
        before = np.mean((w - TRUTH) ** 2)
        for step in range(0, 200, 2):
            for grads in client.gather([client.submit(gradient, w, seed) for seed in (step, step + 1)]):
                w = server.push(grads).result()
        print(f"loss {before:.4f} -> {np.mean((w - TRUTH) ** 2):.4f}")


if __name__ == "__main__":
    main()

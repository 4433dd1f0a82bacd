"""Stop a training, start again from its checkpoint, and get the bits of an uninterrupted run.

Run: python examples/resume.py
"""

import tempfile
from pathlib import Path

import numpy as np

import fastopt
from fastopt.checkpoint import read_metadata
from fastopt.schedules import LinearDecay

STEPS, STOP = 200, 80


def data():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1000, 10))
    return x, x @ np.arange(10.0) + rng.normal(0, 0.1, 1000)


def train(params, opt, steps):
    """Mini-batch least squares; the rows of step t depend on t alone, so a resumed run sees the same."""
    x, y = data()
    while opt.steps < steps:
        rows = np.random.default_rng(opt.steps).integers(0, len(x), 50)
        error = x[rows] @ params["w"] - y[rows]
        opt.step({"w": x[rows].T @ error / len(rows)})


def new():
    params = {"w": np.zeros(10)}
    return params, fastopt.RMSprop(params, lr=LinearDecay(lr=0.1, total=STEPS), momentum=0.9)


def main():
    whole, opt = new()
    train(whole, opt, STEPS)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run.safetensors")

        params, opt = new()
        train(params, opt, STOP)
        opt.save(path, metadata={"note": f"stopped after {opt.steps} steps"})

        params, opt = new()  # as a new process would begin
        opt.load(path)  # parameters, state, step counts; the schedule goes on where it was
        print(read_metadata(path)["note"])
        train(params, opt, STEPS)

    print("weights:", params["w"].round(2) + 0.0)
    same = params["w"].tobytes() == whole["w"].tobytes()
    print("same bits as the uninterrupted run:", same)
    if not same:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

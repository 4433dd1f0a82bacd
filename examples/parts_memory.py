"""Peak memory and time of training by whole steps and by steps in parts: many layers, whose gradients come one by one.

    python examples/parts_memory.py
    python examples/parts_memory.py --layers 16 --width 512

Each way runs in a process of its own, since the peak of a process does not fall again.
"""

import argparse
import resource
import subprocess
import sys
import time

import numpy as np

import fastopt

STEPS = 5


def train(way, layers, width):
    """Take some steps; print the peak of memory in GiB and milliseconds of processor time a step."""
    params = {f"layer{k}": np.full((width, width), 0.01, np.float32) for k in range(layers)}
    opt = fastopt.Adam(params, lr=1e-3)
    x = np.linspace(-1, 1, width, dtype=np.float32)

    def gradient_of(name, out):
        return np.multiply.outer(x, params[name][0], out=out)  # in place of a backward pass

    buffers = {name: np.empty((width, width), np.float32) for name in (params if way == "step" else ["one"])}
    begin = time.process_time()
    for _ in range(STEPS):
        if way == "step":
            opt.step({name: gradient_of(name, buffers[name]) for name in params})
        else:
            with opt.parts() as part:
                for name in reversed(params):
                    part(name, gradient_of(name, buffers["one"]))
    took = (time.process_time() - begin) / STEPS
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
    print(f"{way:6}  {peak:10.2f}  {1e3 * took:12.0f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=64)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--way", choices=["step", "parts"], help="only this one")
    given = parser.parse_args()
    if given.way:
        train(given.way, given.layers, given.width)
    else:
        print("way     peak (GiB)  CPU (ms a step)")
        for way in ("step", "parts"):
            size = [f"--layers={given.layers}", f"--width={given.width}"]
            subprocess.run([sys.executable, __file__, f"--way={way}", *size], check=True)

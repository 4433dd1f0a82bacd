"""The time of one `Adam.step()` in torch's forms and in fastopt's: microseconds, one thread, the median of 350 steps.

Gradients lie elsewhere in each step, as they do after `backward()`.

    pip install torch
    python examples/torch_steps.py
"""

import time
from statistics import median

import torch

import fastopt
import fastopt.torch

ROUNDS = 7
MODELS = {
    "8 (two hidden layers of 64)": [(64, 4), (64,), (64, 64), (64,), (2, 64), (2,), (1, 64), (1,)],
    "4": [(128, 784), (128,), (10, 128), (10,)],
    "148 (a small transformer)": 12
    * [(192, 64), (192,), (64, 64), (64,), (256, 64), (256,), (64, 256), (64,), (64,), (64,), (64,), (64,)]
    + [(101, 64), (64,), (64,), (28,)],
    "148 of 4 elements": 148 * [(4,)],
}
FORMS = {
    "torch": torch.optim.Adam,
    "torch, fused": lambda params: torch.optim.Adam(params, fused=True),
    "fastopt": fastopt.torch.Adam,
}


def steps_of(shapes, make):
    """A function that takes some steps and returns microseconds for each."""
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    gradients = [[torch.randn(shape) for shape in shapes] for _ in range(4)]
    optimizer = make(params)

    def steps(n):
        times = []
        for k in range(n):
            for p, g in zip(params, gradients[k % 4], strict=True):
                p.grad = g
            begin = time.perf_counter()
            optimizer.step()
            times.append(1e6 * (time.perf_counter() - begin))
        return times

    steps(20)
    return steps


torch.set_num_threads(1)
fastopt.set_num_threads(1)
print(f"{'tensors':30}{'elements':>10}" + "".join(f"{name:>14}" for name in FORMS))
for name, shapes in MODELS.items():
    forms = {form: steps_of(shapes, make) for form, make in FORMS.items()}
    times = {form: [] for form in forms}
    for _ in range(ROUNDS):  # in turns
        for form, steps in forms.items():
            times[form] += steps(50)
    elements = sum(torch.Size(shape).numel() for shape in shapes)
    print(f"{name:30}{elements:10,}" + "".join(f"{median(found):14.1f}" for found in times.values()))

"""What the optimizer's step takes of training an agent: PPO of stable-baselines3 on CartPole, in CPU time, one thread.

pip install torch stable-baselines3
python examples/torch_ppo.py
"""

import time

import torch
from stable_baselines3 import PPO

import fastopt
import fastopt.torch

STEPS = 10_240


class Fused(torch.optim.Adam):
    """torch's Adam in its fastest form."""

    def __init__(self, params, **options):
        super().__init__(params, fused=True, **options)


def timed(base):
    """A class whose steps are timed."""

    class Timed(base):
        spent = 0.0

        def step(self, closure=None):
            begin = time.process_time()
            result = super().step(closure)
            Timed.spent += time.process_time() - begin
            return result

    return Timed


torch.set_num_threads(1)
fastopt.set_num_threads(1)
for name, base in (("torch", torch.optim.Adam), ("torch, fused", Fused), ("fastopt", fastopt.torch.Adam)):
    cls = timed(base)
    agent = PPO("MlpPolicy", "CartPole-v1", seed=0, device="cpu", policy_kwargs={"optimizer_class": cls})
    begin = time.process_time()
    agent.learn(STEPS)
    total = time.process_time() - begin
    print(f"{name:12}  {total:5.1f} s, of which steps {100 * cls.spent / total:4.1f} %")

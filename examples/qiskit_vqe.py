"""A variational circuit of Qiskit, gradients by the parameter shift from few shots, trained by fastopt.

Run: python examples/qiskit_vqe.py   (pip install qiskit)
"""

import numpy as np
from qiskit.circuit.library import real_amplitudes
from qiskit.primitives import StatevectorEstimator
from qiskit.quantum_info import SparsePauliOp

import fastopt

circuit = real_amplitudes(3, reps=2)
energy = SparsePauliOp.from_list([("ZZI", 1.0), ("IZZ", 1.0), ("XII", 0.5), ("IXI", 0.5), ("IIX", 0.5)])
estimator = StatevectorEstimator(seed=0)
angles = np.random.default_rng(0).uniform(-0.1, 0.1, circuit.num_parameters)


def values(points, precision):
    """Energies at several points, each with a standard error."""
    return estimator.run([(circuit, energy, points)], precision=precision).result()[0].data.evs


before = float(values(angles[None], 0.0)[0])

# recipe: begin
opt = fastopt.Adam(angles, lr=0.05)
shifts = np.pi / 2 * np.eye(angles.size)
for _ in range(150):
    up, down = values(np.concatenate([angles + shifts, angles - shifts]), precision=0.1).reshape(2, -1)
    opt.step((up - down) / 2)
# recipe: end

print(f"loss {before:.4f} -> {float(values(angles[None], 0.0)[0]):.4f}")

"""A variational circuit of PennyLane, its parameters trained by fastopt.

Run: python examples/pennylane_vqe.py   (pip install pennylane)
"""

import time

import numpy as np
import pennylane as qml

import fastopt

device = qml.device("default.qubit", wires=4)
energy = qml.sum(*(qml.Z(i) @ qml.Z(i + 1) for i in range(3)), *(0.5 * qml.X(i) for i in range(4)))


@qml.qnode(device)
def circuit(angles):
    """Energy of an Ising chain in a layered state."""
    for layer in angles:
        for wire, angle in enumerate(layer):
            qml.RY(angle, wires=wire)
        for wire in range(3):
            qml.CNOT(wires=[wire, wire + 1])
    return qml.expval(energy)


angles = np.random.default_rng(0).uniform(-0.1, 0.1, (3, 4))
before = float(circuit(angles))
updates, start = 0.0, time.perf_counter()

# recipe: begin
opt = fastopt.Adam(angles, lr=0.1)
gradient = qml.grad(circuit, argnums=0)
for _ in range(60):
    g = np.asarray(gradient(angles))
    now = time.perf_counter()
    opt.step(g)
    updates += time.perf_counter() - now
# recipe: end

whole = time.perf_counter() - start
print(f"updates take {100 * updates / whole:.3f} % of the run")
print(f"loss {before:.4f} -> {float(circuit(angles)):.4f}")

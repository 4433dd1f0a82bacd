"""A Keras model on its NumPy backend, which has no gradients: its last layer is trained with gradients by hand.

Run: python examples/keras_numpy.py   (pip install keras)
"""

import os

os.environ["KERAS_BACKEND"] = "numpy"

import keras
import numpy as np

import fastopt

keras.utils.set_random_seed(0)
wide = keras.initializers.RandomNormal(stddev=1.0)
body = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(200, "tanh", True, wide, wide)])  # stays as it is
head = keras.layers.Dense(1)
rng = np.random.default_rng(0)
x = rng.standard_normal((400, 2)).astype(np.float32)
y = np.sin(x[:, :1]) * x[:, 1:]
features = np.asarray(body(x))
before = float(np.mean((np.asarray(head(features)) - y) ** 2))

# recipe: begin
kernel, bias = (variable.value for variable in head.trainable_variables)  # NumPy arrays, the layer's own
opt = fastopt.Adam([kernel, bias], lr=0.01)
for _ in range(2000):
    error = features @ kernel + bias - y
    opt.step([features.T @ error * (2 / len(x)), error.sum(axis=0) * (2 / len(x))])
# recipe: end

print(f"loss {before:.4f} -> {float(np.mean((np.asarray(head(features)) - y) ** 2)):.4f}")

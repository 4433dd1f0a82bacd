"""scikit-learn's MLPClassifier beside fastopt's: the same weights, and the processor time of a fit and of an update.

Run: python examples/sklearn_mlp.py   (pip install 'fastopt[sklearn]')
"""

import statistics
import time
import warnings

import numpy as np
from sklearn import neural_network
from threadpoolctl import threadpool_limits  # comes with scikit-learn

import fastopt.sklearn

NETS = {"scikit-learn": neural_network.MLPClassifier, "fastopt": fastopt.sklearn.MLPClassifier}


def taken(work):
    start = time.process_time()
    work()
    return time.process_time() - start


def medians(work, repeats):
    """Medians of what `work` takes for each net, taken in turns."""
    times = {name: [] for name in NETS}
    for _ in range(repeats):
        for name in NETS:
            times[name].append(taken(lambda name=name: work(name)))
    return [statistics.median(one) for one in times.values()]


def compare(solver, hidden, real, repeats):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((1000, 784)).astype(real), rng.integers(0, 10, 1000)
    nets = {name: net(hidden, solver=solver, max_iter=3, random_state=0) for name, net in NETS.items()}
    fit = medians(lambda name: nets[name].fit(x, y), repeats)

    weights = {name: net.coefs_ + net.intercepts_ for name, net in nets.items()}
    apart = max(abs(a - b).max() for a, b in zip(*weights.values(), strict=True))
    grads = [rng.standard_normal(w.shape).astype(real) * 1e-3 for w in weights["fastopt"]]
    update = medians(lambda name: nets[name]._optimizer.update_params(weights[name], grads), 20 * repeats)
    print(
        f"{solver:4}  {hidden!s:10}  {real}  fit {fit[0] * 1e3:4.0f} -> {fit[1] * 1e3:4.0f} ms ({fit[1] / fit[0]:.2f})"
        f"  update {update[0] * 1e6:5.0f} -> {update[1] * 1e6:4.0f} us ({update[1] / update[0]:.2f})"
        f"  weights apart by {apart:.0e}"
    )


def main(repeats=5):
    warnings.simplefilter("ignore")  # three passes are not to converge
    fastopt.set_num_threads(1)
    with threadpool_limits(1):
        for hidden in ((100,), (256, 128)):
            for real in ("float32", "float64"):
                for solver in ("adam", "sgd"):
                    compare(solver, hidden, real, repeats)


if __name__ == "__main__":
    main()

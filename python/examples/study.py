"""The study's NumPy program, in NumPy and with its five functions taken from kernelet.

    python examples/study.py [--hidden 1000] [--rows 10000] [--rounds 5]

runs the program with NumPy float64, NumPy float32 and kernelet in turn, some steps each, and prints
how many times as long as kernelet's step NumPy's takes: median, smallest, largest. Every run is a
process of its own: in one, the threads of NumPy's BLAS would go on waiting on the processor while
kernelet works.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
import warnings
from types import SimpleNamespace

import kernelet.study
import numpy as np


def relu(x):
    return np.maximum(x, 0, x)


def softmax(x):
    e_x = np.exp(x - np.max(x, axis=1, keepdims=True))
    return e_x / e_x.sum(axis=1, keepdims=True)


def computeLayer(X, W):
    return np.matmul(X, W)


def CE(target, prediction):
    accuracy = np.mean(np.argmax(target, axis=1) == np.argmax(prediction, axis=1)) * 100
    loss = np.multiply(
        -1 / target.shape[0], np.trace(np.matmul(np.log(prediction), np.transpose(target)))
    )
    return loss, accuracy


def gradCE(prediction, target):
    return np.subtract(prediction, target)


NUMPY = SimpleNamespace(relu=relu, softmax=softmax, computeLayer=computeLayer, CE=CE, gradCE=gradCE)


class Program:
    """The study's perceptron, its functions taken from `f`."""

    def __init__(self, f, dtype, rows, hidden):
        rng = np.random.default_rng(1)
        self.f = f
        self.x = (rng.integers(0, 256, (rows, 784)) / 255).astype(dtype)
        self.target = np.eye(10, dtype=dtype)[rng.integers(0, 10, rows)]
        scale = lambda a, b: np.sqrt(2 / (a + b))
        self.w_h = (rng.standard_normal((784, hidden)) * scale(784, hidden)).astype(dtype)
        self.b_h = np.zeros((1, hidden), dtype)
        self.w_o = (rng.standard_normal((hidden, 10)) * scale(hidden, 10)).astype(dtype)
        self.b_o = np.zeros((1, 10), dtype)
        self.velocity = [np.zeros_like(w) for w in (self.w_h, self.b_h, self.w_o, self.b_o)]

    def step(self, rate=1e-5, momentum=0.95):
        f = self.f
        h = f.relu(f.computeLayer(self.x, self.w_h) + self.b_h)
        p = f.softmax(f.computeLayer(h, self.w_o) + self.b_o)
        loss, accuracy = f.CE(self.target, p)
        delta_o = f.gradCE(p, self.target)
        delta_h = f.computeLayer(delta_o, self.w_o.T) * (h > 0)
        gradients = [
            f.computeLayer(self.x.T, delta_h),
            delta_h.sum(axis=0, keepdims=True),
            f.computeLayer(h.T, delta_o),
            delta_o.sum(axis=0, keepdims=True),
        ]
        for w, v, g in zip((self.w_h, self.b_h, self.w_o, self.b_o), self.velocity, gradients):
            v *= momentum
            v += rate * g
            w -= v
        return loss, accuracy


VERSIONS = {
    "NumPy float64": (NUMPY, np.float64),
    "NumPy float32": (NUMPY, np.float32),
    "kernelet": (kernelet.study, np.float32),
}


def run(version, options):
    """The seconds of some steps, and the last one's loss."""
    # The study's `np.maximum(x, 0, x)` is not how it is written today.
    warnings.simplefilter("ignore", DeprecationWarning)
    functions, dtype = VERSIONS[version]
    program = Program(functions, dtype, options.rows, options.hidden)
    seconds = []
    for _ in range(options.steps + 1):
        start = time.perf_counter()
        loss, _ = program.step()
        seconds.append(time.perf_counter() - start)
    # The first step takes its memory.
    return {"seconds": seconds[1:], "loss": float(loss)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5, help="steps of each version in a round")
    parser.add_argument("--only", choices=VERSIONS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(run(options.only, options)))
        return
    medians = {name: [] for name in VERSIONS}
    for _ in range(options.rounds):
        for name in VERSIONS:
            command = [sys.executable, *sys.argv, "--only", name]
            result = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
            medians[name].append(statistics.median(result["seconds"]))
            if len(medians[name]) == 1:
                print(f"{name}: loss {result['loss']:.5f} after {options.steps + 1} steps")
    print(f"{options.hidden} hidden units, {options.rows} images, {options.rounds} rounds:")
    for name, times in medians.items():
        ratios = [time / own for time, own in zip(times, medians["kernelet"])]
        print(
            f"  {name:14}{1e3 * statistics.median(times):8.1f} ms, "
            f"{statistics.median(ratios):.2f} times kernelet's "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()

"""The study's NumPy program, in NumPy and with its five functions taken from kernelet.

    python examples/study.py [--hidden 1000] [--rows 10000] [--rounds 5]

runs single steps of the three versions in turn, NumPy float32, NumPy float64, kernelet float32, and
prints how many times as long as kernelet's step NumPy's takes: median, smallest, largest.
"""

import argparse
import statistics
import time
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
        self.x = rng.random((rows, 784)).astype(dtype)
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    programs = {
        "NumPy float64": Program(NUMPY, np.float64, options.rows, options.hidden),
        "NumPy float32": Program(NUMPY, np.float32, options.rows, options.hidden),
        "kernelet": Program(kernelet.study, np.float32, options.rows, options.hidden),
    }
    seconds = {name: [] for name in programs}
    for round in range(options.rounds + 1):
        for name, program in programs.items():
            start = time.perf_counter()
            loss, _ = program.step()
            elapsed = time.perf_counter() - start
            if round == 0:  # The first step takes its memory.
                print(f"{name}: loss {loss:.5f}")
            else:
                seconds[name].append(elapsed)
    print(f"{options.hidden} hidden units, {options.rows} images, {options.rounds} rounds:")
    for name, times in seconds.items():
        ratios = [time / own for time, own in zip(times, seconds["kernelet"])]
        print(
            f"  {name:14}{1e3 * statistics.median(times):8.1f} ms, "
            f"{statistics.median(ratios):.2f} times kernelet's "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()

"""Works in NumPy, as somebody in a hurry writes them: in place, into arrays made beforehand, nothing kept twice."""

from types import SimpleNamespace

import numpy as np
from common import (
    BETA_1,
    BETA_2,
    EPSILON_ADAM,
    EPSILON_BATCH_NORM,
    MOMENTUM,
    RATE_EPOCH,
    RATE_MOMENTUM,
    Work,
    adam_rate,
)


def softmax(z, p) -> None:
    """p = softmax of the rows of z; p may be z."""
    np.subtract(z, z.max(axis=1, keepdims=True), out=p)
    np.exp(p, out=p)
    p /= p.sum(axis=1, keepdims=True)


def momentum_step(w, v, g, rate, scratch) -> None:
    """v = 0.95 v + rate g, w = w - v."""
    v *= MOMENTUM
    np.multiply(g, rate, out=scratch)
    v += scratch
    w -= v


def column_sums(x, ones):
    """The sums of x's columns: a matrix product, as NumPy's own sum walks narrow rows one by one."""
    return ones @ x


class Works:
    """`numpy` in float32; `numpy64` in float64, as the study computes."""

    def __init__(self, name: str, threads: int) -> None:
        self._type = np.float64 if name == "numpy64" else np.float32

    def version(self) -> str:
        blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        return f"numpy {np.__version__}, {blas['name']} {blas['version']}"

    def unsupported(self, work: str) -> str | None:
        return None if hasattr(self, work) else "NumPy has no convolution and no pooling."

    def _load(self, inputs, *names):
        return [np.ascontiguousarray(inputs[name], dtype=self._type) for name in names]

    def gemm(self, spec, inputs) -> Work:
        a, b = self._load(inputs, "a", "b")
        a = a.T if spec["a_transposed"] else a
        b = b.T if spec["b_transposed"] else b
        c = np.empty((spec["m"], spec["n"]), self._type)
        return Work(lambda: np.matmul(a, b, out=c), lambda c: {"c": c})

    def linear_relu(self, spec, inputs) -> Work:
        x, w, b = self._load(inputs, "x", "w", "b")
        y = np.empty((spec["rows"], spec["outputs"]), self._type)

        def run():
            np.matmul(x, w, out=y)
            np.add(y, b, out=y)
            return np.maximum(y, 0, out=y)

        return Work(run, lambda y: {"y": y})

    def softmax(self, spec, inputs) -> Work:
        (z,) = self._load(inputs, "z")
        p = np.empty_like(z)

        def run():
            softmax(z, p)
            return p

        return Work(run, lambda p: {"p": p})

    def softmax_cross_entropy(self, spec, inputs) -> Work:
        (z,) = self._load(inputs, "z")
        rows = np.arange(spec["rows"])
        labels = inputs["labels"].astype(np.intp)
        p = np.empty_like(z)

        def run():
            np.subtract(z, z.max(axis=1, keepdims=True), out=p)
            of_label = p[rows, labels]
            np.exp(p, out=p)
            total = p.sum(axis=1, keepdims=True)
            loss = np.mean(np.log(total[:, 0]) - of_label)
            # The mean's 1 / rows goes into the division that is needed anyway.
            np.divide(p, total * len(rows), out=p)
            p[rows, labels] -= 1 / len(rows)
            return loss, p

        return Work(run, lambda result: {"loss": result[0], "dz": result[1]})

    def relu(self, spec, inputs) -> Work:
        (x,) = self._load(inputs, "x")
        y = np.empty_like(x)
        return Work(lambda: np.maximum(x, 0, out=y), lambda y: {"y": y})

    def exp(self, spec, inputs) -> Work:
        (x,) = self._load(inputs, "x")
        y = np.empty_like(x)
        return Work(lambda: np.exp(x, out=y), lambda y: {"y": y})

    def momentum(self, spec, inputs) -> Work:
        w, v, g = self._load(inputs, "w", "v", "g")
        scratch = np.empty_like(w)
        return Work(lambda: momentum_step(w, v, g, RATE_MOMENTUM, scratch), lambda _: {"w": w, "v": v})

    def adam(self, spec, inputs) -> Work:
        w, g = self._load(inputs, "w", "g")
        m, v, scratch = np.zeros_like(w), np.zeros_like(w), np.empty_like(w)
        state = SimpleNamespace(step=0)

        def run():
            state.step += 1
            np.multiply(g, 1 - BETA_1, out=scratch)
            np.multiply(m, BETA_1, out=m)
            np.add(m, scratch, out=m)
            np.multiply(g, g, out=scratch)
            np.multiply(scratch, 1 - BETA_2, out=scratch)
            np.multiply(v, BETA_2, out=v)
            np.add(v, scratch, out=v)
            np.sqrt(v, out=scratch)
            np.add(scratch, EPSILON_ADAM, out=scratch)
            np.divide(m, scratch, out=scratch)
            np.multiply(scratch, adam_rate(state.step), out=scratch)
            np.subtract(w, scratch, out=w)

        return Work(run, lambda _: {"w": w, "m": m, "v": v})

    def relu_batch_norm(self, spec, inputs) -> Work:
        (x,) = self._load(inputs, "x")
        y, scratch = np.empty_like(x), np.empty_like(x)
        means = np.full(len(x), 1 / len(x), self._type)

        def run():
            np.maximum(x, 0, out=y)
            np.subtract(y, column_sums(y, means), out=y)
            np.multiply(y, y, out=scratch)
            variance = column_sums(scratch, means)
            return np.multiply(y, 1 / np.sqrt(variance + EPSILON_BATCH_NORM), out=y)

        return Work(run, lambda y: {"y": y})

    def relu_batch_norm_backward(self, spec, inputs) -> Work:
        x, dy = self._load(inputs, "x", "dy")
        positive = x > 0
        y = np.maximum(x, 0)
        y -= y.mean(axis=0)
        scale = 1 / np.sqrt((y * y).mean(axis=0) + EPSILON_BATCH_NORM)
        y *= scale
        dx = np.empty_like(x)
        means = np.full(len(x), 1 / len(x), self._type)

        def run():
            # dx = scale (dy - mean(dy) - y mean(dy y)) where x > 0
            np.multiply(dy, y, out=dx)
            np.multiply(y, -column_sums(dx, means), out=dx)
            np.add(dx, dy, out=dx)
            np.subtract(dx, column_sums(dy, means), out=dx)
            np.multiply(dx, scale, out=dx)
            return np.multiply(dx, positive, out=dx)

        return Work(run, lambda dx: {"dx": dx})

    def mlp_epoch(self, spec, inputs) -> Work:
        splits = [self._split(inputs, name, spec["hidden"]) for name in ("train", "valid", "test")]
        weights = self._load(inputs, "w_h", "b_h", "w_o", "b_o")
        velocities = [np.zeros_like(w) for w in weights]
        gradients = [np.empty_like(w) for w in weights]
        scratches = [np.empty_like(w) for w in weights]

        def run():
            train, valid, test = splits
            figures = [self._forward(train, weights)]
            self._backward(train, weights, gradients)
            for w, v, g, scratch in zip(weights, velocities, gradients, scratches, strict=True):
                momentum_step(w, v, g, RATE_EPOCH, scratch)
            figures += [self._forward(valid, weights), self._forward(test, weights)]
            return figures

        def outputs(figures):
            return {"losses": [loss for loss, _ in figures], "w_h": weights[0], "w_o": weights[2]}

        return Work(run, outputs)

    def _split(self, inputs, name: str, hidden: int) -> SimpleNamespace:
        """A split's images, labels and room for what the network makes of them."""
        (x,) = self._load(inputs, f"x_{name}")
        labels = inputs[f"y_{name}"].astype(np.intp)
        rows = len(x)
        return SimpleNamespace(
            x=x,
            labels=labels,
            rows=np.arange(rows),
            ones=np.ones(rows, self._type),
            hidden=np.empty((rows, hidden), self._type),
            delta_hidden=np.empty((rows, hidden), self._type) if name == "train" else None,
            active=np.empty((rows, hidden), bool) if name == "train" else None,
            p=np.empty((rows, 10), self._type),
        )

    @staticmethod
    def _forward(split, weights) -> tuple[float, float]:
        """The split's loss and accuracy; leaves the hidden activations and probabilities in it."""
        w_h, b_h, w_o, b_o = weights
        h, p = split.hidden, split.p
        np.matmul(split.x, w_h, out=h)
        np.add(h, b_h, out=h)
        np.maximum(h, 0, out=h)
        np.matmul(h, w_o, out=p)
        np.add(p, b_o, out=p)
        softmax(p, p)
        loss = -np.mean(np.log(p[split.rows, split.labels] + 1e-30))
        accuracy = 100 * np.mean(p.argmax(axis=1) == split.labels)
        return loss, accuracy

    @staticmethod
    def _backward(split, weights, gradients) -> None:
        """The gradients of the losses' sum, after `_forward`."""
        h, delta, delta_hidden = split.hidden, split.p, split.delta_hidden
        delta[split.rows, split.labels] -= 1
        dw_h, db_h, dw_o, db_o = gradients
        np.matmul(h.T, delta, out=dw_o)
        np.matmul(split.ones, delta, out=db_o)
        np.matmul(delta, weights[2].T, out=delta_hidden)
        np.greater(h, 0, out=split.active)
        np.multiply(delta_hidden, split.active, out=delta_hidden)
        np.matmul(split.x.T, delta_hidden, out=dw_h)
        np.matmul(split.ones, delta_hidden, out=db_h)

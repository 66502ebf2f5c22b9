"""Works in JAX, each one jitted function; optimisers give their weights away, so that XLA updates them in place.

Backwards are the jitted vjp of the forward, given what the forward left for it.
"""

import jax
import jax.numpy as jnp
import numpy as np
from common import (
    BETA_1,
    BETA_2,
    EPSILON_ADAM,
    EPSILON_BATCH_NORM,
    MOMENTUM,
    RATE_ADAM,
    RATE_EPOCH,
    RATE_MOMENTUM,
    Work,
)
from jax import lax


def conv(x, w, b):
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")) + b


def relu_batch_norm(x):
    """Over all axes but the last, in one pass over x for both moments."""
    axes = tuple(range(x.ndim - 1))
    x = jnp.maximum(x, 0)
    mean = x.mean(axes)
    variance = (x * x).mean(axes) - mean * mean
    return (x - mean) * lax.rsqrt(variance + EPSILON_BATCH_NORM)


@jax.custom_vjp
def max_pool(x):
    """As four maxima, whose backward is several times as fast as that of lax.reduce_window on a CPU."""
    above = jnp.maximum(x[:, ::2, ::2], x[:, ::2, 1::2])
    return jnp.maximum(above, jnp.maximum(x[:, 1::2, ::2], x[:, 1::2, 1::2]))


def max_pool_backward(x, dy):
    """dy to the first of each window's largest elements."""
    n, h, w, c = x.shape
    windows = x.reshape(n, h // 2, 2, w // 2, 2, c)
    largest = windows.transpose(0, 1, 3, 2, 4, 5).reshape(n, h // 2, w // 2, 4, c).argmax(3)
    places = jnp.arange(4).reshape(2, 1, 2, 1)
    chosen = largest[:, :, None, :, None] == places
    return (jnp.where(chosen, dy[:, :, None, :, None], 0).reshape(x.shape),)


max_pool.defvjp(lambda x: (max_pool(x), x), max_pool_backward)


def conv_block(x, w, b):
    return max_pool(relu_batch_norm(conv(x, w, b)))


def cross_entropy(z, labels):
    """The mean; a sum over one-hot labels, as a gather's gradient is a scatter."""
    return -(jax.nn.log_softmax(z) * jax.nn.one_hot(labels, z.shape[1])).sum() / len(z)


def adam(w, g, m, v, step):
    """w, m and v after step number `step`."""
    m = BETA_1 * m + (1 - BETA_1) * g
    v = BETA_2 * v + (1 - BETA_2) * g * g
    rate = RATE_ADAM * jnp.sqrt(1 - BETA_2**step) / (1 - BETA_1**step)
    return w - rate * m / (jnp.sqrt(v) + EPSILON_ADAM), m, v


def stateless(function, arguments, outputs) -> Work:
    function = jax.jit(function)
    return Work(lambda: jax.block_until_ready(function(*arguments)), outputs)


def backward(function, arguments, dy, outputs) -> Work:
    """The gradients of a function's arguments for dy."""
    _, vjp = jax.jit(lambda *arguments: jax.vjp(function, *arguments))(*arguments)
    return stateless(lambda vjp, dy: vjp(dy), (vjp, dy), outputs)


def stateful(function, state, arguments, outputs) -> Work:
    """function(state, *arguments) gives the next state and more; the old state's memory is given away."""
    function = jax.jit(function, donate_argnums=0)

    def run():
        nonlocal state
        state, more = jax.block_until_ready(function(state, *arguments))
        return more

    return Work(run, lambda more: outputs(state, more))


class Works:
    def __init__(self, name: str, threads: int) -> None:
        pass

    def version(self) -> str:
        return f"jax {jax.__version__}, jaxlib {jax.lib.__version__}"

    def unsupported(self, work: str) -> str | None:
        return None

    @staticmethod
    def _load(inputs, *names):
        # Copies: memory that NumPy owns could not be given away.
        return [jnp.array(inputs[name]) for name in names]

    def gemm(self, spec, inputs) -> Work:
        def multiply(a, b):
            return (a.T if spec["a_transposed"] else a) @ (b.T if spec["b_transposed"] else b)

        return stateless(multiply, self._load(inputs, "a", "b"), lambda c: {"c": c})

    def linear_relu(self, spec, inputs) -> Work:
        arguments = self._load(inputs, "x", "w", "b")
        return stateless(lambda x, w, b: jnp.maximum(x @ w + b, 0), arguments, lambda y: {"y": y})

    def softmax(self, spec, inputs) -> Work:
        return stateless(jax.nn.softmax, self._load(inputs, "z"), lambda p: {"p": p})

    def softmax_cross_entropy(self, spec, inputs) -> Work:
        arguments = self._load(inputs, "z", "labels")
        return stateless(
            jax.value_and_grad(cross_entropy), arguments, lambda result: {"loss": result[0], "dz": result[1]}
        )

    def relu(self, spec, inputs) -> Work:
        return stateless(lambda x: jnp.maximum(x, 0), self._load(inputs, "x"), lambda y: {"y": y})

    def exp(self, spec, inputs) -> Work:
        return stateless(jnp.exp, self._load(inputs, "x"), lambda y: {"y": y})

    def momentum(self, spec, inputs) -> Work:
        w, v, g = self._load(inputs, "w", "v", "g")

        def step(state, g):
            w, v = state
            v = MOMENTUM * v + RATE_MOMENTUM * g
            return (w - v, v), ()

        return stateful(step, (w, v), (g,), lambda state, _: {"w": state[0], "v": state[1]})

    def adam(self, spec, inputs) -> Work:
        w, g = self._load(inputs, "w", "g")

        def step(state, g):
            *state, count = state
            w, m, v = state
            count += 1
            return (*adam(w, g, m, v, count), count), ()

        start = (w, jnp.zeros_like(w), jnp.zeros_like(w), jnp.array(0.0))
        return stateful(step, start, (g,), lambda state, _: dict(zip("wmv", state, strict=False)))

    def conv2d(self, spec, inputs) -> Work:
        return stateless(conv, self._load(inputs, "x", "w", "b"), lambda y: {"y": y})

    def conv2d_backward(self, spec, inputs) -> Work:
        x, w, dy = self._load(inputs, "x", "w", "dy")
        b = jnp.zeros(spec["outputs"])
        if spec["inputs"] > 1:
            return backward(conv, (x, w, b), dy, lambda d: dict(zip(("dx", "dw", "db"), d, strict=True)))
        return backward(lambda w, b: conv(x, w, b), (w, b), dy, lambda d: dict(zip(("dw", "db"), d, strict=True)))

    def relu_batch_norm(self, spec, inputs) -> Work:
        return stateless(relu_batch_norm, self._load(inputs, "x"), lambda y: {"y": y})

    def relu_batch_norm_backward(self, spec, inputs) -> Work:
        x, dy = self._load(inputs, "x", "dy")
        return backward(relu_batch_norm, (x,), dy, lambda d: {"dx": d[0]})

    def max_pool(self, spec, inputs) -> Work:
        return stateless(max_pool, self._load(inputs, "x"), lambda y: {"y": y})

    def avg_pool(self, spec, inputs) -> Work:
        def pool(x):
            rows = x[:, ::2] + x[:, 1::2]
            return (rows[:, :, ::2] + rows[:, :, 1::2]) * 0.25

        return stateless(pool, self._load(inputs, "x"), lambda y: {"y": y})

    def max_pool_backward(self, spec, inputs) -> Work:
        x, dy = self._load(inputs, "x", "dy")
        return backward(max_pool, (x,), dy, lambda d: {"dx": d[0]})

    def conv_block(self, spec, inputs) -> Work:
        def block(x, w, b, dy):
            y, vjp = jax.vjp(lambda w, b: conv_block(x, w, b), w, b)
            return y, *vjp(dy)

        arguments = self._load(inputs, "x", "w", "b", "dy")
        return stateless(block, arguments, lambda result: dict(zip(("y", "dw", "db"), result, strict=True)))

    def mlp_epoch(self, spec, inputs) -> Work:
        splits = [self._load(inputs, f"x_{name}", f"y_{name}") for name in ("train", "valid", "test")]
        weights = self._load(inputs, "w_h", "b_h", "w_o", "b_o")
        # The losses' mean has the gradient of their sum divided by the images.
        rate = RATE_EPOCH * len(splits[0][0])

        def figures(weights, x, labels):
            w_h, b_h, w_o, b_o = weights
            z = jnp.maximum(x @ w_h + b_h, 0) @ w_o + b_o
            return cross_entropy(z, labels), 100 * jnp.mean(z.argmax(1) == labels)

        def epoch(state, train, valid, test):
            weights, velocities = state
            of_train, gradients = jax.value_and_grad(figures, has_aux=True)(weights, *train)
            velocities = [MOMENTUM * v + rate * g for v, g in zip(velocities, gradients, strict=True)]
            weights = [w - v for w, v in zip(weights, velocities, strict=True)]
            return (weights, velocities), (of_train, figures(weights, *valid), figures(weights, *test))

        def outputs(state, figures):
            (w_h, _, w_o, _), _ = state
            return {"losses": [loss for loss, _ in figures], "w_h": w_h, "w_o": w_o}

        start = (weights, [jnp.zeros_like(w) for w in weights])
        return stateful(epoch, start, splits, outputs)

    def cnn_step(self, spec, inputs) -> Work:
        x, labels, *weights = self._load(inputs, "x", "labels", "w0", "b0", "w1", "b1", "w2", "b2")

        def loss_of(weights, x, labels):
            w0, b0, w1, b1, w2, b2 = weights
            features = conv_block(x, w0, b0).reshape(len(x), -1)
            return cross_entropy(jnp.maximum(features @ w1 + b1, 0) @ w2 + b2, labels)

        def step(state, x, labels):
            parameters, count = state
            count += 1
            loss, gradients = jax.value_and_grad(loss_of)([w for w, _, _ in parameters], x, labels)
            parameters = [adam(w, g, m, v, count) for (w, m, v), g in zip(parameters, gradients, strict=True)]
            return (parameters, count), loss

        def outputs(state, loss):
            (w0, *_), _, _, _, (w2, *_), _ = state[0]
            return {"loss": np.asarray(loss), "w0": w0, "w2": w2}

        start = ([(w, jnp.zeros_like(w), jnp.zeros_like(w)) for w in weights], jnp.array(0.0))
        return stateful(step, start, (x, labels), outputs)

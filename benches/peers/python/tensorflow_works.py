"""Works in TensorFlow: graphs by tf.function, or compiled by XLA (`tensorflow-xla`).

On a CPU a call returns when its results are there, so nothing more forces them.
"""

import time

import numpy as np
import tensorflow as tf
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

raw = tf.raw_ops

STRIDES = [1, 1, 1, 1]
POOL = [1, 2, 2, 1]


def conv(x, w, b):
    return tf.nn.bias_add(tf.nn.conv2d(x, w, STRIDES, "SAME"), b)


def normal_fused(x):
    """Batch norm over all axes but the last, by TensorFlow's own kernel: y and what its backward needs."""
    channels = x.shape[-1]
    y, _, _, *saved = raw.FusedBatchNormV3(
        x=x,
        scale=tf.ones(channels),
        offset=tf.zeros(channels),
        mean=[],
        variance=[],
        epsilon=EPSILON_BATCH_NORM,
        exponential_avg_factor=1.0,
        is_training=True,
    )
    return y, saved


def normal_plain(x):
    """Batch norm of formulas, which XLA makes one kernel of; by rows, as it is slow over three axes."""
    rows = tf.reshape(x, [-1, x.shape[-1]])
    mean, variance = tf.nn.moments(rows, [0])
    rows = tf.nn.batch_normalization(rows, mean, variance, None, None, EPSILON_BATCH_NORM)
    return tf.reshape(rows, x.shape)


def max_pool(x):
    return tf.nn.max_pool2d(x, 2, 2, "SAME")


def plain_max_pool_backward(x, dy):
    """dy to the first of each window's largest elements."""
    n, h, w, c = x.shape
    windows = tf.transpose(tf.reshape(x, [n, h // 2, 2, w // 2, 2, c]), [0, 1, 3, 2, 4, 5])
    largest = tf.argmax(tf.reshape(windows, [n, h // 2, w // 2, 4, c]), axis=3, output_type=tf.int32)
    chosen = largest[:, :, None, :, None] == tf.reshape(tf.range(4), [2, 1, 2, 1])
    return tf.reshape(tf.where(chosen, dy[:, :, None, :, None], 0.0), x.shape)


@tf.custom_gradient
def max_pool_plain(x):
    """Pooling whose backward XLA compiles to something faster than its own."""
    return max_pool(x), lambda dy: plain_max_pool_backward(x, dy)


def best(run, times: int = 3) -> float:
    """Seconds of the fastest of a few runs, after one that builds."""
    run()
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


class Works:
    def __init__(self, name: str, threads: int) -> None:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        # In the caller's thread: handing a graph over to another costs more than small works.
        tf.config.threading.set_inter_op_parallelism_threads(-1)
        self._xla = name == "tensorflow-xla"

    def version(self) -> str:
        return f"tensorflow {tf.__version__}"

    def unsupported(self, work: str) -> str | None:
        return None

    @staticmethod
    def _load(inputs, *names):
        return [tf.constant(inputs[name]) for name in names]

    @staticmethod
    def _labels(inputs, name: str):
        return tf.constant(inputs[name].astype(np.int32))

    def _graph(self, function):
        return tf.function(function, jit_compile=self._xla, autograph=False)

    def _stateless(self, function, arguments, outputs) -> Work:
        """A graph; without XLA the operators one by one if that is faster: a graph's call costs a fraction of a
        millisecond more."""
        graph = self._graph(function)
        runs = [lambda: graph(*arguments)]
        if not self._xla:
            runs.append(lambda: function(*arguments))
        return Work(min(runs, key=best) if len(runs) > 1 else runs[0], outputs)

    def gemm(self, spec, inputs) -> Work:
        def multiply(a, b):
            return tf.matmul(a, b, transpose_a=spec["a_transposed"], transpose_b=spec["b_transposed"])

        return self._stateless(multiply, self._load(inputs, "a", "b"), lambda c: {"c": c})

    def linear_relu(self, spec, inputs) -> Work:
        def layer(x, w, b):
            return tf.nn.relu(tf.nn.bias_add(tf.matmul(x, w), b))

        return self._stateless(layer, self._load(inputs, "x", "w", "b"), lambda y: {"y": y})

    def softmax(self, spec, inputs) -> Work:
        return self._stateless(lambda z: raw.Softmax(logits=z), self._load(inputs, "z"), lambda p: {"p": p})

    def softmax_cross_entropy(self, spec, inputs) -> Work:
        (z,) = self._load(inputs, "z")
        target = tf.one_hot(self._labels(inputs, "labels"), spec["classes"])

        def both(z, target):
            # One kernel gives the losses and their gradients.
            losses, dz = raw.SoftmaxCrossEntropyWithLogits(features=z, labels=target)
            return tf.reduce_mean(losses), dz * (1 / spec["rows"])

        return self._stateless(both, (z, target), lambda result: {"loss": result[0], "dz": result[1]})

    def relu(self, spec, inputs) -> Work:
        return self._stateless(lambda x: raw.Relu(features=x), self._load(inputs, "x"), lambda y: {"y": y})

    def exp(self, spec, inputs) -> Work:
        return self._stateless(lambda x: raw.Exp(x=x), self._load(inputs, "x"), lambda y: {"y": y})

    def momentum(self, spec, inputs) -> Work:
        w, v, g = self._load(inputs, "w", "v", "g")
        # TensorFlow's v is what is added.
        w, v = tf.Variable(w), tf.Variable(-v)

        def step(g):
            self._momentum_step(w, v, g, RATE_MOMENTUM)

        # One operator: a graph around it would only add its call.
        step = self._graph(step) if self._xla else step
        return Work(lambda: step(g), lambda _: {"w": w, "v": -v})

    @staticmethod
    def _momentum_step(w, v, g, rate) -> None:
        raw.ResourceApplyKerasMomentum(var=w.handle, accum=v.handle, lr=rate, grad=g, momentum=MOMENTUM)

    def adam(self, spec, inputs) -> Work:
        w, g = self._load(inputs, "w", "g")
        w = tf.Variable(w)
        optimiser = Adam([w])
        step = optimiser.step
        step = self._graph(step) if self._xla else step
        return Work(lambda: step([g]), lambda _: {"w": w, "m": optimiser.m[0], "v": optimiser.v[0]})

    def conv2d(self, spec, inputs) -> Work:
        return self._stateless(conv, self._load(inputs, "x", "w", "b"), lambda y: {"y": y})

    def conv2d_backward(self, spec, inputs) -> Work:
        def backward(x, w, dy):
            options = {"out_backprop": dy, "strides": STRIDES, "padding": "SAME"}
            gradients = {
                "dw": raw.Conv2DBackpropFilter(input=x, filter_sizes=w.shape, **options),
                "db": raw.BiasAddGrad(out_backprop=dy),
            }
            if spec["inputs"] > 1:
                gradients["dx"] = raw.Conv2DBackpropInput(input_sizes=x.shape, filter=w, **options)
            return gradients

        return self._stateless(backward, self._load(inputs, "x", "w", "dy"), lambda gradients: gradients)

    def _normal(self, x):
        return normal_plain(x) if self._xla else normal_fused(x)[0]

    def _rows(self, inputs, name: str):
        """Rows as the pixels of one image."""
        array = inputs[name]
        return tf.constant(array.reshape(1, len(array), 1, -1))

    def relu_batch_norm(self, spec, inputs) -> Work:
        x = self._rows(inputs, "x")
        return self._stateless(lambda x: self._normal(tf.nn.relu(x)), (x,), lambda y: {"y": y[0, :, 0]})

    def relu_batch_norm_backward(self, spec, inputs) -> Work:
        x, dy = self._rows(inputs, "x"), self._rows(inputs, "dy")
        positive = tf.nn.relu(x)
        _, saved = normal_fused(positive)
        scale = tf.ones(spec["channels"])

        def backward(dy, positive, mean, variance, more):
            d_positive, *_ = raw.FusedBatchNormGradV3(
                y_backprop=dy,
                x=positive,
                scale=scale,
                reserve_space_1=mean,
                reserve_space_2=variance,
                reserve_space_3=more,
                epsilon=EPSILON_BATCH_NORM,
                is_training=True,
            )
            return raw.ReluGrad(gradients=d_positive, features=positive)

        return self._stateless(backward, (dy, positive, *saved), lambda dx: {"dx": dx[0, :, 0]})

    def max_pool(self, spec, inputs) -> Work:
        return self._stateless(max_pool, self._load(inputs, "x"), lambda y: {"y": y})

    def avg_pool(self, spec, inputs) -> Work:
        return self._stateless(
            lambda x: tf.nn.avg_pool2d(x, 2, 2, "SAME"), self._load(inputs, "x"), lambda y: {"y": y}
        )

    def max_pool_backward(self, spec, inputs) -> Work:
        x, dy = self._load(inputs, "x", "dy")
        if self._xla:
            return self._stateless(plain_max_pool_backward, (x, dy), lambda dx: {"dx": dx})
        options = {"ksize": POOL, "strides": POOL, "padding": "SAME"}
        _, places = raw.MaxPoolWithArgmax(input=x, **options)

        def backward(x, dy, places):
            # With the forward's places: MaxPoolGrad, which finds them again, takes six times as long.
            return raw.MaxPoolGradWithArgmax(input=x, grad=dy, argmax=places, **options)

        return self._stateless(backward, (x, dy, places), lambda dx: {"dx": dx})

    def _block(self, x, w, b):
        """Convolution, ReLU, batch norm, max pool."""
        pool = max_pool_plain if self._xla else max_pool
        return pool(self._normal(tf.nn.relu(conv(x, w, b))))

    def conv_block(self, spec, inputs) -> Work:
        def block(x, w, b, dy):
            with tf.GradientTape() as tape:
                tape.watch([w, b])
                y = self._block(x, w, b)
            dw, db = tape.gradient(y, [w, b], dy)
            return {"y": y, "dw": dw, "db": db}

        return self._stateless(block, self._load(inputs, "x", "w", "b", "dy"), lambda result: result)

    def mlp_epoch(self, spec, inputs) -> Work:
        names = ("train", "valid", "test")
        splits = [(*self._load(inputs, f"x_{name}"), self._labels(inputs, f"y_{name}")) for name in names]
        weights = [tf.Variable(w) for w in self._load(inputs, "w_h", "b_h", "w_o", "b_o")]
        velocities = [tf.Variable(tf.zeros_like(w)) for w in weights]
        # The losses' mean has the gradient of their sum divided by the images.
        rate = RATE_EPOCH * len(splits[0][0])

        def figures(x, labels):
            w_h, b_h, w_o, b_o = weights
            h = tf.nn.relu(tf.nn.bias_add(tf.matmul(x, w_h), b_h))
            z = tf.nn.bias_add(tf.matmul(h, w_o), b_o)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, z))
            right = tf.argmax(z, axis=1, output_type=tf.int32) == labels
            return loss, 100 * tf.reduce_mean(tf.cast(right, tf.float32))

        def epoch(train, valid, test):
            with tf.GradientTape() as tape:
                of_train = figures(*train)
            gradients = tape.gradient(of_train[0], weights)
            for w, v, g in zip(weights, velocities, gradients, strict=True):
                self._momentum_step(w, v, g, rate)
            return of_train, figures(*valid), figures(*test)

        def outputs(figures):
            w_h, _, w_o, _ = weights
            return {"losses": [loss for loss, _ in figures], "w_h": w_h, "w_o": w_o}

        epoch = self._graph(epoch)
        return Work(lambda: epoch(*splits), outputs)

    def cnn_step(self, spec, inputs) -> Work:
        (x,) = self._load(inputs, "x")
        labels = self._labels(inputs, "labels")
        weights = [tf.Variable(w) for w in self._load(inputs, "w0", "b0", "w1", "b1", "w2", "b2")]
        optimiser = Adam(weights)

        def step(x, labels):
            w0, b0, w1, b1, w2, b2 = weights
            with tf.GradientTape() as tape:
                features = tf.reshape(self._block(x, w0, b0), [spec["images"], -1])
                h = tf.nn.relu(tf.nn.bias_add(tf.matmul(features, w1), b1))
                z = tf.nn.bias_add(tf.matmul(h, w2), b2)
                loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, z))
            optimiser.step(tape.gradient(loss, weights))
            return loss

        step = self._graph(step)
        return Work(lambda: step(x, labels), lambda loss: {"loss": loss, "w0": weights[0], "w2": weights[4]})


class Adam:
    """Adam by TensorFlow's operator, which updates a variable and its moments in one pass."""

    def __init__(self, weights) -> None:
        self.weights = weights
        self.m = [tf.Variable(tf.zeros_like(w)) for w in weights]
        self.v = [tf.Variable(tf.zeros_like(w)) for w in weights]
        self.power_1 = tf.Variable(BETA_1)
        self.power_2 = tf.Variable(BETA_2)

    def step(self, gradients) -> None:
        for w, m, v, g in zip(self.weights, self.m, self.v, gradients, strict=True):
            raw.ResourceApplyAdam(
                var=w.handle,
                m=m.handle,
                v=v.handle,
                beta1_power=self.power_1,
                beta2_power=self.power_2,
                lr=RATE_ADAM,
                beta1=BETA_1,
                beta2=BETA_2,
                epsilon=EPSILON_ADAM,
                grad=g,
            )
        self.power_1.assign(self.power_1 * BETA_1)
        self.power_2.assign(self.power_2 * BETA_2)

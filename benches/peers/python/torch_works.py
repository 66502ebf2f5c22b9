"""Works in PyTorch: eager, with fused optimisers, with images channels-last, and compiled by inductor.

Forwards run in inference mode and into tensors made beforehand where PyTorch offers it. Backwards call the operators
that autograd would call, with what a forward would have saved. Whole steps are written with autograd.
"""

from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
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
    adam_rate,
)

aten = torch.ops.aten

OPTIMISERS = {"momentum", "adam"}
STEPS = {"mlp_epoch", "cnn_step"}
IMAGES = {"conv2d", "conv2d_backward", "max_pool", "max_pool_backward", "avg_pool", "conv_block", "cnn_step"}
BATCH_NORM = {"relu_batch_norm", "relu_batch_norm_backward"}
SAME_COMPILED = {"gemm", "conv2d", "conv2d_backward"}

EPSILON_ADAM_CORRECTED = EPSILON_ADAM / (1 - BETA_2) ** 0.5
"""PyTorch adds epsilon to the root of the corrected moment, the protocol to the plain one's: the same in step 1."""


def images(array: np.ndarray, channels_last: bool) -> torch.Tensor:
    """A tensor (n, c, h, w) of an array (n, h, w, c)."""
    return laid_out(torch.from_numpy(array).permute(0, 3, 1, 2), channels_last)


def filters(array: np.ndarray, channels_last: bool) -> torch.Tensor:
    """A tensor (out, in, h, w) of an array (h, w, in, out)."""
    return laid_out(torch.from_numpy(array).permute(3, 2, 0, 1), channels_last)


def laid_out(tensor: torch.Tensor, channels_last: bool) -> torch.Tensor:
    """A copy with the strides of the layout, also where only one channel leaves them open: PyTorch goes by them."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(tensor.shape, memory_format=layout).copy_(tensor)


def nhwc(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().permute(0, 2, 3, 1).numpy()


def hwio(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().permute(2, 3, 1, 0).numpy()


def array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy()


def labels_of(inputs, name: str) -> torch.Tensor:
    return torch.from_numpy(inputs[name].astype(np.int64))


class Works:
    """`torch-MODE`: eager, fused, channels-last or compile."""

    def __init__(self, name: str, threads: int) -> None:
        torch.set_num_threads(threads)
        torch.set_num_interop_threads(1)
        # As TensorFlow does; before the threads start, which inherit it.
        torch.set_flush_denormal(True)
        self._mode = name.removeprefix("torch-")
        self._fused = self._mode != "eager"
        self._compiled = self._mode == "compile"
        self._channels_last = self._mode in ("channels-last", "compile")

    def version(self) -> str:
        libraries = torch.__config__.show().splitlines()
        mkl = next((line for line in libraries if "Math Kernel Library" in line), "")
        words = mkl.replace("(R)", "").split()
        blas = f", MKL {words[words.index('Version') + 1].split('-')[0]}" if "Version" in words else ""
        return f"torch {torch.__version__}{blas}"

    def unsupported(self, work: str) -> str | None:
        if self._mode == "fused" and work not in OPTIMISERS | STEPS:
            return "torch-fused differs from torch-eager in its optimisers only."
        if self._mode == "channels-last" and work not in IMAGES | BATCH_NORM:
            return "The work has no images: torch-channels-last is torch-eager here, or torch-fused."
        if self._compiled and work in SAME_COMPILED:
            return "Inductor calls the kernel that torch-eager or torch-channels-last calls."
        return None

    def _compile(self, function):
        """The function as the mode runs it."""
        if not self._compiled:
            return function
        # Earlier works' shapes would count against the limit past which PyTorch runs a function eagerly.
        torch.compiler.reset()
        return torch.compile(function, dynamic=False)

    def _forward(self, function, *arguments):
        """A run of a function that needs no gradients."""
        function = self._compile(function)

        def run():
            with torch.inference_mode():
                return function(*arguments)

        return run

    def gemm(self, spec, inputs) -> Work:
        a, b = torch.from_numpy(inputs["a"]), torch.from_numpy(inputs["b"])
        a = a.t() if spec["a_transposed"] else a
        b = b.t() if spec["b_transposed"] else b
        c = torch.empty(spec["m"], spec["n"])
        return Work(self._forward(lambda: torch.mm(a, b, out=c)), lambda c: {"c": array(c)})

    def linear_relu(self, spec, inputs) -> Work:
        x, w, b = (torch.from_numpy(inputs[name]) for name in ("x", "w", "b"))
        y = torch.empty(spec["rows"], spec["outputs"])

        def eager(x, w, b, y):
            return torch._addmm_activation(b, x, w, out=y)

        def compiled(x, w, b, y):
            return y.copy_(torch.relu(torch.addmm(b, x, w)))

        return Work(self._forward(compiled if self._compiled else eager, x, w, b, y), lambda y: {"y": array(y)})

    def softmax(self, spec, inputs) -> Work:
        z = torch.from_numpy(inputs["z"])
        p = torch.empty_like(z)

        def eager(z, p):
            return torch.softmax(z, 1, out=p)

        def compiled(z, p):
            return p.copy_(torch.softmax(z, 1))

        return Work(self._forward(compiled if self._compiled else eager, z, p), lambda p: {"p": array(p)})

    def softmax_cross_entropy(self, spec, inputs) -> Work:
        z, labels = torch.from_numpy(inputs["z"]), labels_of(inputs, "labels")
        rows = spec["rows"]
        dz = torch.empty_like(z)
        column = labels[:, None]
        minus = torch.full((rows, 1), -1.0)

        def eager(z, labels, dz):
            # Several times as fast as cross_entropy and autograd, which make a sparse gradient dense.
            torch.log_softmax(z, 1, out=dz)
            loss = F.nll_loss(dz, labels)
            dz.exp_().scatter_add_(1, column, minus).mul_(1 / rows)
            return loss, dz

        def compiled(z, labels, dz):
            logs = torch.log_softmax(z, 1)
            target = F.one_hot(labels, z.shape[1])
            loss = -(logs * target).sum() / rows
            return loss, dz.copy_((logs.exp() - target) / rows)

        run = self._forward(compiled if self._compiled else eager, z, labels, dz)
        return Work(run, lambda result: {"loss": array(result[0]), "dz": array(result[1])})

    def relu(self, spec, inputs) -> Work:
        x = torch.from_numpy(inputs["x"])
        y = torch.empty_like(x)

        def eager(x, y):
            # torch.relu has no `out`, and its result's fresh pages cost more than the work.
            return torch.clamp_min(x, 0, out=y)

        def compiled(x, y):
            return y.copy_(torch.relu(x))

        return Work(self._forward(compiled if self._compiled else eager, x, y), lambda y: {"y": array(y)})

    def exp(self, spec, inputs) -> Work:
        x = torch.from_numpy(inputs["x"])
        y = torch.empty_like(x)

        def eager(x, y):
            return torch.exp(x, out=y)

        def compiled(x, y):
            return y.copy_(torch.exp(x))

        return Work(self._forward(compiled if self._compiled else eager, x, y), lambda y: {"y": array(y)})

    def momentum(self, spec, inputs) -> Work:
        w, v, g = (torch.from_numpy(inputs[name]) for name in ("w", "v", "g"))
        if self._compiled:

            def step(w, v, g):
                v.mul_(MOMENTUM).add_(g, alpha=RATE_MOMENTUM)
                w.sub_(v)

            return Work(self._forward(step, w, v, g), lambda _: {"w": array(w), "v": array(v)})

        w.grad = g
        optimiser = torch.optim.SGD([w], lr=RATE_MOMENTUM, momentum=MOMENTUM, fused=self._fused)
        # PyTorch's v lacks the factor of the rate.
        optimiser.state[w]["momentum_buffer"] = v / RATE_MOMENTUM
        return Work(
            optimiser.step,
            lambda _: {"w": array(w), "v": array(optimiser.state[w]["momentum_buffer"] * RATE_MOMENTUM)},
        )

    def adam(self, spec, inputs) -> Work:
        w, g = torch.from_numpy(inputs["w"]), torch.from_numpy(inputs["g"])
        if self._compiled:
            return self._adam_compiled(w, g)

        w.grad = g
        optimiser = self._adam([w])

        def outputs(_):
            state = optimiser.state[w]
            return {"w": array(w), "m": array(state["exp_avg"]), "v": array(state["exp_avg_sq"])}

        return Work(optimiser.step, outputs)

    def _adam_compiled(self, w, g) -> Work:
        m, v = torch.zeros_like(w), torch.zeros_like(w)
        state = SimpleNamespace(step=0)
        # A tensor, as another number would be another program.
        rate = torch.zeros(())

        def step(w, g, m, v, rate):
            m.lerp_(g, 1 - BETA_1)
            v.mul_(BETA_2).addcmul_(g, g, value=1 - BETA_2)
            w.sub_(rate * m / (v.sqrt() + EPSILON_ADAM))

        compiled = self._compile(step)

        def run():
            state.step += 1
            with torch.inference_mode():
                compiled(w, g, m, v, rate.fill_(adam_rate(state.step)))

        return Work(run, lambda _: {"w": array(w), "m": array(m), "v": array(v)})

    def _adam(self, parameters):
        return torch.optim.Adam(
            parameters, lr=RATE_ADAM, betas=(BETA_1, BETA_2), eps=EPSILON_ADAM_CORRECTED, fused=self._fused
        )

    def conv2d(self, spec, inputs) -> Work:
        x = images(inputs["x"], self._channels_last)
        w = filters(inputs["w"], self._channels_last)
        b = torch.from_numpy(inputs["b"])
        return Work(self._forward(lambda: F.conv2d(x, w, b, padding=1)), lambda y: {"y": nhwc(y)})

    def conv2d_backward(self, spec, inputs) -> Work:
        x, dy = (images(inputs[name], self._channels_last) for name in ("x", "dy"))
        w = filters(inputs["w"], self._channels_last)
        with_dx = spec["inputs"] > 1

        def backward():
            return aten.convolution_backward(
                dy, x, w, [w.shape[0]], [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [with_dx, True, True]
            )

        def outputs(gradients):
            dx, dw, db = gradients
            return {"dw": hwio(dw), "db": array(db)} | ({"dx": nhwc(dx)} if with_dx else {})

        return Work(self._forward(backward), outputs)

    def _by_channel(self, rows: np.ndarray) -> torch.Tensor:
        """Rows as they come if channels are last; otherwise as one image of planes, which inductor prefers too."""
        tensor = torch.from_numpy(rows)
        return tensor if self._mode == "channels-last" else tensor.t().contiguous()[None]

    def _rows(self, tensor: torch.Tensor) -> np.ndarray:
        return array(tensor if self._mode == "channels-last" else tensor[0].t())

    def relu_batch_norm(self, spec, inputs) -> Work:
        x = self._by_channel(inputs["x"])
        positive, y = torch.empty_like(x), torch.empty_like(x)
        mean, scale = torch.empty(spec["channels"]), torch.empty(spec["channels"])

        def eager(x, positive, y):
            torch.clamp_min(x, 0, out=positive)
            aten.native_batch_norm.out(
                positive,
                None,
                None,
                None,
                None,
                True,
                0.0,
                EPSILON_BATCH_NORM,
                out=y,
                save_mean=mean,
                save_invstd=scale,
            )
            return y

        def compiled(x, positive, y):
            return y.copy_(F.batch_norm(torch.relu(x), None, None, training=True, eps=EPSILON_BATCH_NORM))

        run = self._forward(compiled if self._compiled else eager, x, positive, y)
        return Work(run, lambda y: {"y": self._rows(y)})

    def relu_batch_norm_backward(self, spec, inputs) -> Work:
        x, dy = self._by_channel(inputs["x"]), self._by_channel(inputs["dy"])
        positive, dx = torch.relu(x), torch.empty_like(x)
        _, mean, scale = torch.native_batch_norm(positive, None, None, None, None, True, 0.0, EPSILON_BATCH_NORM)

        def backward(dy, positive, mean, scale, dx):
            d_positive, _, _ = aten.native_batch_norm_backward(
                dy, positive, None, None, None, mean, scale, True, EPSILON_BATCH_NORM, [True, False, False]
            )
            return d_positive

        def eager(dy, positive, mean, scale, dx):
            return aten.threshold_backward.grad_input(
                backward(dy, positive, mean, scale, dx), positive, 0, grad_input=dx
            )

        def compiled(dy, positive, mean, scale, dx):
            return dx.copy_(aten.threshold_backward(backward(dy, positive, mean, scale, dx), positive, 0))

        run = self._forward(compiled if self._compiled else eager, dy, positive, mean, scale, dx)
        return Work(run, lambda dx: {"dx": self._rows(dx)})

    def max_pool(self, spec, inputs) -> Work:
        x = images(inputs["x"], self._channels_last)
        odd = bool(x.shape[2] % 2 or x.shape[3] % 2)
        run = self._forward(lambda x: F.max_pool2d(x, 2, ceil_mode=odd), x)
        return Work(run, lambda y: {"y": nhwc(y)})

    def avg_pool(self, spec, inputs) -> Work:
        x = images(inputs["x"], self._channels_last)
        return Work(self._forward(lambda x: F.avg_pool2d(x, 2), x), lambda y: {"y": nhwc(y)})

    def max_pool_backward(self, spec, inputs) -> Work:
        x, dy = (images(inputs[name], self._channels_last) for name in ("x", "dy"))
        odd = bool(x.shape[2] % 2 or x.shape[3] % 2)
        _, places = aten.max_pool2d_with_indices(x, [2, 2], [2, 2], [0, 0], [1, 1], odd)
        dx = torch.empty_like(x)

        def eager(dy, x, places, dx):
            return aten.max_pool2d_with_indices_backward.grad_input(
                dy, x, [2, 2], [2, 2], [0, 0], [1, 1], odd, places, grad_input=dx
            )

        def compiled(dy, x, places, dx):
            return aten.max_pool2d_with_indices_backward(dy, x, [2, 2], [2, 2], [0, 0], [1, 1], odd, places)

        run = self._forward(compiled if self._compiled else eager, dy, x, places, dx)
        return Work(run, lambda dx: {"dx": nhwc(dx)})

    @staticmethod
    def _block(x, w, b):
        """Convolution, ReLU, batch norm, max pool."""
        y = torch.relu_(F.conv2d(x, w, b, padding=1))
        y = F.batch_norm(y, None, None, training=True, eps=EPSILON_BATCH_NORM)
        return F.max_pool2d(y, 2)

    def conv_block(self, spec, inputs) -> Work:
        x, dy = (images(inputs[name], self._channels_last) for name in ("x", "dy"))
        w = filters(inputs["w"], self._channels_last).requires_grad_()
        b = torch.from_numpy(inputs["b"]).requires_grad_()
        block = self._compile(self._block)

        def run():
            y = block(x, w, b)
            return y, *torch.autograd.grad(y, (w, b), dy)

        return Work(run, lambda result: {"y": nhwc(result[0]), "dw": hwio(result[1]), "db": array(result[2])})

    def mlp_epoch(self, spec, inputs) -> Work:
        names = ("train", "valid", "test")
        splits = [(torch.from_numpy(inputs[f"x_{name}"]), labels_of(inputs, f"y_{name}")) for name in names]
        parameters = [torch.from_numpy(inputs[name]).requires_grad_() for name in ("w_h", "b_h", "w_o", "b_o")]
        # The losses' mean has the gradient of their sum divided by the images.
        rate = RATE_EPOCH * len(splits[0][0])
        optimiser = torch.optim.SGD(parameters, lr=rate, momentum=MOMENTUM, fused=self._fused)

        def figures(x, labels, w_h, b_h, w_o, b_o):
            z = torch.addmm(b_o, torch.relu_(torch.addmm(b_h, x, w_h)), w_o)
            return F.cross_entropy(z, labels), (z.detach().argmax(1) == labels).float().mean() * 100

        figures = self._compile(figures)

        def run():
            train, *others = splits
            optimiser.zero_grad(set_to_none=True)
            loss, accuracy = figures(*train, *parameters)
            loss.backward()
            optimiser.step()
            with torch.no_grad():
                return [(loss.detach(), accuracy), *(figures(*split, *parameters) for split in others)]

        def outputs(figures):
            w_h, _, w_o, _ = parameters
            return {"losses": [loss.item() for loss, _ in figures], "w_h": array(w_h), "w_o": array(w_o)}

        return Work(run, outputs)

    def cnn_step(self, spec, inputs) -> Work:
        x, labels = images(inputs["x"], self._channels_last), labels_of(inputs, "labels")
        w1 = inputs["w1"]
        if not self._channels_last:
            # Its rows in the order of (channels, height, width).
            w1 = w1.reshape(14, 14, 32, -1).transpose(2, 0, 1, 3).reshape(w1.shape)
        parameters = [
            filters(inputs["w0"], self._channels_last),
            torch.from_numpy(inputs["b0"]),
            torch.from_numpy(np.ascontiguousarray(w1)),
            *(torch.from_numpy(inputs[name]) for name in ("b1", "w2", "b2")),
        ]
        for parameter in parameters:
            parameter.requires_grad_()
        optimiser = self._adam(parameters)

        def loss_of(x, labels, w0, b0, w1, b1, w2, b2):
            y = self._block(x, w0, b0)
            if self._channels_last:
                y = y.permute(0, 2, 3, 1)
            y = torch.relu_(torch.addmm(b1, y.flatten(1), w1))
            return F.cross_entropy(torch.addmm(b2, y, w2), labels)

        loss_of = self._compile(loss_of)

        def run():
            optimiser.zero_grad(set_to_none=True)
            loss = loss_of(x, labels, *parameters)
            loss.backward()
            optimiser.step()
            return loss

        def outputs(loss):
            return {"loss": array(loss), "w0": hwio(parameters[0]), "w2": array(parameters[4])}

        return Work(run, outputs)

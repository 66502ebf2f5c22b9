"""Asks every contestant for every work at small sizes, as a driver would, and compares with plain NumPy.

usage: test_contestants.py [NAME ...]
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from contestant import MODULES, WORKS  # noqa: E402

TOLERANCE = 5e-5
"""Of the largest element's size: float32 sums in another order, and nothing worse."""

RNG = np.random.default_rng(1)


# References, in float64.


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def cross_entropy(z, labels):
    """The mean loss, and its gradient."""
    p, rows = softmax(z), np.arange(len(z))
    loss = -np.log(p[rows, labels]).mean()
    p[rows, labels] -= 1
    return loss, p / len(z)


def patches(x):
    """(n, h, w, 3, 3, c): what each 3x3 window sees, zeros around."""
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2)).transpose(0, 1, 2, 4, 5, 3)


def conv(x, w, b):
    return np.einsum("nhwijc,ijco->nhwo", patches(x), w) + b


def conv_backward(x, w, dy):
    """dx, dw, db."""
    dw = np.einsum("nhwijc,nhwo->ijco", patches(x), dy)
    dx = np.einsum("nhwijo,ijco->nhwc", patches(dy), w[::-1, ::-1])
    return dx, dw, dy.sum(axis=(0, 1, 2))


def relu_batch_norm(x):
    """y, and the scale that a backward needs; moments over all axes but the last."""
    axes = tuple(range(x.ndim - 1))
    r = np.maximum(x, 0)
    scale = 1 / np.sqrt(r.var(axis=axes) + 1e-5)
    return (r - r.mean(axis=axes)) * scale, scale


def relu_batch_norm_backward(x, dy):
    axes = tuple(range(x.ndim - 1))
    y, scale = relu_batch_norm(x)
    return scale * (dy - dy.mean(axis=axes) - y * (dy * y).mean(axis=axes)) * (x > 0)


def windows(x):
    """(n, h / 2, w / 2, c, 4): the elements of each 2x2 window, row-major."""
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 5, 2, 4).reshape(n, h // 2, w // 2, c, 4)


def max_pool(x):
    return windows(x).max(axis=-1)


def max_pool_backward(x, dy):
    n, h, w, c = x.shape
    d = (np.arange(4) == windows(x).argmax(axis=-1)[..., None]) * dy[..., None]
    return d.reshape(n, h // 2, w // 2, c, 2, 2).transpose(0, 1, 4, 2, 5, 3).reshape(x.shape)


def conv_block(x, w, b):
    """y, and a function that gives dw and db of dy."""
    z = conv(x, w, b)
    normal, _ = relu_batch_norm(z)

    def backward(dy):
        return conv_backward(x, w, relu_batch_norm_backward(z, max_pool_backward(normal, dy)))[1:]

    return max_pool(normal), backward


def adam(w, g):
    """w, m and v after step 1."""
    m, v = 0.1 * g, 0.001 * g * g
    return w - 1e-4 * np.sqrt(0.001) / 0.1 * m / (np.sqrt(v) + 1e-8), m, v


# Cases: a spec, its inputs and the outputs that are due.


def normal(*shape, scale=1.0):
    return (RNG.standard_normal(shape) * scale).astype(np.float32)


def labels(rows, classes=10):
    return RNG.integers(0, classes, rows).astype(np.uint32)


def wide(inputs):
    """The inputs in the references' types."""
    return {k: a.astype(np.int64 if a.dtype == np.uint32 else np.float64) for k, a in inputs.items()}


def gemm(m, k, n, a_transposed, b_transposed):
    i = {"a": normal(*((k, m) if a_transposed else (m, k))), "b": normal(*((n, k) if b_transposed else (k, n)))}
    a, b = wide(i).values()
    return i, {"c": (a.T if a_transposed else a) @ (b.T if b_transposed else b)}


def linear_relu(rows, inputs, outputs):
    i = {"x": normal(rows, inputs), "w": normal(inputs, outputs), "b": normal(outputs)}
    x, w, b = wide(i).values()
    return i, {"y": np.maximum(x @ w + b, 0)}


def softmax_case(rows, classes):
    i = {"z": normal(rows, classes, scale=5)}
    return i, {"p": softmax(wide(i)["z"])}


def softmax_cross_entropy(rows, classes):
    i = {"z": normal(rows, classes, scale=5), "labels": labels(rows, classes)}
    loss, dz = cross_entropy(*wide(i).values())
    return i, {"loss": [loss], "dz": dz}


def relu(len):
    i = {"x": normal(len)}
    return i, {"y": np.maximum(i["x"], 0)}


def exp(len):
    i = {"x": normal(len)}
    return i, {"y": np.exp(i["x"].astype(np.float64))}


def momentum(len):
    i = {"w": normal(len), "v": normal(len), "g": normal(len)}
    w, v, g = wide(i).values()
    v = 0.95 * v + 0.1 * g
    return i, {"w": w - v, "v": v}


def adam_case(len):
    i = {"w": normal(len, scale=1e-3), "g": normal(len, scale=1e-5)}
    return i, dict(zip("wmv", adam(*wide(i).values()), strict=True))


def conv2d(images, height, width, inputs, outputs):
    i = {"x": normal(images, height, width, inputs), "w": normal(3, 3, inputs, outputs), "b": normal(outputs)}
    return i, {"y": conv(*wide(i).values())}


def conv2d_backward(images, height, width, inputs, outputs):
    i = {"x": normal(images, height, width, inputs), "w": normal(3, 3, inputs, outputs)}
    i["dy"] = normal(images, height, width, outputs)
    dx, dw, db = conv_backward(*wide(i).values())
    return i, {"dw": dw, "db": db} | ({"dx": dx} if inputs > 1 else {})


def relu_batch_norm_case(rows, channels):
    i = {"x": normal(rows, channels)}
    return i, {"y": relu_batch_norm(wide(i)["x"])[0]}


def relu_batch_norm_backward_case(rows, channels):
    i = {"x": normal(rows, channels), "dy": normal(rows, channels)}
    return i, {"dx": relu_batch_norm_backward(*wide(i).values())}


def max_pool_case(images, height, width, channels):
    # Rounded, so that windows have ties.
    i = {"x": np.round(normal(images, height, width, channels), 1)}
    return i, {"y": max_pool(i["x"])}


def avg_pool(images, height, width, channels):
    i = {"x": normal(images, height, width, channels)}
    return i, {"y": windows(i["x"]).mean(axis=-1)}


def max_pool_backward_case(images, height, width, channels):
    i = {"x": np.round(normal(images, height, width, channels), 1)}
    i["dy"] = normal(images, height // 2, width // 2, channels)
    return i, {"dx": max_pool_backward(i["x"], i["dy"])}


def conv_block_case(images):
    i = {"x": RNG.random((images, 28, 28, 1), dtype=np.float32), "w": normal(3, 3, 1, 32, scale=0.3)}
    i |= {"b": normal(32, scale=0.1), "dy": normal(images, 14, 14, 32)}
    x, w, b, dy = wide(i).values()
    y, backward = conv_block(x, w, b)
    dw, db = backward(dy)
    return i, {"y": y, "dw": dw, "db": db}


def mlp_epoch(hidden):
    i = {}
    for name, rows in (("train", 300), ("valid", 200), ("test", 100)):
        i |= {f"x_{name}": RNG.random((rows, 784), dtype=np.float32), f"y_{name}": labels(rows)}
    i |= {"w_h": normal(784, hidden, scale=0.05), "b_h": normal(hidden, scale=0.1)}
    i |= {"w_o": normal(hidden, 10, scale=0.2), "b_o": normal(10, scale=0.1)}
    d = wide(i)
    w_h, b_h, w_o, b_o = d["w_h"], d["b_h"], d["w_o"], d["b_o"]

    def loss(split):
        h = np.maximum(d[f"x_{split}"] @ w_h + b_h, 0)
        return *cross_entropy(h @ w_o + b_o, d[f"y_{split}"]), h

    train, delta, h = loss("train")
    delta *= len(h)
    delta_h = delta @ w_o.T * (h > 0)
    w_o, b_o = w_o - 1e-5 * h.T @ delta, b_o - 1e-5 * delta.sum(axis=0)
    w_h, b_h = w_h - 1e-5 * d["x_train"].T @ delta_h, b_h - 1e-5 * delta_h.sum(axis=0)
    return i, {"losses": [train, loss("valid")[0], loss("test")[0]], "w_h": w_h, "w_o": w_o}


def cnn_step(images):
    i = {"x": RNG.random((images, 28, 28, 1), dtype=np.float32), "labels": labels(images)}
    i |= {"w0": normal(3, 3, 1, 32, scale=0.1), "b0": normal(32, scale=0.1)}
    i |= {"w1": normal(6272, 784, scale=0.02), "b1": normal(784, scale=0.02)}
    i |= {"w2": normal(784, 10, scale=0.05), "b2": normal(10, scale=0.05)}
    x, y, w0, b0, w1, b1, w2, b2 = wide(i).values()
    pooled, backward = conv_block(x, w0, b0)
    f = pooled.reshape(images, -1)
    h = np.maximum(f @ w1 + b1, 0)
    loss, delta = cross_entropy(h @ w2 + b2, y)
    d_pooled = ((delta @ w2.T * (h > 0)) @ w1.T).reshape(pooled.shape)
    return i, {"loss": [loss], "w0": adam(w0, backward(d_pooled)[0])[0], "w2": adam(w2, h.T @ delta)[0]}


CASES = [
    ("gemm", gemm, {"m": 5, "k": 70, "n": 33, "a_transposed": False, "b_transposed": False}),
    ("gemm", gemm, {"m": 64, "k": 7, "n": 10, "a_transposed": True, "b_transposed": False}),
    ("gemm", gemm, {"m": 20, "k": 30, "n": 40, "a_transposed": False, "b_transposed": True}),
    ("linear_relu", linear_relu, {"rows": 17, "inputs": 50, "outputs": 31}),
    ("softmax", softmax_case, {"rows": 33, "classes": 10}),
    ("softmax_cross_entropy", softmax_cross_entropy, {"rows": 33, "classes": 10}),
    ("relu", relu, {"len": 1001}),
    ("exp", exp, {"len": 1001}),
    ("momentum", momentum, {"len": 1001}),
    ("adam", adam_case, {"len": 1001}),
    ("conv2d", conv2d, {"images": 2, "height": 6, "width": 8, "inputs": 1, "outputs": 16}),
    ("conv2d", conv2d, {"images": 2, "height": 6, "width": 8, "inputs": 16, "outputs": 32}),
    ("conv2d_backward", conv2d_backward, {"images": 2, "height": 6, "width": 8, "inputs": 1, "outputs": 16}),
    ("conv2d_backward", conv2d_backward, {"images": 2, "height": 6, "width": 8, "inputs": 16, "outputs": 32}),
    ("relu_batch_norm", relu_batch_norm_case, {"rows": 123, "channels": 32}),
    ("relu_batch_norm_backward", relu_batch_norm_backward_case, {"rows": 123, "channels": 32}),
    ("max_pool", max_pool_case, {"images": 2, "height": 6, "width": 8, "channels": 32}),
    ("max_pool_backward", max_pool_backward_case, {"images": 2, "height": 6, "width": 8, "channels": 32}),
    ("avg_pool", avg_pool, {"images": 2, "height": 6, "width": 8, "channels": 32}),
    ("conv_block", conv_block_case, {"images": 3}),
    ("mlp_epoch", mlp_epoch, {"hidden": 50}),
    ("cnn_step", cnn_step, {"images": 4}),
]


class Process:
    """A contestant, asked line by line."""

    def __init__(self, name: str) -> None:
        command = [sys.executable, HERE / "contestant.py", name, "--threads", "1"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def ask(self, request: str, **arguments) -> dict:
        print(json.dumps({request: arguments}), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def close(self) -> int:
        self.process.stdin.close()
        return self.process.wait(timeout=60)


def difference(due: dict, folder: Path) -> float:
    """The largest difference of any output, in parts of its largest element."""
    found = {path.stem: np.load(path) for path in folder.glob("*.npy")}
    assert found.keys() == due.keys(), f"outputs {sorted(found)}, not {sorted(due)}"
    worst = 0.0
    for name, array in due.items():
        array, answer = np.asarray(array), found[name]
        assert answer.dtype == np.float32 and answer.flags.c_contiguous, name
        assert answer.shape == array.shape, f"{name}: shape {answer.shape}, not {array.shape}"
        worst = max(worst, float(np.abs(answer - array).max() / np.abs(array).max()))
    return worst


def check(process: Process, work: str, spec: dict, case: tuple[dict, dict]) -> str:
    """One cell of the table: the difference, `-` for unsupported, or what is wrong, after `!`."""
    inputs, due = case
    with tempfile.TemporaryDirectory() as folder:
        folders = {name: Path(folder) / name for name in ("inputs", "outputs")}
        for path in folders.values():
            path.mkdir()
        for name, array in inputs.items():
            np.save(folders["inputs"] / f"{name}.npy", array)
        answer = process.ask("prepare", work=work, spec=spec, **{k: str(path) for k, path in folders.items()})
        if "unsupported" in answer:
            return "-"
        if "ready" not in answer:
            return f"! {answer}"
        try:
            worst = difference(due, folders["outputs"])
        except AssertionError as error:
            return f"! {error}"
    times = process.ask("run", seconds=0.01).get("times")
    if not times or min(times) <= 0:
        return f"! times {times}"
    return f"{worst:.1e}" if worst <= TOLERANCE else f"! {worst:.1e}"


def failures(names) -> list[str]:
    """Prints a row for each case, a column for each contestant; what went wrong comes back."""
    processes = {name: Process(name) for name in names}
    wrong = []
    try:
        for name, process in processes.items():
            print(f"{name}: {process.ask('version')}")
        print(f"{'':26}" + "".join(f"{name:>20}" for name in names))
        for work, make, spec in CASES:
            case = make(**spec)
            cells = [check(process, work, spec, case) for process in processes.values()]
            print(f"{work:26}" + "".join(f"{cell[:19]:>20}" for cell in cells), flush=True)
            wrong += [f"{name}, {work} {spec}: {cell}" for name, cell in zip(names, cells, strict=True) if "!" in cell]
        for name, process in processes.items():
            if "error" not in process.ask("run"):
                wrong.append(f"{name}: no error for a run without seconds")
    finally:
        wrong += [f"{name}: ended with a failure" for name, process in processes.items() if process.close()]
    return wrong


def test_contestants() -> None:
    assert {work for work, _, _ in CASES} == WORKS
    assert not failures(list(MODULES))


if __name__ == "__main__":
    wrong = failures(sys.argv[1:] or list(MODULES))
    print("\n".join(wrong) or "all agree")
    sys.exit(bool(wrong))

"""The two networks, on the embedded letters."""

import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import kernelet as k
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal


@pytest.fixture(scope="module")
def letters():
    path = pathlib.Path(__file__).parents[2] / "data" / "letters.npz"
    with np.load(path) as file:
        return file["images"], file["labels"]


def small(letters, n=300):
    images, labels = letters
    order = np.random.default_rng(3).permutation(len(labels))[:n]
    return images[order], labels[order]


def test_mlp_learns_and_tells_its_history(letters):
    images, labels = small(letters, 600)
    train, valid = (images[:400], labels[:400]), (images[400:], labels[400:])
    mlp = k.MLP(50)
    start = mlp.evaluate(*train)
    history = mlp.fit(*train, valid, epochs=60, learning_rate=1e-4)
    assert_array_equal(history["epoch"], np.arange(61))
    # Training may take images as bytes, which rounds otherwise.
    assert_allclose((history["train_loss"][0], history["train_accuracy"][0]), start, rtol=1e-6)
    assert_allclose(history["valid_loss"][-1], mlp.evaluate(*valid)[0], rtol=1e-6)
    assert history["train_loss"][-1] < 0.5 * start[0]
    assert np.isnan(history["test_loss"]).all(), "there was no test set"
    assert history["kept"] is None
    assert not history["stopped_early"]
    hits = mlp.predict(train[0]) == train[1]
    assert_allclose(100 * hits.mean(), history["train_accuracy"][-1])


def test_bytes_are_scaled(letters):
    images, labels = small(letters)
    floats = (images / np.float32(255)).astype(np.float32)
    one, other = k.MLP(20), k.MLP(20)
    one.fit(images, labels, epochs=3)
    other.fit(floats.reshape(-1, 784), labels, epochs=3)
    assert_array_equal(one.weights["w_h"], other.weights["w_h"])


def test_the_same_bits_on_any_number_of_threads(letters):
    train = small(letters)
    trained = []
    for threads in [1, 2, 3]:
        mlp = k.MLP(64)
        mlp.fit(*train, epochs=5, cpu=k.Cpu(threads=threads))
        trained.append(mlp.weights["w_h"])
    assert_array_equal(trained[0], trained[1])
    assert_array_equal(trained[0], trained[2])


def test_patience_keeps_the_best_epoch(letters):
    train, valid = small(letters), small(letters, 50)
    history = k.MLP(20).fit(*train, valid, epochs=30, learning_rate=3e-3, patience=2)
    assert history["kept"] == history["epoch"][np.nanargmin(history["valid_loss"])]


@pytest.mark.parametrize("network", ["MLP", "CNN"])
def test_files(tmp_path, letters, network):
    images, labels = small(letters, 64)
    model = getattr(k, network)(16)
    model.fit(images, labels, epochs=1)
    path = tmp_path / "weights.npz"
    model.save(path)
    loaded = type(model).load(str(path))
    for probabilities in [False, True]:
        assert_array_equal(
            loaded.predict(images, probabilities=probabilities),
            model.predict(images, probabilities=probabilities),
        )
    with np.load(path) as file:
        for name, values in model.weights.items():
            assert_array_equal(file[name], values)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="weights.npz"):
        type(model).load(path)


@pytest.mark.parametrize("network", ["MLP", "CNN"])
def test_safetensors(tmp_path, letters, network):
    safetensors = pytest.importorskip("safetensors.numpy")
    images, labels = small(letters, 64)
    model = getattr(k, network)(16)
    model.fit(images, labels, epochs=1)
    model.save(tmp_path / "ours.safetensors")
    arrays = safetensors.load_file(tmp_path / "ours.safetensors")
    for name, values in model.weights.items():
        assert_array_equal(arrays[name], values)
    safetensors.save_file(arrays, tmp_path / "theirs.safetensors")
    loaded = type(model).load(tmp_path / "theirs.safetensors")
    assert_array_equal(loaded.predict(images), model.predict(images))


def test_cnn_learns(letters):
    images, labels = small(letters, 256)
    cnn = k.CNN(32, filters=8)
    assert cnn.running_moments is None
    history = cnn.fit(images, labels, epochs=8, learning_rate=1e-3, keep_probability=0.9, l2=1e-4)
    assert history["train_loss"][-1] < 0.5 * history["train_loss"][0]
    assert history["step_losses"].shape == (8 * 8,)
    assert len(cnn.running_moments) == 2
    loss, accuracy = cnn.evaluate(images, labels)
    assert accuracy == history["train_accuracy"][-1]
    assert loss <= history["train_loss"][-1], "the penalty is not in it"
    p = cnn.predict(images, probabilities=True)
    assert_allclose(p.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("network", ["MLP", "CNN"])
def test_progress(letters, network):
    train, rows = small(letters, 64), []
    model = getattr(k, network)(16)
    history = model.fit(*train, epochs=4, eval_every=2, progress=rows.append)
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3, 4]
    assert_array_equal(history["epoch"], [0, 2, 4])
    losses = [row["train_loss"] for row in rows if row["epoch"] in history["epoch"]]
    assert_array_equal(losses, history["train_loss"])
    history = model.fit(*train, epochs=100, progress=lambda row: row["epoch"] == 3)
    # The perceptron has its next update made when it shows an epoch.
    assert history["epoch"][-1] == {"MLP": 4, "CNN": 3}[network]


def test_what_progress_raises_comes_out_and_the_network_stays(letters):
    def progress(row):
        if row["epoch"] == 2:
            raise RuntimeError("enough")

    train, mlp = small(letters), k.MLP(20)
    before = mlp.evaluate(*train)[0]
    with pytest.raises(RuntimeError, match="enough"):
        mlp.fit(*train, epochs=1000, progress=progress)
    assert mlp.evaluate(*train)[0] < before


def test_a_network_can_be_used_while_it_trains(letters):
    train, mlp = small(letters), k.MLP(20)
    before = mlp.predict(train[0])
    mlp.fit(*train, epochs=3, progress=lambda _: assert_array_equal(mlp.predict(train[0]), before))


@pytest.mark.parametrize("network", ["MLP", "CNN"])
def test_a_network_is_used_by_another_thread_when_its_training_ends(letters, network):
    train, model, over = small(letters), getattr(k, network)(20), threading.Event()
    before, failures = model.weights, []

    def use():
        while not over.is_set():
            try:
                model.predict(train[0])
                model.weights = model.weights
            except BaseException as error:
                failures.append(error)

    user = threading.Thread(target=use)
    user.start()
    try:
        for _ in range(5):
            model.fit(*train, epochs=1)
    finally:
        over.set()
        user.join()
    assert not failures
    assert before.keys() == model.weights.keys()


def test_a_cnn_can_be_copied(letters):
    images, labels = small(letters, 64)
    cnn, copy = k.CNN(16, filters=4), k.CNN(16, filters=4, seed=2)
    cnn.fit(images, labels, epochs=1)
    copy.fit(images, labels, epochs=1)
    copy.weights = cnn.weights
    assert copy.running_moments is None, "those of other weights"
    copy.running_moments = cnn.running_moments
    of = lambda model: model.predict(images, probabilities=True)
    assert_array_equal(of(copy), of(cnn))


@pytest.mark.parametrize("network", ["MLP", "CNN"])
def test_the_same_bits_as_the_program(tmp_path, letters, network):
    program = os.environ.get("KERNELET_PROGRAM")
    if not program:
        pytest.skip("KERNELET_PROGRAM does not say where the program is")
    images, labels = letters
    order = np.arange(len(labels))
    np.random.RandomState(521).shuffle(order)
    images, labels = images[order], labels[order]
    model = getattr(k, network)(20)
    model.fit(
        images[:300],
        labels[:300],
        (images[300:400], labels[300:400]),
        (images[400:], labels[400:]),
        epochs=2,
    )
    path = tmp_path / "weights.npz"
    options = ["--hidden", "20", "--epochs", "2", "--split", "300,100", "--save", str(path)]
    command = [program, "train", network.lower(), *options]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    with np.load(path) as file:
        for name, values in model.weights.items():
            assert_array_equal(values, file[name])


@pytest.mark.parametrize("network", ["MLP", "CNN"])
def test_control_c_ends_a_run(letters, network):
    train, model = small(letters), getattr(k, network)(200)
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        timer.start()
        model.fit(*train, epochs=10**6, eval_every=10**6)
    assert time.monotonic() - start < 10
    assert np.isfinite(model.evaluate(*train)[0])


def test_divergence_leaves_the_last_finite_weights(letters):
    train, mlp = small(letters), k.MLP(20)
    with pytest.raises(k.TrainingDiverged, match="step") as raised:
        mlp.fit(*train, epochs=100, learning_rate=1e10)
    assert isinstance(raised.value, ArithmeticError)
    assert np.isfinite(mlp.evaluate(*train)[0])


def test_other_threads_run_while_a_kernel_does():
    """Kernels let go of the interpreter: another thread counts while one multiplies."""
    a, counted, done = np.ones((1500, 1500), np.float32), [0], threading.Event()

    def count():
        while not done.is_set():
            counted[0] += 1
            time.sleep(0)

    thread = threading.Thread(target=count)
    interval = sys.getswitchinterval()
    # Without letting go, the other thread would only run between two calls.
    sys.setswitchinterval(100)
    try:
        thread.start()
        before = counted[0]
        k.matmul(a, a, cpu=k.Cpu(threads=1))
        assert counted[0] > before
    finally:
        done.set()
        sys.setswitchinterval(interval)
        thread.join()


def test_many_threads_at_once():
    a = np.random.default_rng(5).standard_normal((300, 300)).astype(np.float32)
    expected, results = k.matmul(a, a), []
    threads = [
        threading.Thread(target=lambda: results.append(k.matmul(a, a))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert all((result == expected).all() for result in results)


def product(n):
    a = np.ones((n, n), np.float32)
    return float(k.matmul(a, a, cpu=SHARED)[0, 0])


SHARED = k.Cpu(threads=2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_threads_of_its_own():
    assert product(500) == 500
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(product, [500, 400]).get(timeout=60) == [500, 400]


def test_the_forced_instruction_set_is_the_default():
    script = "import kernelet, numpy; kernelet.relu(numpy.ones(3, 'f4'))"
    run = lambda isa: subprocess.run(
        [sys.executable, "-c", script],
        env=dict(os.environ, KERNELET_ISA=isa),
        capture_output=True,
        text=True,
    )
    assert run("scalar").returncode == 0
    refused = run("sse")
    assert refused.returncode == 1
    assert 'ValueError: instruction set "sse" is unknown' in refused.stderr

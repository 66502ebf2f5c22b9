"""The study's five functions do what its code does."""

import numpy as np
import pytest
from kernelet import study
from numpy.testing import assert_allclose, assert_array_equal

@pytest.fixture
def rng():
    return np.random.default_rng(2)


@pytest.fixture
def random(rng):
    return lambda *shape: rng.standard_normal(shape).astype(np.float32)


def test_relu_is_in_place(random):
    x = random(33, 17)
    expected = np.maximum(x, 0)
    assert study.relu(x) is x
    assert_array_equal(x, expected)


def test_softmax(random):
    x = random(33, 10)
    e = np.exp(x.astype(float))
    assert_allclose(study.softmax(x), e / e.sum(axis=1, keepdims=True), rtol=2e-6)


def test_compute_layer(random):
    x, w = random(33, 20), random(20, 10)
    assert_allclose(study.computeLayer(x, w), x.astype(float) @ w, atol=1e-5)
    assert_allclose(study.computeLayer(x.T, x), x.T.astype(float) @ x, atol=1e-5)


def test_average_ce(random, rng):
    target = np.eye(10, dtype=np.float32)[rng.integers(0, 10, 33)]
    prediction = study.softmax(random(33, 10))
    accuracy = np.mean(np.argmax(target, axis=1) == np.argmax(prediction, axis=1)) * 100
    product = np.matmul(np.log(prediction.astype(float)), np.transpose(target))
    loss = np.multiply(-1 / target.shape[0], np.trace(product))
    assert_allclose(study.CE(target, prediction), (loss, accuracy))
    assert study.averageCE is study.CE


def test_average_ce_of_soft_targets_and_of_certainty(random):
    target = study.softmax(random(33, 10))
    prediction = study.softmax(random(33, 10))
    loss, _ = study.CE(target, prediction)
    assert_allclose(loss, -(target.astype(float) * np.log(prediction.astype(float))).sum() / 33)
    certain = np.eye(3, dtype=np.float32)
    assert study.CE(certain, certain) == (0.0, 100.0)
    loss, accuracy = study.CE(certain, certain[::-1].copy())
    assert loss == np.inf
    assert_allclose(accuracy, 100 / 3)


def test_grad_ce(random):
    p, t = random(33, 10), random(33, 10)
    assert_array_equal(study.gradCE(p, t), p - t)

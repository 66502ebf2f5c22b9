"""Each kernel against the same formula in NumPy's float64."""

import itertools

import kernelet as k
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

SIZES = [0, 1, 7, 8, 9, 31, 33]


@pytest.fixture
def rng():
    """The same numbers in every test, whichever others run."""
    return np.random.default_rng(1)


@pytest.fixture
def random(rng):
    return lambda *shape: rng.standard_normal(shape).astype(np.float32)


def softmax(x):
    e = np.exp(x.astype(float) - x.max(axis=1, keepdims=True, initial=-np.inf))
    return e / e.sum(axis=1, keepdims=True)


def instruction_sets():
    """A Cpu of two threads for each that this processor has."""
    for isa in ["scalar", "avx2", "avx512", "amx", "native"]:
        try:
            yield k.Cpu(isa, 2)
        except ValueError as error:
            assert f"this processor has no {isa}" in str(error)


@pytest.fixture(params=instruction_sets(), ids=repr)
def cpu(request):
    return request.param


@pytest.mark.parametrize("n", SIZES)
def test_elementwise(cpu, n, random):
    x, dy = random(n, 3), random(n, 3)
    assert_array_equal(k.relu(x, cpu=cpu), np.maximum(x, 0))
    assert_array_equal(k.relu_backward(x, dy, cpu=cpu), np.where(x > 0, dy, 0))
    assert_allclose(k.exp(x, cpu=cpu), np.exp(x.astype(float)), rtol=3e-7)


def test_special_values(cpu):
    x = np.array([[np.nan, np.inf, -np.inf, -0.0, 1e-45]], np.float32)
    assert_array_equal(k.relu(x, cpu=cpu), np.array([[np.nan, np.inf, 0, 0, 0]], np.float32))
    assert np.isnan(k.softmax(x, cpu=cpu)).all(), "NaN in, NaN out"


@pytest.mark.parametrize(("rows", "columns"), list(itertools.product(SIZES, [1, 10, 40])))
def test_softmax(cpu, rows, columns, random):
    x, dy = random(rows, columns), random(rows, columns)
    y = k.softmax(x, cpu=cpu)
    assert_allclose(y, softmax(x), rtol=2e-6)
    dx = y * (dy - (y * dy.astype(float)).sum(axis=1, keepdims=True))
    assert_allclose(k.softmax_backward(y, dy, cpu=cpu), dx, atol=1e-6)


@pytest.mark.parametrize(("m", "n"), list(itertools.product([0, 1, 17], [1, 16, 33])))
@pytest.mark.parametrize("depth", [0, 1, 8, 70])
def test_matmul_takes_transposes(cpu, m, n, depth, random):
    a, b = random(m, depth), random(depth, n)
    expected = a.astype(float) @ b
    for left in (a, np.asfortranarray(a)):
        for right in (b, np.asfortranarray(b)):
            assert_allclose(k.matmul(left, right, cpu=cpu), expected, atol=1e-4)
    c = np.ones((m, n), np.float32)
    assert k.matmul(a, b, c, add=True, cpu=cpu) is c, "out is returned"
    assert_allclose(c, 1 + expected, atol=1e-4)


def test_linear(cpu, random):
    x, w, b, dy = random(33, 20), random(20, 10), random(10), random(33, 10)
    y = x.astype(float) @ w + b
    assert_allclose(k.linear(x, w, b, cpu=cpu), y, atol=1e-5)
    assert_allclose(k.linear(x, w, b, relu=True, cpu=cpu), np.maximum(y, 0), atol=1e-5)
    dx = dy.astype(float) @ w.T
    assert_allclose(k.linear_backward_input(dy, w, cpu=cpu), dx, atol=1e-5)
    assert_allclose(k.linear_backward_input(dy, w, x, cpu=cpu), np.where(x > 0, dx, 0), atol=1e-5)
    dw, db = k.linear_backward_weights(x, dy, cpu=cpu)
    assert_allclose(dw, x.T.astype(float) @ dy, atol=1e-4)
    assert_allclose(db, dy.sum(axis=0, dtype=float), atol=1e-5)
    k.linear_backward_weights(x, dy, dw, db, add=True, cpu=cpu)
    assert_allclose(dw, 2 * (x.T.astype(float) @ dy), atol=1e-4)


@pytest.mark.parametrize(("rows", "columns"), list(itertools.product(SIZES, [0, 1, 10, 130])))
def test_column_sums(cpu, rows, columns, random):
    dy, sums = random(rows, columns), random(columns)
    expected = dy.sum(axis=0, dtype=float)
    assert_allclose(k.column_sums(dy, cpu=cpu), expected, atol=1e-5)
    expected += sums
    assert k.column_sums(dy, sums, add=True, cpu=cpu) is sums
    assert_allclose(sums, expected, atol=1e-5)


@pytest.mark.parametrize("rows", [0, 1, 33])
def test_the_weights_gradient_with_its_update(cpu, rows, random):
    x, dy = random(rows, 20), random(rows, 10)
    fused = [random(20, 10), random(20, 10), random(20, 10) ** 2]
    apart = [weights.copy() for weights in fused]
    options = {"learning_rate": 0.01, "l2": 0.1, "cpu": cpu}
    squares = k.linear_backward_weights_adam(x, dy, *fused, 3, **options)
    dw, _ = k.linear_backward_weights(x, dy, cpu=cpu)
    assert_allclose(squares, k.adam(*apart, dw, 3, **options), rtol=1e-6)
    for ours, theirs in zip(fused, apart):
        assert_allclose(ours, theirs, atol=1e-6)


def windows(x, size, stride):
    """The windows of x (images, height, width, channels) without padding, as (n, oh, ow, c, h, w)."""
    view = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
    return view[:, ::stride, ::stride]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [1, 3])
def test_conv2d(cpu, stride, channels, random):
    x, w, b = random(2, 9, 8, channels), random(3, 3, channels, 5), random(5)
    y = np.einsum("nijchw,hwcf->nijf", windows(x.astype(float), 3, stride), w) + b
    options = {"stride": stride, "padding": "valid", "cpu": cpu}
    assert_allclose(k.conv2d(x, w, b, **options), y, atol=1e-5)
    assert_allclose(k.conv2d(x, w, b, relu=True, **options), np.maximum(y, 0), atol=1e-5)
    padded = np.pad(x.astype(float), ((0, 0), (1, 1), (1, 1), (0, 0)))
    same = np.einsum("nijchw,hwcf->nijf", windows(padded, 3, 1), w) + b
    assert_allclose(k.conv2d(x, w, b, cpu=cpu), same, atol=1e-5)

    dy = random(*y.shape)
    dw, db = k.conv2d_backward_weights(x, dy, 3, **options)
    expected = np.einsum("nijchw,nijf->hwcf", windows(x.astype(float), 3, stride), dy)
    assert_allclose(dw, expected, atol=1e-4)
    assert_allclose(db, dy.sum(axis=(0, 1, 2), dtype=float), atol=1e-4)
    # The convolution is linear in x: <dy, conv(z)> = <dx, z> for any z.
    dx, z = k.conv2d_backward_input(dy, w, x.shape, **options), random(*x.shape)
    of_z = k.conv2d(z, w, np.zeros_like(b), **options)
    assert_allclose((of_z.astype(float) * dy).sum(), (dx.astype(float) * z).sum(), rtol=1e-4)


def test_relu_batch_norm(cpu, random):
    x, dy = random(50, 6), random(50, 6)
    scale, offset = random(6), random(6)
    r = np.maximum(x.astype(float), 0)
    mean, variance = r.mean(axis=0), r.var(axis=0)
    normal = (r - mean) / np.sqrt(variance + 1e-5)
    y, r32, normalization = k.relu_batch_norm(x, cpu=cpu)
    assert_array_equal(r32, np.maximum(x, 0))
    assert_allclose(y, normal, atol=1e-5)
    assert_allclose(normalization.mean, mean, atol=1e-6)
    y, _, _ = k.relu_batch_norm(x, scale, offset, cpu=cpu)
    assert_allclose(y, scale * normal + offset, atol=1e-5)
    given = k.Normalization(mean.astype(np.float32), variance.astype(np.float32))
    y, _, _ = k.relu_batch_norm(x, normalization=given, cpu=cpu)
    assert_allclose(y, normal, atol=1e-5)

    dx, dscale, doffset = k.relu_batch_norm_backward(r32, normalization, dy, scale, cpu=cpu)
    dn = dy * scale.astype(float)
    dr = (dn - dn.mean(axis=0) - normal * (dn * normal).mean(axis=0)) / np.sqrt(variance + 1e-5)
    assert_allclose(dx, np.where(x > 0, dr, 0), atol=1e-5)
    assert_allclose(dscale, (dy * normal).sum(axis=0), atol=1e-4)
    assert_allclose(doffset, dy.sum(axis=0, dtype=float), atol=1e-4)


def test_pools(cpu, random):
    x = random(2, 8, 6, 5)
    w = windows(x, 2, 2)
    y, argmax = k.max_pool(x, cpu=cpu)
    assert_array_equal(y, w.max(axis=(-2, -1)))
    assert_array_equal(argmax, w.reshape(*w.shape[:4], 4).argmax(axis=-1))
    assert_allclose(k.avg_pool(x, cpu=cpu), w.mean(axis=(-2, -1)), atol=1e-6)
    dy = random(*y.shape)
    dx = k.max_pool_backward(argmax, dy, x.shape, cpu=cpu)
    assert_array_equal(windows(dx, 2, 2).sum(axis=(-2, -1)), dy)
    assert_array_equal(dx != 0, x == np.repeat(np.repeat(y, 2, axis=1), 2, axis=2))
    dx = k.avg_pool_backward(dy, x.shape, cpu=cpu)
    assert_allclose(dx, np.repeat(np.repeat(dy / 4, 2, axis=1), 2, axis=2))


def test_conv_block_is_its_parts(cpu, random):
    x, w, b = random(3, 8, 8, 1), random(3, 3, 1, 4), random(4)
    y, r, normalization, argmax = k.conv_block(x, w, b, cpu=cpu)
    normal, rectified, _ = k.relu_batch_norm(k.conv2d(x, w, b, cpu=cpu), cpu=cpu)
    pooled, places = k.max_pool(normal, cpu=cpu)
    assert_array_equal(r, rectified)
    assert_array_equal(argmax, places)
    # Their moments are summed in another order.
    assert_allclose(y, pooled, atol=2e-6)
    dy = random(*y.shape)
    dw, db = k.conv_block_backward_weights(x, r, normalization, y, argmax, dy, cpu=cpu)
    dnormal = k.max_pool_backward(places, dy, normal.shape, cpu=cpu)
    dconv, _, _ = k.relu_batch_norm_backward(rectified, normalization, dnormal, cpu=cpu)
    expected_dw, expected_db = k.conv2d_backward_weights(x, dconv, 3, cpu=cpu)
    assert_allclose(dw, expected_dw, rtol=1e-4, atol=1e-5)
    assert_allclose(db, expected_db, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("size", "stride", "padding"), [(2, None, "same"), (3, 2, "valid")])
def test_normalize_max_pool_is_its_parts(cpu, size, stride, padding, random):
    options = {"size": size, "stride": stride, "padding": padding, "cpu": cpu}
    normal, r, normalization = k.relu_batch_norm(random(3, 9, 8, 5), cpu=cpu)
    y, argmax = k.normalize_max_pool(r, normalization, **options)
    pooled, places = k.max_pool(normal, **options)
    assert_allclose(y, pooled, atol=1e-6)
    assert_array_equal(argmax, places)
    dy = random(*y.shape)
    dx = k.normalize_max_pool_backward(r, normalization, y, argmax, dy, **options)
    dnormal = k.max_pool_backward(places, dy, r.shape, **options)
    expected, _, _ = k.relu_batch_norm_backward(r, normalization, dnormal, cpu=cpu)
    assert_allclose(dx, expected, atol=1e-5)


def test_dropout(cpu):
    x = np.ones(10_000, np.float32)
    kept = k.dropout(x, 0.75, seed=3, step=1, cpu=cpu)
    assert kept is x
    assert set(np.unique(x)) == {np.float32(0), np.float32(1 / 0.75)}
    assert 0.73 < (x > 0).mean() < 0.77
    again = k.dropout(np.ones(10_000, np.float32), 0.75, seed=3, step=1, cpu=cpu)
    assert_array_equal(again, x)


@pytest.mark.parametrize("classes", [1, 10, 40])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.uint64])
def test_cross_entropies(cpu, classes, dtype, random, rng):
    logits = random(33, classes)
    labels = rng.integers(0, classes, 33).astype(dtype)
    p, rows = softmax(logits), np.arange(33)
    loss = -np.log(p[rows, labels]).mean()
    accuracy = 100 * (logits.argmax(axis=1) == labels).mean()
    onehot = np.eye(classes)[labels]
    found = k.softmax_cross_entropy(logits, labels, cpu=cpu)
    assert k.softmax_cross_entropy_forward(logits, labels, cpu=cpu) == found[:2]
    assert_allclose(found[:2], (loss, accuracy), atol=1e-6)
    assert_allclose(found[2], (p - onehot) / 33, atol=1e-7)
    p32 = p.astype(np.float32)
    assert_allclose(k.cross_entropy(p32, labels, cpu=cpu), (loss, accuracy), atol=1e-6)
    gradient = k.softmax_cross_entropy_backward(p32, labels, cpu=cpu)
    assert_allclose(gradient, p - onehot, atol=1e-6)
    gradient = k.cross_entropy_backward(p32, labels, scale=0.5, cpu=cpu)
    assert_allclose(gradient, -0.5 * onehot / p, rtol=1e-5)


def test_optimisers(cpu, random):
    w, v, g = random(100), random(100), random(100)
    old_w, old_v = w.astype(float), v.astype(float)
    assert k.momentum(w, v, g, learning_rate=0.1, momentum=0.9, cpu=cpu) is None
    assert_allclose(v, 0.9 * old_v + 0.1 * g, atol=1e-6)
    assert_allclose(w, old_w - (0.9 * old_v + 0.1 * g), atol=1e-6)

    w, m, v = random(100), np.zeros(100, np.float32), np.zeros(100, np.float32)
    old_w = w.astype(float)
    squares = k.adam(w, m, v, g, 1, learning_rate=0.01, l2=0.1, cpu=cpu)
    gradient = g + 0.1 * old_w
    assert_allclose(squares, (old_w**2).sum(), rtol=1e-5)
    assert_allclose(m, 0.1 * gradient, rtol=1e-4, atol=1e-7)
    # m / sqrt(v) without the moments' start at zero is the sign, but for epsilon.
    step = 0.01 * gradient / (np.abs(gradient) + 1e-8 / np.sqrt(1 - 0.999))
    assert_allclose(w, old_w - step, atol=1e-5)

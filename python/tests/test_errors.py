"""Wrong arguments raise, and say what came and what is wanted. No call may panic."""

import kernelet as k
import numpy as np
import pytest
from kernelet import study

F = np.float32


def ones(*shape, dtype=F):
    return np.ones(shape, dtype)


def read_only(*shape):
    array = ones(*shape)
    array.flags.writeable = False
    return array


def unaligned():
    return np.zeros(17, np.uint8)[1:].view(F).reshape(2, 2)


OVERLAPPING = ones(4, 4)
BYTES = bytearray(64)


def by_other_ways():
    """Arrays of the memory of OVERLAPPING and of BYTES, which do not know of each other."""
    yield np.frombuffer(BYTES, F), np.frombuffer(BYTES, F)
    yield OVERLAPPING, np.lib.stride_tricks.as_strided(OVERLAPPING)
    yield OVERLAPPING, np.asarray(memoryview(OVERLAPPING))
    yield OVERLAPPING, np.from_dlpack(OVERLAPPING)


class Odd(np.ndarray):
    """An array whose methods lie."""

    def astype(self, *_):
        return np.zeros(1, np.int64)

CASES = [
    # The dtype.
    (TypeError, "x: float32 is wanted, not float64: x.astype('float32')", lambda: k.relu(np.ones(3))),
    (TypeError, "x: float32 is wanted, not >f4", lambda: k.relu(np.ones(3, ">f4"))),
    (TypeError, "x: a NumPy array is wanted, not list", lambda: k.softmax([[1.0]])),
    (TypeError, "b: float32 is wanted, not int64", lambda: k.matmul(ones(2, 2), np.ones((2, 2), int))),
    (TypeError, "labels: class numbers of an integer", lambda: k.cross_entropy(ones(2, 2), ones(2))),
    (TypeError, "argmax: uint32 is wanted, not uint8",
     lambda: k.max_pool_backward(ones(1, 1, 1, 1, dtype=np.uint8), ones(1, 1, 1, 1), (1, 2, 2, 1))),
    (TypeError, "images: float32, or uint8 to be scaled by 1/255, is wanted, not float64",
     lambda: k.MLP(2).predict(np.ones((2, 784)))),
    (TypeError, "validation: a pair (images, labels) is wanted",
     lambda: k.MLP(2).fit(ones(2, 784), np.zeros(2, int), 3)),
    # The shape.
    (ValueError, "x: shape (rows, columns) is wanted, not (3,)", lambda: k.softmax(ones(3))),
    (ValueError, "b: shape (3, n), as a is (2, 3), is wanted, not (2, 3)",
     lambda: k.matmul(ones(2, 3), ones(2, 3))),
    (ValueError, "w: shape (inputs, outputs) = (3, 4) is wanted, not (2, 4)",
     lambda: k.linear(ones(2, 3), ones(2, 4), ones(4))),
    (ValueError, "b: shape (outputs,) = (4,) is wanted, not (5,)",
     lambda: k.linear(ones(2, 3), ones(3, 4), ones(5))),
    (ValueError, "out: shape (2, 2) is wanted, not (2, 3)",
     lambda: k.relu(ones(2, 2), ones(2, 3))),
    (ValueError, "w: shape (height, width, channels, filters) = (3, 3, 2, 4) is wanted, not (3, 3, 1, 4)",
     lambda: k.conv2d(ones(1, 8, 8, 2), ones(3, 3, 1, 4), ones(4))),
    (ValueError, "x: shape (images, height, width, channels) is wanted, not (8, 8)",
     lambda: k.conv2d(ones(8, 8), ones(3, 3, 1, 4), ones(4))),
    (ValueError, "w: shape of a window with an element is wanted",
     lambda: k.conv2d(ones(1, 8, 8, 1), ones(0, 3, 1, 4), ones(4))),
    (ValueError, "dy: shape the convolution's output shape = (1, 8, 8, 4) is wanted",
     lambda: k.conv2d_backward_weights(ones(1, 8, 8, 1), ones(1, 4, 4, 4), 3)),
    (ValueError, "m: shape (inputs, outputs) = (3, 4) is wanted, not (4, 3)",
     lambda: k.linear_backward_weights_adam(
         ones(2, 3), ones(2, 4), ones(3, 4), ones(4, 3), ones(3, 4), 1)),
    (ValueError, "normalization: is of 3 channels, but the array has 2",
     lambda: k.normalize_max_pool(ones(1, 4, 4, 2), k.Normalization(ones(3), ones(3)))),
    (ValueError, "y: shape the pool's output shape = (1, 2, 2, 1) is wanted, not (1, 4, 4, 1)",
     lambda: k.normalize_max_pool_backward(
         ones(1, 4, 4, 1), k.Normalization(ones(1), ones(1)), ones(1, 4, 4, 1),
         ones(1, 2, 2, 1, dtype=np.uint8), ones(1, 2, 2, 1))),
    (ValueError, "labels: shape (rows,) = (2,) is wanted, not (3,)",
     lambda: k.cross_entropy(ones(2, 2), np.zeros(3, int))),
    (ValueError, "images: shape (images, ...) with 784 values per image is wanted, not (2, 783)",
     lambda: k.MLP(2).predict(ones(2, 783))),
    (ValueError, "target: shape prediction's = (2, 2) is wanted, not (2, 3)",
     lambda: study.gradCE(ones(2, 2), ones(2, 3))),
    (ValueError, "normalization: is of 3 channels, but the array has 2",
     lambda: k.relu_batch_norm(ones(4, 2), normalization=k.Normalization(ones(3), ones(3)))),
    # The order, the alignment.
    (ValueError, "x: a C-contiguous array is wanted, not in Fortran order", lambda: k.relu(ones(2, 3).T)),
    (ValueError, "x: a C-contiguous array is wanted, not one with gaps",
     lambda: k.relu(ones(4, 4)[:, ::2])),
    (ValueError, "a: a contiguous array or the transpose of one is wanted, not one with gaps",
     lambda: k.matmul(ones(4, 4)[:, ::2], ones(2, 2))),
    (ValueError, "x: is not aligned", lambda: k.relu(unaligned())),
    # The output.
    (ValueError, "out: is read-only, but is to be written", lambda: k.relu(ones(2), read_only(2))),
    (ValueError, "x: is read-only", lambda: study.relu(read_only(2))),
    (ValueError, "shares memory", lambda: k.relu(OVERLAPPING[:2], OVERLAPPING[1:3])),
    (ValueError, "shares memory",
     lambda: k.momentum(OVERLAPPING[:2], OVERLAPPING[1:3], ones(2, 4), learning_rate=0.1)),
    (ValueError, "add: there is no out to add to", lambda: k.matmul(ones(2, 2), ones(2, 2), add=True)),
    (MemoryError, "Unable to allocate", lambda: k.linear(ones(1 << 20, 0), ones(0, 1 << 26), ones(1 << 26))),
    # Values.
    (ValueError, "labels: 2 of row 1 is not below the 2 classes",
     lambda: k.cross_entropy(ones(2, 2), np.array([0, 2]))),
    (ValueError, "labels: -1 of row 0 is not below the 2 classes",
     lambda: k.cross_entropy(ones(2, 2), np.array([-1, 2]))),
    (ValueError, "labels: 18446744073709551615 of row 0",
     lambda: k.cross_entropy(ones(2, 2), np.array([2**64 - 1, 0], np.uint64))),
    (ValueError, "labels: 7 of row 2 is not below the 2 classes",
     lambda: k.cross_entropy(ones(3, 2), np.array([0, 0, 7]).view(Odd))),
    (ValueError, "argmax: 4 at row 0, column 0 is no place of its window",
     lambda: k.max_pool_backward(np.full((1, 1, 1, 1), 4, np.uint32), ones(1, 1, 1, 1), (1, 2, 2, 1))),
    (ValueError, "argmax: 9 at row 1, column 0 is no place of its window",
     lambda: k.normalize_max_pool_backward(
         ones(1, 4, 4, 1), k.Normalization(ones(1), ones(1)), ones(1, 2, 2, 1),
         np.array([0, 0, 9, 0], np.uint8).reshape(1, 2, 2, 1), ones(1, 2, 2, 1))),
    (ValueError, "size: [17, 16] has more than 256 places",
     lambda: k.normalize_max_pool(
         ones(1, 20, 20, 1), k.Normalization(ones(1), ones(1)), size=(17, 16))),
    (ValueError, "step: is 0, but updates are counted from 1",
     lambda: k.linear_backward_weights_adam(
         ones(2, 3), ones(2, 4), ones(3, 4), ones(3, 4), ones(3, 4), 0)),
    (ValueError, "argmax: 3 at row 0, column 0 is no place of its window",
     lambda: k.max_pool_backward(np.full((1, 1, 1, 1), 3, np.uint32), ones(1, 1, 1, 1), (1, 1, 1, 1))),
    (ValueError, "'same' or 'valid' is wanted, not 'full'",
     lambda: k.conv2d(ones(1, 8, 8, 1), ones(3, 3, 1, 4), ones(4), padding="full")),
    (ValueError, "1 to 65535 is wanted for each side, not [0, 0]",
     lambda: k.max_pool(ones(1, 8, 8, 1), size=0)),
    (TypeError, "1 to 65535 or a pair of these, (height, width), is wanted, not '2'",
     lambda: k.max_pool(ones(1, 8, 8, 1), size="2")),
    (TypeError, "1 to 65535 or a pair of these, (height, width), is wanted, not -1",
     lambda: k.max_pool(ones(1, 8, 8, 1), size=-1)),
    (TypeError, "'same' or 'valid' is wanted, not 3",
     lambda: k.max_pool(ones(1, 8, 8, 1), padding=3)),
    (ValueError, "x: shape of a pixel, or of fewer channels is wanted, not (0, 1099511627776)",
     lambda: k.relu_batch_norm(ones(0, 1 << 40))),
    (ValueError, "threads: 1000000 are more than 4096", lambda: k.Cpu(threads=10**6)),
    (ValueError, "keep: is 0, but must be above 0", lambda: k.dropout(ones(2), 0.0, seed=1, step=1)),
    (ValueError, "step: is 0", lambda: k.adam(ones(2), ones(2), np.zeros(2, F), ones(2), 0)),
    (ValueError, "pool_size: [17, 17] has more than 256 places",
     lambda: k.conv_block(ones(1, 8, 8, 1), ones(3, 3, 1, 4), ones(4), pool_size=17)),
    (ValueError, 'instruction set "sse" is unknown', lambda: k.Cpu("sse")),
    (ValueError, "cannot run on 0 threads", lambda: k.Cpu(threads=0)),
    (ValueError, "images: is NaN at value 3 of image 1",
     lambda: k.MLP(2).predict(np.where(np.arange(1568) == 787, F("nan"), F(1)).reshape(2, 784))),
    (ValueError, "hidden: is 0, but must be at least 1", lambda: k.MLP(0)),
    (MemoryError, "no memory for a network", lambda: k.MLP(1 << 60)),
    (MemoryError, "no memory for a network", lambda: k.CNN(1 << 60)),
    (ValueError, "reduction: 'sum' or 'mean' is wanted, not 'max'",
     lambda: k.MLP(2).fit(ones(2, 784), np.zeros(2, int), reduction="max")),
    (ValueError, "the training set is empty", lambda: k.MLP(2).fit(ones(0, 784), np.zeros(0, int))),
    (ValueError, "patience needs a validation set",
     lambda: k.MLP(2).fit(ones(2, 784), np.zeros(2, int), patience=3)),
    (ValueError, "batch", lambda: k.CNN(2).fit(ones(2, 784), np.zeros(2, int), batch=0)),
    (FileNotFoundError, "nowhere.npz", lambda: k.MLP.load("nowhere.npz")),
    (FileNotFoundError, "no/such/folder", lambda: k.MLP(2).save("no/such/folder/w.npz")),
    (ValueError, "variance: shape (filters,) = (32,) is wanted, not (3,)",
     lambda: setattr(k.CNN(2), "running_moments", (ones(32), ones(3)))),
    (KeyError, "b_h: is missing", lambda: setattr(k.MLP(2), "weights", {"w_h": ones(784, 2)})),
    (KeyError, "w: is no array of this network", lambda: setattr(k.MLP(2), "weights", {"w": ones(1)})),
]


@pytest.mark.parametrize(("exception", "message", "call"), CASES, ids=[case[1] for case in CASES])
def test_errors(exception, message, call):
    with pytest.raises(exception) as raised:
        call()
    assert message in str(raised.value)


@pytest.mark.parametrize(("one", "other"), list(by_other_ways()))
def test_memory_that_is_shared_by_other_ways(one, other):
    assert np.shares_memory(one, other)
    with pytest.raises(ValueError, match="shares memory"):
        k.relu(one, other)
    with pytest.raises(ValueError, match="shares memory"):
        k.momentum(one, other, np.ones_like(one), learning_rate=0.1)
    # Two that are only read may be the same.
    assert k.relu_backward(one, other).shape == one.shape
    # And it is given back.
    assert k.relu(one).shape == one.shape


def test_no_places_are_checked_where_there_are_none():
    shape = (1, 1 << 20, 1 << 20, 0)
    pooled = (1, 1 << 19, 1 << 19, 0)
    dx = k.max_pool_backward(np.zeros(pooled, np.uint32), np.zeros(pooled, F), shape)
    assert dx.shape == shape


def test_weights_are_taken_over_all_or_none():
    mlp = k.MLP(2)
    before = mlp.weights
    wrong = dict(before, w_h=before["w_h"] + 1, b_o=ones(3))
    with pytest.raises(ValueError, match="b_o"):
        mlp.weights = wrong
    assert all((mlp.weights[name] == before[name]).all() for name in before)
    mlp.weights = dict(before, w_h=before["w_h"] + 1)
    assert (mlp.weights["w_h"] == before["w_h"] + 1).all()

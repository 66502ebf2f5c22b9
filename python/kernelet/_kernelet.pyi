import os
from typing import Any, Callable, Dict, Literal, Optional, Tuple, Union, final, overload

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Images = Union[npt.NDArray[np.float32], npt.NDArray[np.uint8]]
Labels = npt.NDArray[np.integer[Any]]
Pair = Union[int, Tuple[int, int]]
Padding = Literal["same", "valid"]
Shape4 = Tuple[int, int, int, int]
Path = Union[str, "os.PathLike[str]"]

__version__: str

class TrainingDiverged(ArithmeticError): ...

@final
class Cpu:
    def __init__(self, isa: Optional[str] = None, threads: Optional[int] = None) -> None: ...
    @property
    def isa(self) -> str: ...
    @property
    def threads(self) -> int: ...

@final
class Normalization:
    def __init__(self, mean: Float32, variance: Float32, *, epsilon: float = 1e-5) -> None: ...
    @property
    def mean(self) -> Float32: ...
    @property
    def inv_deviation(self) -> Float32: ...

def relu(x: Float32, out: Optional[Float32] = None, *, cpu: Optional[Cpu] = None) -> Float32: ...
def relu_backward(
    y: Float32, dy: Float32, out: Optional[Float32] = None, *, cpu: Optional[Cpu] = None
) -> Float32: ...
def exp(x: Float32, out: Optional[Float32] = None, *, cpu: Optional[Cpu] = None) -> Float32: ...
def softmax(x: Float32, out: Optional[Float32] = None, *, cpu: Optional[Cpu] = None) -> Float32: ...
def softmax_backward(
    y: Float32, dy: Float32, out: Optional[Float32] = None, *, cpu: Optional[Cpu] = None
) -> Float32: ...
def matmul(
    a: Float32,
    b: Float32,
    out: Optional[Float32] = None,
    *,
    add: bool = False,
    cpu: Optional[Cpu] = None,
) -> Float32: ...
def linear(
    x: Float32,
    w: Float32,
    b: Float32,
    out: Optional[Float32] = None,
    *,
    relu: bool = False,
    cpu: Optional[Cpu] = None,
) -> Float32: ...
def linear_backward_input(
    dy: Float32,
    w: Float32,
    x: Optional[Float32] = None,
    out: Optional[Float32] = None,
    *,
    cpu: Optional[Cpu] = None,
) -> Float32: ...
def linear_backward_weights(
    x: Float32,
    dy: Float32,
    dw: Optional[Float32] = None,
    db: Optional[Float32] = None,
    *,
    add: bool = False,
    cpu: Optional[Cpu] = None,
) -> Tuple[Float32, Float32]: ...
def column_sums(
    dy: Float32,
    out: Optional[Float32] = None,
    *,
    add: bool = False,
    cpu: Optional[Cpu] = None,
) -> Float32: ...
def linear_backward_weights_adam(
    x: Float32,
    dy: Float32,
    w: Float32,
    m: Float32,
    v: Float32,
    step: int,
    *,
    learning_rate: float = 1e-4,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    l2: float = 0.0,
    cpu: Optional[Cpu] = None,
) -> float: ...
def conv2d(
    x: Float32,
    w: Float32,
    b: Float32,
    out: Optional[Float32] = None,
    *,
    stride: Pair = 1,
    padding: Padding = "same",
    relu: bool = False,
    cpu: Optional[Cpu] = None,
) -> Float32: ...
def conv2d_backward_input(
    dy: Float32,
    w: Float32,
    shape: Shape4,
    out: Optional[Float32] = None,
    *,
    stride: Pair = 1,
    padding: Padding = "same",
    cpu: Optional[Cpu] = None,
) -> Float32: ...
def conv2d_backward_weights(
    x: Float32,
    dy: Float32,
    size: Pair,
    dw: Optional[Float32] = None,
    db: Optional[Float32] = None,
    *,
    stride: Pair = 1,
    padding: Padding = "same",
    add: bool = False,
    cpu: Optional[Cpu] = None,
) -> Tuple[Float32, Float32]: ...
def relu_batch_norm(
    x: Float32,
    scale: Optional[Float32] = None,
    offset: Optional[Float32] = None,
    *,
    normalization: Optional[Normalization] = None,
    epsilon: float = 1e-5,
    cpu: Optional[Cpu] = None,
) -> Tuple[Float32, Float32, Normalization]: ...
def relu_batch_norm_backward(
    r: Float32,
    normalization: Normalization,
    dy: Float32,
    scale: Optional[Float32] = None,
    *,
    cpu: Optional[Cpu] = None,
) -> Tuple[Float32, Float32, Float32]: ...
def max_pool(
    x: Float32,
    *,
    size: Pair = 2,
    stride: Optional[Pair] = None,
    padding: Padding = "same",
    cpu: Optional[Cpu] = None,
) -> Tuple[Float32, npt.NDArray[np.uint32]]: ...
def max_pool_backward(
    argmax: npt.NDArray[np.uint32],
    dy: Float32,
    shape: Shape4,
    out: Optional[Float32] = None,
    *,
    size: Pair = 2,
    stride: Optional[Pair] = None,
    padding: Padding = "same",
    cpu: Optional[Cpu] = None,
) -> Float32: ...
def normalize_max_pool(
    r: Float32,
    normalization: Normalization,
    *,
    size: Pair = 2,
    stride: Optional[Pair] = None,
    padding: Padding = "same",
    cpu: Optional[Cpu] = None,
) -> Tuple[Float32, npt.NDArray[np.uint8]]: ...
def normalize_max_pool_backward(
    r: Float32,
    normalization: Normalization,
    y: Float32,
    argmax: npt.NDArray[np.uint8],
    dy: Float32,
    out: Optional[Float32] = None,
    *,
    size: Pair = 2,
    stride: Optional[Pair] = None,
    padding: Padding = "same",
    cpu: Optional[Cpu] = None,
) -> Float32: ...
def avg_pool(
    x: Float32,
    out: Optional[Float32] = None,
    *,
    size: Pair = 2,
    stride: Optional[Pair] = None,
    padding: Padding = "same",
    cpu: Optional[Cpu] = None,
) -> Float32: ...
def avg_pool_backward(
    dy: Float32,
    shape: Shape4,
    out: Optional[Float32] = None,
    *,
    size: Pair = 2,
    stride: Optional[Pair] = None,
    padding: Padding = "same",
    cpu: Optional[Cpu] = None,
) -> Float32: ...
def conv_block(
    x: Float32,
    w: Float32,
    b: Float32,
    *,
    stride: Pair = 1,
    padding: Padding = "same",
    pool_size: Pair = 2,
    pool_stride: Optional[Pair] = None,
    epsilon: float = 1e-5,
    cpu: Optional[Cpu] = None,
) -> Tuple[Float32, Float32, Normalization, npt.NDArray[np.uint8]]: ...
def conv_block_backward_weights(
    x: Float32,
    r: Float32,
    normalization: Normalization,
    y: Float32,
    argmax: npt.NDArray[np.uint8],
    dy: Float32,
    *,
    size: Pair = 3,
    stride: Pair = 1,
    padding: Padding = "same",
    pool_size: Pair = 2,
    pool_stride: Optional[Pair] = None,
    cpu: Optional[Cpu] = None,
) -> Tuple[Float32, Float32]: ...
def dropout(
    x: Float32, keep: float, *, seed: int, step: int, cpu: Optional[Cpu] = None
) -> Float32: ...
def cross_entropy(
    probabilities: Float32, labels: Labels, *, cpu: Optional[Cpu] = None
) -> Tuple[float, float]: ...
def cross_entropy_backward(
    probabilities: Float32,
    labels: Labels,
    out: Optional[Float32] = None,
    *,
    scale: float = 1.0,
    cpu: Optional[Cpu] = None,
) -> Float32: ...
def softmax_cross_entropy(
    logits: Float32,
    labels: Labels,
    out: Optional[Float32] = None,
    *,
    scale: Optional[float] = None,
    cpu: Optional[Cpu] = None,
) -> Tuple[float, float, Float32]: ...
def softmax_cross_entropy_forward(
    logits: Float32, labels: Labels, *, cpu: Optional[Cpu] = None
) -> Tuple[float, float]: ...
def softmax_cross_entropy_backward(
    probabilities: Float32,
    labels: Labels,
    out: Optional[Float32] = None,
    *,
    scale: float = 1.0,
    cpu: Optional[Cpu] = None,
) -> Float32: ...
def momentum(
    w: Float32,
    v: Float32,
    g: Float32,
    *,
    learning_rate: float,
    momentum: float = 0.95,
    cpu: Optional[Cpu] = None,
) -> None: ...
def adam(
    w: Float32,
    m: Float32,
    v: Float32,
    g: Float32,
    step: int,
    *,
    learning_rate: float = 1e-4,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    l2: float = 0.0,
    cpu: Optional[Cpu] = None,
) -> float: ...
def study_relu(x: Float32) -> Float32: ...
def study_average_ce(target: Float32, prediction: Float32) -> Tuple[float, float]: ...
def study_grad_ce(prediction: Float32, target: Float32) -> Float32: ...

Progress = Callable[[Dict[str, Any]], Optional[bool]]

@final
class MLP:
    def __init__(
        self, hidden: int = 1000, *, inputs: int = 784, classes: int = 10, seed: int = 1
    ) -> None: ...
    @staticmethod
    def load(path: Path) -> MLP: ...
    def save(self, path: Path) -> None: ...
    def fit(
        self,
        images: Images,
        labels: Labels,
        validation: Optional[Tuple[Images, Labels]] = None,
        test: Optional[Tuple[Images, Labels]] = None,
        *,
        epochs: int = 200,
        learning_rate: float = 1e-5,
        momentum: float = 0.95,
        reduction: Literal["sum", "mean"] = "sum",
        eval_every: int = 1,
        patience: Optional[int] = None,
        progress: Optional[Progress] = None,
        cpu: Optional[Cpu] = None,
    ) -> Dict[str, Any]: ...
    @overload
    def predict(
        self, images: Images, *, probabilities: Literal[False] = False, cpu: Optional[Cpu] = None
    ) -> npt.NDArray[np.intp]: ...
    @overload
    def predict(
        self, images: Images, *, probabilities: Literal[True], cpu: Optional[Cpu] = None
    ) -> Float32: ...
    def evaluate(
        self, images: Images, labels: Labels, *, cpu: Optional[Cpu] = None
    ) -> Tuple[float, float]: ...
    @property
    def weights(self) -> Dict[str, Float32]: ...
    @weights.setter
    def weights(self, weights: Dict[str, Float32]) -> None: ...

@final
class CNN:
    def __init__(
        self,
        hidden: int = 784,
        *,
        filters: int = 32,
        classes: int = 10,
        height: int = 28,
        width: int = 28,
        channels: int = 1,
        seed: int = 1,
    ) -> None: ...
    @staticmethod
    def load(path: Path, *, height: int = 28, width: int = 28) -> CNN: ...
    def save(self, path: Path) -> None: ...
    def fit(
        self,
        images: Images,
        labels: Labels,
        validation: Optional[Tuple[Images, Labels]] = None,
        test: Optional[Tuple[Images, Labels]] = None,
        *,
        epochs: int = 50,
        learning_rate: float = 1e-4,
        batch: int = 32,
        l2: float = 0.0,
        keep_probability: float = 1.0,
        shuffle: bool = True,
        seed: int = 1,
        eval_every: int = 1,
        patience: Optional[int] = None,
        progress: Optional[Progress] = None,
        cpu: Optional[Cpu] = None,
    ) -> Dict[str, Any]: ...
    @overload
    def predict(
        self, images: Images, *, probabilities: Literal[False] = False, cpu: Optional[Cpu] = None
    ) -> npt.NDArray[np.intp]: ...
    @overload
    def predict(
        self, images: Images, *, probabilities: Literal[True], cpu: Optional[Cpu] = None
    ) -> Float32: ...
    def evaluate(
        self, images: Images, labels: Labels, *, cpu: Optional[Cpu] = None
    ) -> Tuple[float, float]: ...
    @property
    def weights(self) -> Dict[str, Float32]: ...
    @weights.setter
    def weights(self, weights: Dict[str, Float32]) -> None: ...
    @property
    def running_moments(self) -> Optional[Tuple[Float32, Float32]]: ...
    @running_moments.setter
    def running_moments(self, moments: Optional[Tuple[Float32, Float32]]) -> None: ...

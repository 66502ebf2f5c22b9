"""What all frameworks' works share: the constants of the protocol, and what a work is."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

EPSILON_BATCH_NORM = 1e-5

MOMENTUM = 0.95
RATE_MOMENTUM = 0.1
RATE_EPOCH = 1e-5
"""The rate of `mlp_epoch`, on the gradient of the losses' sum."""

RATE_ADAM = 1e-4
BETA_1 = 0.9
BETA_2 = 0.999
EPSILON_ADAM = 1e-8


@dataclass
class Work:
    """A prepared work: `run` does it once, `outputs` turns what `run` gave into the protocol's named arrays."""

    run: Callable[[], Any]
    outputs: Callable[[Any], dict[str, Any]]


def adam_rate(step: int) -> float:
    """The rate of Adam's step number `step` (from 1), which corrects the moments' start at 0."""
    return RATE_ADAM * math.sqrt(1 - BETA_2**step) / (1 - BETA_1**step)

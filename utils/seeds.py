"""All random numbers: a named stream per use, derived from the run's seed.

Streams are independent: how much one part draws does not affect the others. The global generators of Python, numpy and
torch are never used.
"""

from __future__ import annotations

import random
import zlib

import numpy as np
import torch


def _sequence(seed: int, stream: str) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, zlib.crc32(stream.encode())])


def numpy_generator(seed: int, stream: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(_sequence(seed, stream)))


def torch_generator(seed: int, stream: str) -> torch.Generator:
    """On the CPU: noise is drawn there and then moved, since CUDA generators differ between cards."""
    state = _sequence(seed, stream).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 31 | int(state[1]) >> 1)


def sampling_generator(seed: int) -> random.Random:
    """Python's generator seeded with the run's seed itself: CoOp's few-shot lists depend on it."""
    return random.Random(seed)

"""The passes that a batch of points is computed in, each on one rank."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from utils.numbers import ceil_div
from utils.ranks import Alone, Ranks


class Passes:
    """Cuts points into passes and computes them, pass i on rank i mod N; every rank receives all results.

    What a pass contains does not depend on N, so neither do the bits of its losses. `multiple`: the number of passes per batch
    is rounded up to a multiple of it, so that as many ranks are equally loaded; passes of another size may differ in the last
    digits.

    >>> points = torch.zeros(40, 2)
    >>> [len(part) for part in Passes().cut(points, 16)], [len(part) for part in Passes(2).cut(points, 16)]
    ([16, 16, 8], [10, 10, 10, 10])
    """

    def __init__(self, multiple: int = 1, ranks: Ranks | None = None):
        self.multiple, self.ranks = multiple, ranks or Alone()

    def cut(self, points: Tensor, per_pass: int) -> Sequence[Tensor]:
        """`points` (B, d) in passes of at most `per_pass`."""
        if self.multiple == 1:
            return points.split(per_pass)
        passes = ceil_div(len(points), per_pass)
        return points.tensor_split(min(max(1, len(points)), ceil_div(passes, self.multiple) * self.multiple))

    def map(self, compute: Callable[[Tensor], Tensor], parts: Sequence[Tensor], extra: int = 0) -> list[Tensor]:
        """compute(part), a number per point and `extra` more, for all `parts`; float64 on the CPU.

        Raises RunError if the ranks' points differ.
        """
        rank, size = self.ranks.rank, self.ranks.size
        if size == 1:
            return [compute(part).cpu() for part in parts]
        lengths = [len(part) + extra for part in parts]
        found = [compute(part).double().cpu().numpy() for part in parts[rank::size]]
        numbers = np.concatenate(found) if found else np.empty(0)
        counts = [sum(lengths[first::size]) for first in range(size)]
        gathered = self.ranks.gather(numbers, counts, _checksum(parts))
        results = [torch.empty(0)] * len(parts)
        for first, values in enumerate(gathered):
            shares = torch.from_numpy(values.copy()).split(lengths[first::size])
            results[first::size] = shares
        return results


def _checksum(parts: Sequence[Tensor]) -> int:
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part.detach().contiguous().numpy().data, checksum)
    return checksum

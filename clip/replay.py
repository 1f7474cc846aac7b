"""A pass of one shape as a CUDA graph, which launches all its kernels at once: launches dominate the time of small passes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Replay:
    """`run`, recorded on inputs of the shape, dtype and device of `example`.

    `run` must perform the same operations each time, never synchronize, and reuse its working memory.
    """

    def __init__(self, run: Callable[[Tensor], Tensor], example: Tensor):
        self.given = example.clone()
        # the setup of a first call must not be recorded, nor run on the stream that other work waits for
        stream = torch.cuda.Stream(example.device)
        stream.wait_stream(torch.cuda.current_stream(example.device))
        with torch.cuda.stream(stream):
            for _ in range(2):
                run(self.given)
        torch.cuda.current_stream(example.device).wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        # other threads may use the device meanwhile
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.result = run(self.given)

    def __call__(self, given: Tensor) -> Tensor:
        self.given.copy_(given)
        self.graph.replay()
        return self.result.clone()

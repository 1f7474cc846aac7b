"""One run on several processes: ranks that compute shares of each query's passes, and all repeat the same updates.

`torchrun --nproc_per_node=N main_sharpzo.py …`, or any launcher that sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and
MASTER_PORT. Only rank 0 reads and writes the run folder and prints. torch is imported only if there are several ranks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from utils.errors import OneLineError, RunError, UserError
from utils.identity import fingerprint
from utils.interrupt import Deadline, Interrupted
from utils.provenance import package_versions, source_version
from utils.settings import Config

if TYPE_CHECKING:
    import numpy as np
    from torch.distributed import Store

Value = TypeVar("Value")


def world_size() -> int:
    """The number of ranks that the launcher started, 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def follows() -> bool:
    """Whether this process is a rank other than 0, as its launcher says."""
    return world_size() > 1 and int(os.environ.get("RANK", "0")) > 0


def resumed_by_launcher(config: Config) -> Config:
    """The settings without `--overwrite` if torchrun restarts the run, which must then be resumed."""
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    return dataclasses.replace(config, overwrite=False) if restarted else config


class Ranks(Protocol):
    """The processes of a run."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def decide(self, function: Callable[[], Value]) -> Value:
        """Returns, or raises, on every rank what `function()` returns or raises on rank 0."""

    def gather(self, numbers: np.ndarray, counts: Sequence[int], topic: int) -> list[np.ndarray]:
        """Each rank's `numbers` float64, `counts` of them per rank. Raises RunError if the ranks' `topic` differs."""

    def require_equal(self, facts: Mapping[str, Any]) -> None:
        """Raises UserError on every rank where a fact is not the same on all."""

    def deadline(self, first: Deadline) -> Deadline:
        """The deadline that all ranks observe at the same step."""


class Alone:
    """A run in one process."""

    rank, size = 0, 1

    def decide(self, function: Callable[[], Value]) -> Value:
        return function()

    def gather(self, numbers: np.ndarray, counts: Sequence[int], topic: int) -> list[np.ndarray]:
        return [numbers]

    def require_equal(self, facts: Mapping[str, Any]) -> None:
        return None

    def deadline(self, first: Deadline) -> Deadline:
        return first


class Group:
    """The ranks of torch's default process group; a collective call that another rank does not answer raises RunError."""

    def __init__(self, *, rank: int, size: int, device: str, timeout: int):
        """`device`: of the tensors that are gathered, "cpu" or "cuda". `timeout`: seconds, for the error message."""
        self.rank, self.size, self.device, self.timeout = rank, size, device, timeout

    def decide(self, function: Callable[[], Value]) -> Value:
        import torch.distributed as dist

        found: list[Any] = [None, None]
        if self.rank == 0:
            try:
                found[0] = function()
            except (OneLineError, OSError) as error:
                found[1] = error
        with self._answered():
            dist.broadcast_object_list(found, src=0)
        value, refusal = found
        if refusal is not None:
            raise refusal
        return value

    def gather(self, numbers: np.ndarray, counts: Sequence[int], topic: int) -> list[np.ndarray]:
        import torch
        import torch.distributed as dist

        message = torch.zeros(1 + max(counts), dtype=torch.float64)
        message[0] = topic
        message[1 : 1 + len(numbers)] = torch.from_numpy(numbers)
        message = message.to(self.device)
        messages = [torch.empty_like(message) for _ in range(self.size)]
        with self._answered():
            dist.all_gather(messages, message)
        received = [part.cpu().numpy() for part in messages]
        different = [rank for rank, part in enumerate(received) if part[0] != received[0][0]]
        if different:
            raise RunError(
                f"rank {different[0]} queries other points than rank 0: their processors or libraries round differently; "
                "use identical machines"
            )
        return [part[1 : 1 + count] for part, count in zip(received, counts, strict=True)]

    def require_equal(self, facts: Mapping[str, Any]) -> None:
        import torch.distributed as dist

        found: list[Any] = [None] * self.size
        with self._answered():
            dist.all_gather_object(found, dict(facts))
        for rank, theirs in enumerate(found):
            for name, value in found[0].items():
                if theirs[name] != value:
                    raise UserError(f"rank {rank}: {name} is {theirs[name]}, and {value} on rank 0; all ranks must agree")

    def deadline(self, first: Deadline) -> Deadline:
        return first if math.isinf(first.deadline) else SharedDeadline(first, self)

    @contextlib.contextmanager
    def _answered(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise RunError(
                f"a rank ended or did not answer within {self.timeout} s (--rank_timeout); run the same command to resume"
            ) from error


class SharedDeadline(Deadline):
    """Rank 0's deadline, for all ranks: their clocks differ, and a rank that stops alone would leave the others waiting."""

    def __init__(self, first: Deadline, ranks: Ranks):
        self.first, self.ranks = first, ranks

    def check(self, ahead: float = 0.0) -> None:
        reason = self.ranks.decide(lambda: self._reason(ahead))
        if reason:
            raise Interrupted(reason)

    def _reason(self, ahead: float) -> str:
        try:
            self.first.check(ahead)
        except Interrupted as interrupted:
            return str(interrupted)
        return ""


@contextlib.contextmanager
def joined(config: Config) -> Iterator[Ranks]:
    """The ranks that the launcher started, `Alone` without one.

    Raises UserError if the ranks' settings, versions or processors differ. Of an error that several ranks raise, one prints
    the line; the others' errors are `quiet`.
    """
    size = world_size()
    if size == 1:
        yield Alone()
        return
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    cuda = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
    if not cuda and config.device not in ("auto", "cpu"):
        raise UserError(f"--device: {config.device}: each rank takes the card of its LOCAL_RANK; use --device cuda")
    if cuda:
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise UserError(f"--device: cuda: this machine has {torch.cuda.device_count()} CUDA devices for rank {local} of it")
        torch.cuda.set_device(local)
    timeout = timedelta(seconds=config.rank_timeout)
    # otherwise NCCL ends the process itself after the timeout, before the checkpoint is saved
    os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=timeout))
        # torchrun's store outlives a restart, and with it the addresses of the ranks that have ended
        store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo", store=store, rank=rank, world_size=size, timeout=timeout
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"the ranks did not find each other within {config.rank_timeout} s (--rank_timeout): {reason}") from error
    try:
        ranks = Group(rank=rank, size=size, device="cuda" if cuda else "cpu", timeout=config.rank_timeout)
        ranks.require_equal(_facts(config, cuda))
        yield ranks
    except OneLineError as error:
        error.quiet = not _claims(store, str(error))
        if rank and not error.quiet:
            error.args = (f"rank {rank}: {error}",)
        raise
    finally:
        dist.destroy_process_group()


def _facts(config: Config, cuda: bool) -> dict[str, Any]:
    """What must be equal on all ranks before anything is loaded."""
    import torch

    settings = {"the digest of the settings": fingerprint(config), "Python": platform.python_version()}
    card = {"the card": torch.cuda.get_device_name()} if cuda else {}
    processor = {"the instruction set": torch.backends.cpu.get_cpu_capability(), "the number of threads": torch.get_num_threads()}
    return settings | package_versions() | {"the commit": source_version()} | card | processor


def _claims(store: Store, message: str) -> bool:
    """Whether this rank is the first to claim printing this message; also where the store ended with rank 0."""
    try:
        return store.add(f"said {hashlib.sha256(message.encode()).hexdigest()}", 1) == 1
    except RuntimeError:
        return True

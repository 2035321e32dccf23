"""Several processes train as one: torchrun starts them, and each takes its share of every global batch.

DistributedDataParallel reduces the gradients. What the processes must agree on (stop now? who reports the error?) goes
through gloo on the hosts, so that no step waits for a device because of it.
"""

import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ...errors import BadInput, ComboError, Interrupted

T = TypeVar("T")

# Gloo's threads need the GIL to release the last tensors; its destructor holds the GIL while it waits for them, which
# deadlocks (pytorch/pytorch#56297). Sleeping hands them the GIL; they need microseconds.
SECONDS_TO_RELEASE = 0.3


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together. Methods that exchange something must be called by all of them."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """True for the one process that writes and prints."""
        return self.rank == 0

    def share(self, total: int) -> slice:
        """This process's part of range(total); the parts are contiguous and in the order of ranks."""
        return slice(self.rank * total // self.count, (self.rank + 1) * total // self.count)

    def any_set(self, event: Event) -> bool:
        """Whether the event is set in any process."""
        if self.count == 1:
            return event.is_set()
        flags = torch.tensor(int(event.is_set()))
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags)

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank (pickled)."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes, on the device of the values."""
        if self.count == 1:
            return values
        values = values.clone()
        dist.all_reduce(values)
        return values / self.count

    def first_does(self, work: Callable[..., T], *arguments: Any) -> T:
        """Call `work` in the first process. All processes get its result, or leave with its error."""
        outcome: list[Any] = [None, None]
        if self.first:
            try:
                outcome[0] = work(*arguments)
            except ComboError as error:
                outcome[1] = error
        if self.count > 1:
            dist.broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise self.once(outcome[1])
        return outcome[0]

    def all_do(self, work: Callable[..., T], *arguments: Any) -> T:
        """Call `work` in every process. If it fails in any, all leave, and the lowest rank that failed reports why."""
        results: list[T] = []
        error: ComboError | None = None
        try:
            results.append(work(*arguments))
        except ComboError as failed:
            error = failed
        codes = self.gather(None if error is None else error.exit_code)
        failures = [(rank, code) for rank, code in enumerate(codes) if code is not None]
        if failures:
            speaker, code = failures[0]
            raise error if error is not None and speaker == self.rank else SystemExit(code)
        return results[0]

    def check_same(self, seen: Any, what: str) -> None:
        """Raise `BadInput` when a dataclass of what each process sees is not the same in all."""
        first, *others = self.gather(seen)
        for rank, other in enumerate(others, start=1):
            if differing := [name for name, value in vars(other).items() if value != getattr(first, name)]:
                names = ", ".join(differing)
                raise self.once(BadInput(f"process {rank} sees other {what} than process 0 (different: {names})"))

    def once(self, error: ComboError) -> BaseException:
        """For an error that all processes have: the first one reports it, the others leave with the same exit code."""
        return error if self.first else SystemExit(error.exit_code)


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the process group of torchrun; without torchrun there is one process.

    Raises `BadInput` when there are more processes than GPUs on this machine, and `ComboError` when another process
    has gone away.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Ranks()
        return
    backend = "gloo"
    if torch.cuda.is_available():
        local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= gpus:
            raise BadInput(f"torchrun --nproc-per-node is more than the {gpus} GPUs of this machine")
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend)
    ranks = Ranks(dist.get_rank(), count)
    try:
        with warnings.catch_warnings():
            # Channels-last gradients of 1 x 1 convolutions: the same memory by other strides.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
            if not ranks.first:
                warnings.simplefilter("ignore")  # the first rank shows them
            try:
                yield ranks
            finally:
                time.sleep(SECONDS_TO_RELEASE)
    except (Interrupted, SystemExit):  # in all processes
        dist.destroy_process_group()
        raise
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            reason = str(error).splitlines()[0]
            raise ComboError(f"another process of this run stopped ({reason}); resume with --resume auto") from error
        raise
    dist.destroy_process_group()

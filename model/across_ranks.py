"""What a forward pass needs of the clips that other processes hold, in training on several."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def rows_of_all_ranks(rows_BC: Tensor) -> tuple[Tensor, int]:
    """The rows of all processes, [sum of B, C], in the order of ranks, and the place of this process's first one.

    Gradients flow back to the process that holds the row. Every rank must call this in step; a process that trains
    alone gets its own rows back.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return rows_BC, 0
    from torch.distributed.nn.functional import all_reduce  # slow to import

    counts = torch.zeros(dist.get_world_size(), dtype=torch.int64)  # on the host: no step waits for a device
    counts[dist.get_rank()] = len(rows_BC)
    dist.all_reduce(counts)
    first = int(counts[: dist.get_rank()].sum())
    after = int(counts.sum()) - first - len(rows_BC)
    return all_reduce(F.pad(rows_BC.float(), (0, 0, first, after))).to(rows_BC.dtype), first

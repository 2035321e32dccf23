"""Trainings as processes of their own, which can be killed; forked from a server that has imported everything."""

import multiprocessing
import os
import socket
import sys
from multiprocessing.process import BaseProcess
from typing import Any

from combo_avs.errors import ComboError

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["combo_avs.pipeline.train.loop"])


def start_training(*arguments: Any, resume: bool = False, rank: int = 0, count: int = 1, port: int = 0) -> BaseProcess:
    """Start `train(*arguments, resume=resume)` as torchrun would start that rank.

    Its exit code is that of the command line.
    """
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environment = {name: str(value) for name, value in names.items()}
    process = CONTEXT.Process(target=_train, args=(environment, arguments, resume))
    process.start()
    return process


def start_ranks(count: int, *arguments: Any, resume: bool = False) -> list[BaseProcess]:
    """Start as many processes that train together."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return [start_training(*arguments, resume=resume, rank=rank, count=count, port=port) for rank in range(count)]


def exit_codes(processes: list[BaseProcess]) -> list[int | None]:
    """Wait for all."""
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def gather_rows(counts: list[int]) -> list[Any]:
    """`rows_of_all_ranks` in as many processes: (rows of all, first, gradient) of each.

    Process r has counts[r] rows of 2 numbers, r + 1 each, and the loss (r + 1) * sum(rows of all * their number).
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with CONTEXT.Manager() as manager:
        found = manager.dict()
        processes = [CONTEXT.Process(target=_gather, args=(r, counts, port, found)) for r in range(len(counts))]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0] * len(counts)
        return [found[rank] for rank in range(len(counts))]


def _gather(rank: int, counts: list[int], port: int, found: Any) -> None:
    import torch
    import torch.distributed as dist

    from combo_avs.model.across_ranks import rows_of_all_ranks

    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=len(counts))
    own = torch.full((counts[rank], 2), rank + 1.0, requires_grad=True)
    whole, first = rows_of_all_ranks(own)
    ((rank + 1) * whole * torch.arange(len(whole))[:, None]).sum().backward()
    assert own.grad is not None
    found[rank] = whole.tolist(), first, own.grad.tolist()
    dist.barrier()
    dist.destroy_process_group()


def _train(environment: dict[str, str], arguments: tuple[Any, ...], resume: bool) -> None:
    os.environ.update(environment)
    from combo_avs.pipeline.train.loop import train

    try:
        train(*arguments, resume=resume)
    except ComboError as error:
        print(f"combo: {error}", file=sys.stderr)
        sys.exit(error.exit_code)

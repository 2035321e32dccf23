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


def _train(environment: dict[str, str], arguments: tuple[Any, ...], resume: bool) -> None:
    os.environ.update(environment)
    from combo_avs.pipeline.train.loop import train

    try:
        train(*arguments, resume=resume)
    except ComboError as error:
        print(f"combo: {error}", file=sys.stderr)
        sys.exit(error.exit_code)

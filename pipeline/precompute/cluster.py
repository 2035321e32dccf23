"""Where Dask workers come from: this machine, a scheduler that is running already, or SLURM."""

import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import TYPE_CHECKING, Any

from ...errors import BadInput
from ...files import lock
from ..config.precompute import SlurmConfig

if TYPE_CHECKING:
    from dask_jobqueue.slurm import SLURMCluster
    from distributed import Client

SECONDS_TO_CONNECT = 5
SCRATCH = "combo-dask-"  # prefix of the folders for Dask's own files
SECONDS_TO_LOCK = 60.0  # a scratch folder this young may be that of a run which is about to lock it
NO_DASHBOARD = "127.0.0.1:0"  # Dask always opens a web server: on a free port, for this machine alone
SCHEDULER = {
    # Dask gives a task up when more workers than this have died of it: a shard gets three.
    "distributed.scheduler.allowed-failures": 2,
    # A worker gets one shard at a time, so that no other is blamed for a shard that kills it.
    "distributed.scheduler.worker-saturation": 1.0,
    # Dask samples the stack of every worker and keeps an hour of it, which nobody reads.
    "distributed.worker.profile.enabled": False,
}

# How long a worker that died may take to restart before it is given up: by default 15 s, less than it takes to load
# PyTorch from a slow disk. Ours are restarted on the same machine, however long it takes; a SLURM job may be gone.
LOST_AFTER = "distributed.deploy.lost-worker-timeout"


@contextmanager
def local_workers(count: int) -> Iterator["Client"]:
    """Worker processes of one thread each, which end with this process, as does their scratch folder."""
    from dask import config as dask_config
    from distributed import Client, LocalCluster

    with (
        scratch_folder() as scratch,
        dask_config.set(SCHEDULER | {LOST_AFTER: "1 day", "temporary-directory": scratch}),
        LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            processes=True,
            dashboard_address=NO_DASHBOARD,
            silence_logs=logging.CRITICAL,  # a failed shard or a stopped job is reported by us, once
            memory_limit=0,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextmanager
def running_scheduler(address: str) -> Iterator["Client"]:
    """Raises `BadInput` when no scheduler answers at `address` within seconds."""
    from distributed import Client

    try:
        client = Client(address, timeout=SECONDS_TO_CONNECT)
    except Exception as error:  # a server that is no scheduler, or of another version of Dask, can fail in any way
        raise BadInput(
            f"--scheduler {address}: no Dask scheduler answers there ({type(error).__name__}: {error}); start one with "
            "'dask scheduler', and name it as tcp://host:8786"
        ) from error
    with client:
        yield client


@contextmanager
def slurm_workers(config: SlurmConfig, most: int) -> Iterator["Client"]:
    """Jobs on a SLURM cluster, at most `most` workers; they are cancelled at the end."""
    from dask import config as dask_config
    from distributed import Client

    cluster: Any  # what its class declares to enter is a coroutine
    with (
        scratch_folder() as scratch,
        dask_config.set(SCHEDULER | {LOST_AFTER: "1 minute", "temporary-directory": scratch}),
        slurm_cluster(config) as cluster,
        Client(cluster) as client,
    ):
        jobs = min(config.jobs, -(-most // workers_per_job(config)))
        cluster.adapt(minimum_jobs=jobs, maximum_jobs=jobs)  # rather than `scale`, which does not replace lost jobs
        yield client


def slurm_cluster(config: SlurmConfig) -> "SLURMCluster":
    """A scheduler in this process and the script of its jobs; no job is submitted yet.

    Raises `BadInput` when dask-jobqueue is missing, or when the network interface is.
    """
    try:
        from dask_jobqueue.slurm import SLURMCluster
    except ImportError as error:
        raise BadInput("--slurm needs dask-jobqueue; install it with pip install 'combo-avs[slurm]'") from error
    try:
        return SLURMCluster(**_slurm_options(config), scheduler_options={"dashboard_address": NO_DASHBOARD})
    except ValueError as error:
        raise BadInput(f"precompute.slurm: {error}") from error


def workers_per_job(config: SlurmConfig) -> int:
    return max(1, config.gpus)


def _slurm_options(config: SlurmConfig) -> dict[str, Any]:
    """Options of dask-jobqueue, which reads those that are None from a jobqueue.yaml of the machine."""
    gpus = [f"--gpus-per-node={config.gpus}"] if config.gpus else []
    workers = workers_per_job(config)
    return {
        "queue": config.queue,
        "account": config.account,
        "job_name": "combo-precompute",
        "processes": workers,
        "cores": workers,  # Dask's word for threads: one per process
        "job_cpu": config.cores,
        "memory": config.memory,
        "walltime": config.walltime,
        "interface": config.interface,
        "job_extra_directives": [*gpus, *config.directives],
        "job_script_prologue": list(config.prologue),
        "worker_extra_args": ["--memory-limit", "0"],  # SLURM itself watches the memory
        "log_directory": config.log_folder,
    }


@contextmanager
def scratch_folder() -> Iterator[str]:
    """A folder for Dask's own files, locked while this run lives and removed at its end.

    Those of runs that were killed are removed now.
    """
    for folder in Path(gettempdir()).glob(f"{SCRATCH}*"):
        with suppress(OSError):  # it is already gone, or in use
            status = folder.lstat()
            if status.st_uid == os.getuid() and time.time() - status.st_mtime > SECONDS_TO_LOCK:
                with _locked(folder):
                    shutil.rmtree(folder, ignore_errors=True)
    with TemporaryDirectory(prefix=SCRATCH, ignore_cleanup_errors=True) as name, _locked(Path(name)):
        yield name


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The lock ends with the process. Raises `BlockingIOError` when another process has it."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        lock(handle, folder, wait=False)
        yield
    finally:
        os.close(handle)

"""Where Dask workers come from: this machine, a scheduler that is running already, or SLURM."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ...errors import BadInput
from ..config.precompute import SlurmConfig
from .scratch import scratch_folder

if TYPE_CHECKING:
    from dask_jobqueue import SLURMCluster
    from distributed import Client

SECONDS_TO_CONNECT = 5
NO_DASHBOARD = "127.0.0.1:0"  # Dask always opens a web server: on a port that nobody else wants, for this machine alone
SCHEDULER = {
    # Dask gives a task up when more workers than this have died of it: a shard gets three.
    "distributed.scheduler.allowed-failures": 2,
    # Only the shard in hand goes to a worker, none in store: what waits behind a deadly shard is not blamed with it.
    "distributed.scheduler.worker-saturation": 1.0,
    # Dask samples the stack of every worker all the time and keeps an hour of it: memory that grows, for nobody.
    "distributed.worker.profile.enabled": False,
}

# How long a worker that ended may take to be back before it is written off: by default 15 s, less than it takes to load
# PyTorch from a slow disk. Ours are started again by the same machine, however long it takes; a SLURM job may be gone.
LOST_AFTER = "distributed.deploy.lost-worker-timeout"


@contextmanager
def local_workers(count: int) -> Iterator["Client"]:
    """Worker processes of one thread each, that end with this process; their scratch folder goes as well."""
    import dask
    from distributed import Client, LocalCluster

    with (
        scratch_folder() as scratch,
        dask.config.set(SCHEDULER | {LOST_AFTER: "1 day", "temporary-directory": scratch}),
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
    except Exception as error:  # whatever a server that is none, or one of another version of Dask, makes of a greeting
        raise BadInput(
            f"--scheduler {address}: no Dask scheduler answers there ({type(error).__name__}: {error}); start one with "
            "'dask scheduler', and name it as tcp://host:8786"
        ) from error
    with client:
        yield client


@contextmanager
def slurm_workers(config: SlurmConfig, most: int) -> Iterator["Client"]:
    """Jobs on a SLURM cluster, at most `most` workers; they are cancelled at the end."""
    import dask
    from distributed import Client

    with (
        scratch_folder() as scratch,
        dask.config.set(SCHEDULER | {LOST_AFTER: "1 minute", "temporary-directory": scratch}),
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
        from dask_jobqueue import SLURMCluster
    except ImportError as error:
        raise BadInput("--slurm needs dask-jobqueue; install it with pip install 'combo-avs[slurm]'") from error
    try:
        return SLURMCluster(**_slurm_options(config), scheduler_options={"dashboard_address": NO_DASHBOARD})
    except ValueError as error:
        raise BadInput(f"precompute.slurm: {error}") from error


def workers_per_job(config: SlurmConfig) -> int:
    return max(1, config.gpus)


def _slurm_options(config: SlurmConfig) -> dict[str, Any]:
    """As dask-jobqueue calls it; for what is None it looks into a jobqueue.yaml of the machine."""
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

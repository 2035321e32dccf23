"""What stage one runs, and on what."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from ...base import Section


def _walltime(text: str) -> str:
    if not re.fullmatch(r"(\d+-)?\d{1,2}:\d{2}(:\d{2})?", text):
        raise ValueError("write it as hours:minutes:seconds or days-hours:minutes:seconds, in quotes")
    return text


def _memory(text: str) -> str:
    if not re.fullmatch(r"\d+(\.\d+)? ?[KMGT]i?B", text):
        raise ValueError("write it with its unit, for example 32GB")
    return text


def _directive(text: str) -> str:
    if not re.fullmatch(r"--?[A-Za-z][^\n]*", text):
        raise ValueError("write it as after #SBATCH, on one line, for example --constraint=a100")
    return text


class SlurmConfig(Section):
    """The jobs that `--slurm` submits. Each holds one worker process per GPU, or one if it has none."""

    queue: str | None = Field(default=None, description="partition; null: the cluster's default")
    account: str | None = Field(default=None, description="account to charge; null: the cluster's default")
    jobs: int = Field(
        default=1, ge=1, description="jobs at a time; one that ends early (preemption) is submitted again"
    )
    gpus: int = Field(default=1, ge=0, description="GPUs per job, as --gpus-per-node")
    cores: int = Field(default=4, ge=1, description="CPU cores per job")
    memory: Annotated[str, AfterValidator(_memory)] = Field(default="32GB", description="memory per job")
    walltime: Annotated[str, AfterValidator(_walltime)] = Field(
        default="04:00:00", description="time limit of a job, hours:minutes:seconds"
    )
    interface: str | None = Field(
        default=None, description="network interface on which workers reach the scheduler, for example ib0"
    )
    directives: tuple[Annotated[str, AfterValidator(_directive)], ...] = Field(
        default=(), description="more #SBATCH lines, for example --constraint=a100"
    )
    prologue: tuple[str, ...] = Field(
        default=(), description="shell lines before the worker starts, for example module load cuda"
    )
    log_folder: str | None = Field(
        default=None, description="folder for the output of the jobs; null: where sbatch puts it"
    )


class PrecomputeConfig(Section):
    """Parameters of the generator and the encoder that the command names.

    `generator` and `encoder` are validated by the config class of the generator or encoder itself.
    """

    generator: dict[str, Any] = Field(
        default={}, description='parameters of the proposal generator, for example {"scales": [50, 200]}'
    )
    encoder: dict[str, Any] = Field(
        default={}, description='parameters of the audio encoder, for example {"weights": "vggish-10086976.pth"}'
    )
    batch_frames: int = Field(default=8, ge=1, description="frames per call of the generator or encoder")
    device: str = Field(default="auto", description="cpu, cuda, ...; auto: cuda where the worker has one")
    max_masks: int = Field(
        default=4096, ge=1, le=65_534, description="masks kept per frame: those of the highest predicted IoU"
    )
    temporal: bool = Field(
        default=False, description="Maskiges give an object the same colour in all frames of its clip"
    )
    slurm: SlurmConfig = Field(default=SlurmConfig(), description="the jobs that --slurm submits")

"""What stage one runs, and on what."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from ...base import Section


def _matching(pattern: str, advice: str) -> AfterValidator:
    """Refuses text of another form, with advice on how to write it."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(advice)
        return text

    return AfterValidator(check)


WALLTIME = r"(\d+-)?\d{1,2}:\d{2}(:\d{2})?"
Walltime = Annotated[str, _matching(WALLTIME, "write hours:minutes:seconds or days-hours:minutes:seconds, in quotes")]
Memory = Annotated[str, _matching(r"\d+(\.\d+)? ?[KMGT]i?B", "write it with its unit, for example 32GB")]
Directive = Annotated[str, _matching(r"--?[A-Za-z][^\n]*", "write it as after #SBATCH, on one line: --constraint=a100")]


class SlurmConfig(Section):
    """The jobs that `--slurm` submits. Each holds one worker process per GPU, or one if it has none."""

    queue: str | None = Field(default=None, description="partition; null: the cluster's default")
    account: str | None = Field(default=None, description="account to charge; null: the cluster's default")
    jobs: int = Field(default=1, ge=1, description="jobs at a time; one that is preempted is submitted again")
    gpus: int = Field(default=1, ge=0, description="GPUs per job, as --gpus-per-node")
    cores: int = Field(default=4, ge=1, description="CPU cores per job")
    memory: Memory = Field(default="32GB", description="memory per job")
    walltime: Walltime = Field(default="04:00:00", description="time limit of a job, hours:minutes:seconds")
    interface: str | None = Field(default=None, description="network interface to the scheduler, for example ib0")
    directives: tuple[Directive, ...] = Field(default=(), description="more #SBATCH lines, e.g. --constraint=a100")
    prologue: tuple[str, ...] = Field(default=(), description="shell lines before the worker, e.g. module load cuda")
    log_folder: str | None = Field(default=None, description="folder for the jobs' output; null: where sbatch puts it")


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
    max_masks: int = Field(default=4096, ge=1, le=65_534, description="masks kept per frame, by predicted IoU")
    temporal: bool = Field(default=False, description="in Maskiges, an object has one colour in all frames of its clip")
    slurm: SlurmConfig = Field(default=SlurmConfig(), description="the jobs that --slurm submits")

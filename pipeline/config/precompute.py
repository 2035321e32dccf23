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

    queue: str | None = None  # partition; None: the cluster's default
    account: str | None = None
    jobs: int = Field(1, ge=1)  # kept at this number: one that ends early, by preemption say, is submitted again
    gpus: int = Field(1, ge=0)  # per job, as --gpus-per-node
    cores: int = Field(4, ge=1)  # CPU cores per job
    memory: Annotated[str, AfterValidator(_memory)] = "32GB"  # per job
    walltime: Annotated[str, AfterValidator(_walltime)] = "04:00:00"
    interface: str | None = None  # network interface that workers reach the scheduler on, for example ib0
    directives: tuple[Annotated[str, AfterValidator(_directive)], ...] = ()  # more #SBATCH lines
    prologue: tuple[str, ...] = ()  # shell lines before the worker starts, for example "module load cuda"
    log_folder: str | None = None  # for the output of the jobs; None: where sbatch puts it


class PrecomputeConfig(Section):
    """Parameters of the generator and the encoder that the command names.

    `generator` and `encoder` are validated by the config class of the generator or encoder itself.
    """

    generator: dict[str, Any] = Field({})  # for example {"scales": [50, 200]} for felzenszwalb
    encoder: dict[str, Any] = Field({})  # for example {"weights": "vggish-10086976.pth"} for vggish
    batch_frames: int = Field(8, ge=1)  # frames per call of the generator or encoder
    device: str = "auto"  # auto: cuda where the worker has one
    max_masks: int = Field(4096, ge=1, le=65_534)  # per frame; those of the highest predicted IoU are kept
    temporal: bool = False  # Maskiges give an object the same colour in all frames of its clip
    slurm: SlurmConfig = SlurmConfig()

"""How a model is trained. Defaults are the published recipe for S4."""

from typing import Literal

from pydantic import Field

from ...base import Section


class TrainConfig(Section):
    """Optimisation (paper, appendix; released settings where the paper is silent)."""

    steps: int = Field(90_000, ge=1)
    clips_per_batch: int = Field(8, ge=1)  # of all processes together
    lr: float = Field(1e-4, gt=0)
    backbone_lr_factor: float = Field(0.1, ge=0)
    weight_decay: float = Field(0.05, ge=0)
    poly_power: float = Field(0.9, ge=0)  # lr * (1 - step / steps) ** power, no warm-up
    clip_norm: float = Field(0.01, gt=0)  # L2 norm of the gradient of the whole model
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    micro_batch_clips: int | None = Field(None, ge=1)  # clips per backward pass of a process; same loss, less memory
    checkpointing: bool = False  # backward computes activations again: less memory, more time
    loader_threads: int = Field(2, ge=1)  # of each process, that read and augment batches ahead of time
    backbone_weights: str | None = None  # ImageNet weights for both encoders
    start_from: str | None = None  # weights of a whole network to go on from, for example S4's for MS3
    subset: Literal["s4", "ms3", "avss"] | None = None  # the only one that may be trained on; presets name theirs
    evaluate_every: int = Field(5_000, ge=1)  # steps between evaluations on val
    checkpoint_every: int = Field(1_000, ge=1)
    ema_decay: float | None = Field(None, gt=0, lt=1)  # of the moving average of the weights; evaluated in their place
    seed: int = Field(0, ge=0)
    device: str = "auto"  # auto: cuda when there is one

"""How a model is trained. Defaults are the published recipe for S4."""

from typing import Literal

from pydantic import Field

from ...base import Section


class TrainConfig(Section):
    """Optimisation (paper, appendix; released settings where the paper is silent)."""

    steps: int = Field(default=90_000, ge=1, description="training steps")
    clips_per_batch: int = Field(default=8, ge=1, description="clips per step, of all processes together")
    lr: float = Field(default=1e-4, gt=0, description="learning rate of the first step")
    backbone_lr_factor: float = Field(default=0.1, ge=0, description="the backbones' learning rate, as a share of lr")
    weight_decay: float = Field(default=0.05, ge=0, description="of AdamW; norm layers and embeddings have none")
    poly_power: float = Field(default=0.9, ge=0, description="learning rate: lr * (1 - step / steps) ** poly_power")
    clip_norm: float = Field(default=0.01, gt=0, description="maximum L2 norm of the gradient of the whole model")
    precision: Literal["fp32", "fp16", "bf16"] = Field(default="fp32", description="of the forward pass, by autocast")
    micro_batch_clips: int | None = Field(
        default=None,
        ge=1,
        description="clips per backward pass of a process: same loss, less memory; null: all, the only choice with "
        "model.audio_queries=published",
    )
    checkpointing: bool = Field(default=False, description="recompute activations in the backward pass: less memory")
    loader_threads: int = Field(default=2, ge=1, description="threads per process that read and augment batches")
    backbone_weights: str | None = Field(default=None, description="file of ImageNet weights for both encoders")
    start_from: str | None = Field(default=None, description="file of weights of a whole network to start from")
    subset: Literal["s4", "ms3", "avss"] | None = Field(
        default=None, description="the only subset that may be trained on; presets name theirs; null: any"
    )
    evaluate_every: int = Field(default=5_000, ge=1, description="steps between evaluations on val")
    checkpoint_every: int = Field(default=1_000, ge=1, description="steps between checkpoints")
    ema_decay: float | None = Field(
        default=None, gt=0, lt=1, description="of a moving average of the weights, evaluated in their place; null: none"
    )
    seed: int = Field(default=0, ge=0, description="seed of initial weights, batches, augmentation and sampled points")
    device: str = Field(default="auto", description="cpu, cuda, cuda:1, ...; auto: cuda if there is one")

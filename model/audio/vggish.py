"""VGGish (Hershey et al., 2017), COMBO's frozen audio encoder (section 3.1), under its published key names.

Shapes: L seconds, C channels, H steps of the log-mel (96), W mel bands (64), D = 128.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from ...base import Section
from ...errors import BadInput
from ..weights.read import read_state_dict
from ..weights.registry import find_weights
from ..weights.state import State, differences, fitting, load_weights, sha256_of_weights

_AT_ONCE = 64  # seconds per pass; the first layers keep 3 MB for each


class VggishConfig(Section):
    """Weights are `vggish-10086976.pth`, or the same keys as `.safetensors`."""

    weights: Path | None = Field(default=None, description="weights file; none: the published one, as fetched")


def _convolutions() -> nn.Sequential:
    layers: list[nn.Module] = []
    previous = 1
    for block in ((64,), (128,), (256, 256), (512, 512)):
        for width in block:
            layers += [nn.Conv2d(previous, width, 3, padding=1), nn.ReLU()]
            previous = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


class VGGish(nn.Module):
    """log_mel: float32 [L, 96, 64] or [L, 1, 96, 64]. Returns float32 [L, 128], never negative.

    The last ReLU stays on. Features of other VGGish releases, taken before that ReLU, are not the ones COMBO
    was trained on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = _convolutions()
        self.embeddings = nn.Sequential(
            *(nn.Linear(512 * 6 * 4, 4096), nn.ReLU()),
            *(nn.Linear(4096, 4096), nn.ReLU()),
            *(nn.Linear(4096, 128), nn.ReLU()),
        )

    def forward(self, log_mel: Tensor) -> Tensor:
        x_LCHW = self.features(log_mel.reshape(-1, 1, 96, 64))
        x_LHWC = x_LCHW.permute(0, 2, 3, 1)  # the linear layers expect channels last
        return self.embeddings(x_LHWC.flatten(1))


def postprocess(embeddings: Tensor, eigen_vectors: Tensor, means: Tensor) -> Tensor:
    """The PCA and quantisation of the AudioSet release, which COMBO and AVSBench leave out.

    embeddings: float32 [L, 128]. eigen_vectors: [128, 128]. means: [128] or [128, 1].
    Returns float32 [L, 128], whole numbers 0..255: clamped to -2..2, then mapped linearly.
    """
    projected = (embeddings - means.reshape(-1)) @ eigen_vectors.T
    return ((projected.clamp(-2.0, 2.0) + 2.0) * (255.0 / 4.0)).round()


@contextlib.contextmanager
def plain_float32(device: torch.device) -> Iterator[None]:
    """Neither autocast nor TF32, so that cached features do not depend on what the caller has switched on."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with (
            torch.autocast(device.type, enabled=False),
            torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


class VggishEncoder:
    """`AudioEncoder` around `VGGish`; reads the log-mel, not the waveform."""

    name = "vggish"
    version = "1"
    dim = 128

    def __init__(self, network: VGGish, weights_sha256: str) -> None:
        self.network = network
        self.weights_sha256 = weights_sha256
        self.parameters: dict[str, Any] = {}

    @torch.no_grad()
    def __call__(self, log_mel: Tensor, waveform: Tensor) -> Tensor:
        with plain_float32(log_mel.device):
            return torch.cat([self.network(part.float()) for part in log_mel.split(_AT_ONCE)])

    def to(self, device: torch.device) -> "VggishEncoder":
        self.network.to(device)
        return self


def build_vggish(config: VggishConfig) -> VggishEncoder:
    """The encoder "vggish", on the CPU. Raises BadInput if the file is missing, damaged or not the published one."""
    path = find_weights("vggish", config.weights)
    weights, sha256 = read_vggish(path), sha256_of_weights("vggish", config.weights, path)
    with torch.device("meta"):
        network = VGGish()  # 72 million random numbers would take longer than reading the file
    network.to_empty(device="cpu").requires_grad_(False).eval()
    load_weights(network, weights, path)
    return VggishEncoder(network, sha256)


def read_vggish(path: Path) -> dict[str, Tensor]:
    """The weights of the network alone; the post-processing matrices of some files (`pproc.*`) are not needed."""

    def without_processing(weights: State) -> dict[str, Tensor]:
        return {key: tensor for key, tensor in weights.items() if not key.startswith("pproc.")}

    return dict(fitting(_published_shapes(), read_state_dict(path), path, without_processing))


def _published_shapes() -> State:
    with torch.device("meta"):
        return VGGish().state_dict()


def check_vggish(weights: State, source: Path) -> None:
    """Raises `BadInput` listing every key that is missing, unknown or misshapen."""
    if problems := differences(_published_shapes(), weights):
        raise BadInput.listing(f"the VGGish in {source} is not the published one:", problems)

"""The Audio Spectrogram Transformer (Gong et al., 2021), from the optional package transformers.

Beyond the paper: 768 features per second, so `model.audio_dim` is 768. Letters: L seconds, S samples, D features.
"""

from typing import Any

import torch
from torch import Tensor

from ..transformers_models import make_model, transformers_package
from ..weights.frozen import WeightsConfig
from .vggish import plain_float32

AT_ONCE = 16  # seconds per pass on a GPU; each is 1,214 tokens
CLASSIFIER = ("classifier.",)  # of AudioSet's 527 classes, in the file but not needed


class AstConfig(WeightsConfig):
    """Weights are those of MIT/ast-finetuned-audioset-10-10-0.4593, as `.safetensors`."""


class AstEncoder:
    """`AudioEncoder` around an `ASTModel`; reads the waveform, not the log-mel.

    Each second becomes a Kaldi filter bank [98, 128], padded with zeros to the 1,024 steps of AudioSet's clips, as the
    published front end does with short sounds. The features are the mean of the two output tokens after the last norm.
    On a CPU each second is processed alone, so that its features do not depend on the batch to the last bit.
    """

    version = "1"

    def __init__(self, name: str, model: Any, weights_sha256: str | None) -> None:
        from transformers import ASTFeatureExtractor

        self.name, self.model, self.weights_sha256 = name, model, weights_sha256
        self.parameters: dict[str, Any] = {}
        self.dim: int = model.config.hidden_size
        self.front_end = ASTFeatureExtractor(max_length=model.config.max_length)

    @torch.no_grad()
    def __call__(self, log_mel: Tensor, waveform: Tensor) -> Tensor:
        at_once = 1 if waveform.device.type == "cpu" else AT_ONCE
        with plain_float32(waveform.device):
            features = [self._encode(part) for part in waveform.float().split(at_once) if len(part)]
        return torch.cat(features) if features else waveform.new_zeros(0, self.dim, dtype=torch.float32)

    def _encode(self, waveform_LS: Tensor) -> Tensor:
        sounds = list(waveform_LS.cpu().numpy())  # the front end works on the CPU
        filter_banks = self.front_end(sounds, sampling_rate=16_000, return_tensors="pt")["input_values"]
        return self.model(filter_banks.to(waveform_LS.device)).pooler_output

    def to(self, device: torch.device) -> "AstEncoder":
        self.model.to(device)
        return self


def build_ast(config: AstConfig) -> AstEncoder:
    """The encoder "ast", on the CPU. Raises BadInput as `make_model`."""
    transformers = transformers_package("ast")
    model, sha256 = make_model(transformers.ASTModel, transformers.ASTConfig(), "ast", config, CLASSIFIER)
    return AstEncoder(config.name("ast"), model, sha256)

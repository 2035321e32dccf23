"""AST as an audio encoder: the contract, transformers' own way beside it, weights, and what it takes to train on it."""

import functools
import sys

import numpy as np
import pytest
import torch
import transformers
from contracts import AudioEncoderContract, seconds, tone
from safetensors.torch import save_file

from combo_avs.errors import BadInput
from combo_avs.model.audio import encoder as named_encoder
from combo_avs.model.audio.ast import AT_ONCE, CLASSIFIER, AstEncoder
from combo_avs.model.transformers_models import make_model
from combo_avs.model.weights import registry
from combo_avs.model.weights.frozen import WeightsConfig
from combo_avs.pipeline.config.tree import load_config
from combo_avs.pipeline.train.step import make_trainer


def small_config():
    return transformers.ASTConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96, max_length=128
    )


@functools.cache
def small_model():
    """Random, with activations near 1, so that sounds differ."""
    model, _ = make_model(transformers.ASTModel, small_config(), "small", WeightsConfig(untrained=True))
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
                parameter.copy_(torch.randn(parameter.shape, generator=random) * 2 * fan_in**-0.5)
    return model


class TestContract(AudioEncoderContract):
    @pytest.fixture
    def encoder(self):
        return AstEncoder("small", small_model(), None)

    def test_a_second_is_the_same_in_any_batch_to_the_last_bit(self, encoder):
        log_mel, waveform = seconds(tone(500, beats=0.7))
        together = encoder(log_mel, waveform)
        for i in range(8):
            assert torch.equal(encoder(log_mel[i : i + 1], waveform[i : i + 1])[0], together[i])


def test_as_transformers():
    _, waveform = seconds(tone(700, beats=2))
    extractor = transformers.ASTFeatureExtractor(max_length=128)
    inputs = extractor([sound.numpy() for sound in waveform], sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        expected = small_model()(**inputs).pooler_output
    torch.testing.assert_close(AstEncoder("small", small_model(), None)(torch.zeros(8, 96, 64), waveform), expected)


def test_long_sounds_go_in_parts():
    waveform = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, (AT_ONCE + 3, 16_000))).float()
    encoder = AstEncoder("small", small_model(), None)
    features = encoder(torch.zeros(len(waveform), 96, 64), waveform)
    assert features.shape == (AT_ONCE + 3, 48)
    torch.testing.assert_close(features[-1:], encoder(torch.zeros(1, 96, 64), waveform[-1:]))


def test_weights_in_the_published_key_names(tmp_path, monkeypatch):
    """The published file has a classifier around the encoder, and the keys of an older transformers."""
    file = registry.WeightFile("small", "small.safetensors", "https://x/small.safetensors", "-", "-", 1)
    monkeypatch.setitem(registry.WEIGHT_FILES, "small", file)
    whole = transformers.ASTForAudioClassification(small_config())
    whole.audio_spectrogram_transformer.load_state_dict(small_model().state_dict())
    whole.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    model, sha256 = make_model(transformers.ASTModel, small_config(), "small", WeightsConfig(weights=path), CLASSIFIER)
    assert len(sha256) == 64
    for key, tensor in small_model().state_dict().items():
        assert torch.equal(model.state_dict()[key], tensor), key

    save_file({"audio_spectrogram_transformer.layernorm.weight": torch.ones(48)}, path)
    with pytest.raises(BadInput, match=r"(?s)model\.safetensors does not fit small.*missing: .*layernorm\.bias"):
        make_model(transformers.ASTModel, small_config(), "small", WeightsConfig(weights=path), CLASSIFIER)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(BadInput, match=r"ast needs the package transformers: pip install"):
        named_encoder("ast", {"untrained": True})


@pytest.mark.slow
def test_the_published_size():
    encoder = named_encoder("ast", {"untrained": True})
    assert (encoder.name, encoder.dim) == ("untrained-ast", 768)
    parameters = sum(p.numel() for p in encoder.model.parameters())
    assert parameters == pytest.approx(86.2e6, rel=0.01)
    assert encoder(*(x[:1] for x in seconds(tone(440)))).shape == (1, 768)


def test_training_takes_its_width_and_asks_for_it():
    small = ["model.width=32", "model.heads=2", "model.num_queries=4", "model.encoder_layers=1"]
    with pytest.raises(BadInput, match=r"has 768 features.*--set model\.audio_dim=768"):
        make_trainer(load_config("tiny", small), num_classes=2, audio_dim=768)
    trainer = make_trainer(load_config("tiny", [*small, "model.audio_dim=768"]), num_classes=2, audio_dim=768)
    assert any(parameter.shape[-1] == 768 for parameter in trainer.model.parameters() if parameter.ndim == 2)

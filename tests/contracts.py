"""What every proposal generator and every audio encoder must do: test classes inherit their contract."""

import json
import re

import numpy as np
import pytest
import torch

from combo_avs.data.audio import log_mel_examples
from combo_avs.model.audio.interface import AudioEncoder
from combo_avs.model.foundation.interface import ProposalGenerator, Proposals


def check_identity(model: ProposalGenerator | AudioEncoder) -> None:
    """The fingerprint of a cache can be made from it, and does not depend on where the weights lie."""
    assert isinstance(model.name, str)
    assert isinstance(model.version, str)
    assert json.loads(json.dumps(model.parameters)) == model.parameters
    assert not re.search(r"\.(pth?|safetensors|ckpt|bin)\b", json.dumps(model.parameters))
    assert model.weights_sha256 is None or re.fullmatch(r"[0-9a-f]{64}", model.weights_sha256)


# --- Proposal generators ---


def scene(height: int, width: int, seed: int = 3) -> torch.Tensor:
    """A frame with three coloured things on a dull ground: uint8 [H, W, 3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    frame = rng.normal(100, 4, (height, width, 3))
    for colour in ((220, 40, 40), (40, 200, 60), (50, 60, 230)):
        cy, cx, r = rng.integers(0, height), rng.integers(0, width), rng.integers(6, 6 + height // 4)
        frame[(y - cy) ** 2 + (x - cx) ** 2 < r * r] = colour
    return torch.from_numpy(frame.clip(0, 255).astype(np.uint8))


def noise(height: int, width: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8))


def one_colour(height: int, width: int) -> torch.Tensor:
    return torch.full((height, width, 3), 90, dtype=torch.uint8)


def assert_equal_proposals(a: Proposals, b: Proposals) -> None:
    for name in ("masks", "predicted_iou", "stability", "boxes", "points", "areas"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name


class ProposalGeneratorContract:
    """Inherit, and give a fixture `generator`."""

    @pytest.mark.parametrize("size", [(48, 64), (37, 53)])
    @pytest.mark.parametrize("frame", [scene, noise, one_colour])
    def test_records_agree_with_masks(self, generator: ProposalGenerator, frame, size):
        height, width = size
        (proposals,) = generator(frame(height, width)[None])
        k = len(proposals.masks)
        assert proposals.masks.dtype == torch.bool
        assert proposals.masks.shape == (k, height, width)
        expected = {
            "predicted_iou": (torch.float32, (k,)),
            "stability": (torch.float32, (k,)),
            "boxes": (torch.int32, (k, 4)),
            "points": (torch.float32, (k, 2)),
            "areas": (torch.int64, (k,)),
        }
        for name, (dtype, shape) in expected.items():
            column = getattr(proposals, name)
            assert (column.dtype, column.shape, column.device.type) == (dtype, shape, "cpu"), name
            assert column.double().isfinite().all(), name
        assert ((proposals.stability >= 0) & (proposals.stability <= 1)).all()
        assert torch.equal(proposals.areas, proposals.masks.sum((1, 2)))
        for mask, box, (x, y) in zip(proposals.masks, proposals.boxes, proposals.points, strict=True):
            rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
            tight = [columns[0], rows[0], columns[-1], rows[-1]] if mask.any() else [0, 0, 0, 0]
            assert box.tolist() == [int(edge) for edge in tight]
            assert 0 <= x <= width - 1
            assert 0 <= y <= height - 1

    def test_same_input_same_output(self, generator: ProposalGenerator):
        frames = scene(48, 64, 1)[None]
        assert_equal_proposals(generator(frames)[0], generator(frames.clone())[0])

    def test_batch_of_one_equals_batch_of_eight(self, generator: ProposalGenerator):
        frames = torch.stack([scene(40, 48, seed) for seed in range(8)])
        together = generator(frames)
        assert len(together) == 8
        for frame, proposals in zip(frames, together, strict=True):
            assert_equal_proposals(generator(frame[None])[0], proposals)

    def test_keeps_nothing_from_other_frames(self, generator: ProposalGenerator):
        frame, other = scene(48, 64, 1)[None], noise(37, 53)[None]
        alone = generator(frame)[0]
        generator(other)
        assert_equal_proposals(alone, generator(frame)[0])

    def test_leaves_the_frames_alone(self, generator: ProposalGenerator):
        frames = scene(48, 64, 2)[None]
        before = frames.clone()
        generator(frames)
        assert torch.equal(frames, before)

    def test_identity(self, generator: ProposalGenerator):
        check_identity(generator)

    def test_moves_to_a_device(self, generator: ProposalGenerator):
        moved = generator.to(torch.device("cpu"))
        assert moved.name == generator.name
        assert_equal_proposals(moved(scene(48, 64, 1)[None])[0], generator(scene(48, 64, 1)[None])[0])


# --- Audio encoders ---


def tone(hertz: float, beats: float = 0.0) -> np.ndarray:
    """Eight seconds of a tone with overtones that swells `beats` times a second: float64 [128000]."""
    t = np.arange(8 * 16_000) / 16_000
    wave = sum(np.sin(2 * np.pi * hertz * k * t) / k for k in (1, 2, 3))
    return 0.2 * wave * (1 + np.cos(2 * np.pi * beats * t)) / 2


def seconds(wave: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Both inputs of an encoder: float32 [8, 96, 64] and [8, 16000]."""
    waveform = torch.from_numpy(wave.astype(np.float32)).reshape(8, 16_000)
    return torch.from_numpy(log_mel_examples(np.append(wave, np.zeros(240)))[:8]), waveform


class AudioEncoderContract:
    """Inherit, and give a fixture `encoder`."""

    def test_shape_and_type(self, encoder: AudioEncoder):
        features = encoder(*seconds(tone(440)))
        assert features.shape == (8, encoder.dim)
        assert features.dtype == torch.float32
        assert not features.requires_grad
        assert features.isfinite().all()

    def test_no_seconds(self, encoder: AudioEncoder):
        assert encoder(torch.zeros(0, 96, 64), torch.zeros(0, 16_000)).shape == (0, encoder.dim)

    def test_silence_is_one_vector(self, encoder: AudioEncoder):
        features = encoder(*seconds(np.zeros(128_000)))
        assert features.isfinite().all()
        torch.testing.assert_close(features, features[:1].expand(8, -1))

    def test_sounds_differ(self, encoder: AudioEncoder):
        high, low, silent = (encoder(*seconds(w))[0] for w in (tone(1500), tone(200), np.zeros(128_000)))
        for a, b in ((high, low), (high, silent), (low, silent)):
            assert (a - b).norm() > 0.05 * max(a.norm(), b.norm())

    def test_same_input_same_output(self, encoder: AudioEncoder):
        inputs = seconds(tone(300, beats=3))
        assert torch.equal(encoder(*inputs), encoder(*(x.clone() for x in inputs)))

    def test_batch_of_one_equals_batch_of_eight(self, encoder: AudioEncoder):
        log_mel, waveform = seconds(tone(500, beats=0.7))
        alone = [encoder(log_mel[i : i + 1], waveform[i : i + 1]) for i in range(8)]
        together = encoder(log_mel, waveform)
        rounding = 1e-5 * together.abs().max()
        assert (torch.cat(alone) - together).abs().max() <= rounding

    def test_keeps_nothing_from_other_sounds(self, encoder: AudioEncoder):
        inputs = seconds(tone(440))
        alone = encoder(*inputs)
        encoder(*seconds(tone(2000, beats=5)))
        assert torch.equal(alone, encoder(*inputs))

    def test_leaves_the_sound_alone(self, encoder: AudioEncoder):
        inputs = seconds(tone(440))
        before = [x.clone() for x in inputs]
        encoder(*inputs)
        assert all(torch.equal(x, y) for x, y in zip(inputs, before, strict=True))

    def test_identity(self, encoder: AudioEncoder):
        check_identity(encoder)
        assert encoder.dim >= 1

    def test_moves_to_a_device(self, encoder: AudioEncoder):
        inputs = seconds(tone(440))
        before = encoder(*inputs)
        assert torch.equal(encoder.to(torch.device("cpu"))(*inputs), before)

"""What every clip source, proposal generator and audio encoder must do: test classes inherit their contract."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from combo_avs.base import IGNORE_LABEL
from combo_avs.data.audio import log_mel_examples
from combo_avs.data.clip import LOG_MEL_SHAPE, SPLITS, Clip, ClipArrays, ClipSource, ShortAudio
from combo_avs.data.store.store import ClipStore
from combo_avs.errors import ClipError
from combo_avs.model.audio.interface import AudioEncoder
from combo_avs.model.foundation.interface import ProposalGenerator, Proposals
from combo_avs.pipeline.imports.clips import import_clips


def check_identity(model: ProposalGenerator | AudioEncoder) -> None:
    """The fingerprint of a cache can be made from it, and does not depend on where the weights lie."""
    assert isinstance(model.name, str)
    assert isinstance(model.version, str)
    assert json.loads(json.dumps(model.parameters)) == model.parameters
    assert not re.search(r"\.(pth?|safetensors|ckpt|bin)\b", json.dumps(model.parameters))
    assert model.weights_sha256 is None or re.fullmatch(r"[0-9a-f]{64}", model.weights_sha256)


# --- Clip sources ---


def assert_equal_arrays(a: ClipArrays, b: ClipArrays) -> None:
    for left, right in zip(astuple(a), astuple(b), strict=True):
        np.testing.assert_array_equal(left, right)


class ClipSourceContract:
    """Inherit, and give fixtures `source`, two clips or more, and `unreadable`: a source and a clip it cannot read."""

    def test_description(self, source: ClipSource):
        assert source.name
        assert source.classes[0] == "background"
        assert len(set(source.classes)) == len(source.classes) <= IGNORE_LABEL
        assert all(side >= 1 for side in source.size)
        assert source.short_audio in get_args(ShortAudio)
        assert json.loads(json.dumps(source.parameters)) == source.parameters

    def test_clip_table(self, source: ClipSource):
        assert len({clip.id for clip in source.clips}) == len(source.clips) >= 2
        for clip in source.clips:
            assert clip.id
            assert clip.source
            assert clip.split in SPLITS
            assert list(clip.frame_times) == sorted(set(clip.frame_times))
            assert 0 <= clip.frame_times[0] <= clip.frame_times[-1] <= clip.num_frames
            assert any(clip.frame_valid)
            assert not any(a and not v for a, v in zip(clip.frame_annotated, clip.frame_valid, strict=True))

    def test_shapes_types_and_ranges(self, source: ClipSource):
        for clip in source.clips:
            read = source.read(clip)
            assert (read.frames.dtype, read.frames.shape) == (np.uint8, (clip.num_frames, *source.size, 3))
            assert (read.labels.dtype, read.labels.shape) == (np.uint8, (clip.num_frames, *source.size))
            annotated = np.array(clip.frame_annotated)
            assert (read.labels[~annotated] == IGNORE_LABEL).all()
            assert np.isin(read.labels[annotated], [*range(len(source.classes)), IGNORE_LABEL]).all()
            assert (read.waveform.dtype, read.waveform.ndim) == (np.float64, 1)
            assert np.isfinite(read.waveform).all()
            assert np.abs(read.waveform).max(initial=0) <= 1
            if read.log_mel is not None:
                assert (read.log_mel.dtype, read.log_mel.shape) == (np.float32, (clip.num_frames, *LOG_MEL_SHAPE))
                assert np.isfinite(read.log_mel).all()

    def test_a_clip_is_the_same_in_any_order_and_thread(self, source: ClipSource):
        clips = source.clips[:4]
        once = [source.read(clip) for clip in clips]
        with ThreadPoolExecutor(4) as pool:
            again = list(pool.map(source.read, clips[::-1]))
        for a, b in zip(once, again[::-1], strict=True):
            assert_equal_arrays(a, b)

    def test_clips_are_imported_as_they_are_read(self, source: ClipSource, tmp_path: Path):
        report = import_clips(source, tmp_path / "root", 20)
        assert not report.quarantined
        store = ClipStore(tmp_path / "root")
        assert (store.classes, store.size) == (source.classes, source.size)
        assert sorted(clip.id for clip in store.table) == sorted(clip.id for clip in source.clips)
        for row, clip in enumerate(store.table):
            read = source.read(clip)
            np.testing.assert_array_equal(store.read("frames", *store.span(row)), read.frames)
            np.testing.assert_array_equal(store.read("labels", *store.span(row)), read.labels)

    def test_an_unknown_clip_is_an_error(self, source: ClipSource):
        with pytest.raises(ClipError, match="no-such-clip"):
            source.read(replace(source.clips[0], id="no-such-clip"))

    def test_an_unreadable_clip_is_an_error_that_names_it(self, unreadable: tuple[ClipSource, Clip]):
        source, clip = unreadable
        with pytest.raises(ClipError, match=re.escape(clip.id)):
            source.read(clip)


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

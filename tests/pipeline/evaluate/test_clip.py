"""What is scored of a clip: the last prediction of the network, on the frames that have truth."""

import math

import numpy as np
import pytest
import torch

from combo_avs.base import IGNORE_LABEL
from combo_avs.data.clip import Clip
from combo_avs.data.dataset import Sample
from combo_avs.model.combo import COMBO
from combo_avs.model.config import ModelConfig
from combo_avs.model.decoder import Predictions
from combo_avs.pipeline.evaluate.clip import count_clip, segment, segment_and_attend
from combo_avs.pipeline.evaluate.metrics import BinaryMetrics, SemanticMetrics
from combo_avs.pipeline.evaluate.protocols import BINARY, SEMANTIC

SIZE = (8, 12)


def sample(labels: np.ndarray, supervised: list[bool]) -> Sample:
    """A clip of five frames of noise; labels of frames without truth are 255, as in a store."""
    rng = np.random.default_rng(0)
    frames, maskiges = rng.integers(0, 256, (2, 5, *SIZE, 3), dtype=np.uint8)
    truth = np.where(np.array(supervised)[:, None, None], labels, IGNORE_LABEL).astype(np.uint8)
    clip = Clip("a", "ms3", "test", (), (0.5, 1.5, 2.5, 3.5, 4.5), (True,) * 5, tuple(supervised), "v")
    return Sample(clip, frames, maskiges, np.zeros((5, 3), np.float32), truth, np.array(supervised))


class Recorder(torch.nn.Module):
    """A network that keeps its inputs, and whose last prediction is class 1 everywhere; the one before, class 0."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, *inputs: torch.Tensor) -> Predictions:
        self.inputs = inputs
        logits = torch.full((2, 5, 1, 3), -math.inf)
        logits[0, ..., 0] = logits[1, ..., 1] = 0
        masks = torch.full((2, 5, 1, 2, 3), 100.0)
        return Predictions(logits, masks)


def test_the_network_gets_frames_maskiges_and_the_sound_asked_for_and_its_last_prediction_counts() -> None:
    clip, network, sound = sample(np.zeros((5, *SIZE)), [True] * 5), Recorder(), np.ones((5, 3), np.float32)
    scores = segment(network, clip, sound)
    frames, maskiges, audio = network.inputs
    assert np.array_equal(frames, clip.frames.transpose(0, 3, 1, 2))
    assert np.array_equal(maskiges, clip.maskiges.transpose(0, 3, 1, 2))
    assert np.array_equal(audio, sound)
    assert scores.shape == (5, 2, *SIZE)
    assert (scores[:, 1] == 1).all()
    assert (scores[:, 0] == 0).all()


@pytest.mark.parametrize("fusion", ["none", "bilateral"])
def test_attention_is_the_mean_over_heads_as_a_share_of_the_highest(fusion: str) -> None:
    torch.manual_seed(0)
    config = ModelConfig(backbone="tiny", width=32, heads=2, audio_dim=3, audio_hidden=8, num_queries=4, fusion=fusion)
    model, clip = COMBO(config, 2).eval(), sample(np.zeros((5, *SIZE)), [True] * 5)
    scores, attention = segment_and_attend(model, clip)
    assert torch.equal(scores, segment(model, clip, clip.features))
    if fusion == "none":
        assert attention is None
        return
    assert attention is not None
    pictures = (torch.from_numpy(images.transpose(0, 3, 1, 2).copy()) for images in (clip.frames, clip.maskiges))
    with torch.no_grad():
        matrix = model.attention(model.encode(*pictures), torch.from_numpy(clip.features))
    assert matrix is not None
    means = matrix.sum(dim=1)
    shares = means / means.flatten(1).max(dim=1).values[:, None, None]
    expected = torch.nn.functional.interpolate(shares[None], SIZE, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(attention, expected)


@pytest.mark.parametrize("classes", [2, 4])
def test_only_frames_with_truth_are_counted(classes: int) -> None:
    """Right on the first frame and on the third, wrong on the others, of which the last has truth."""
    labels = np.zeros((5, *SIZE), int)
    labels[:, :4] = 1
    clip = sample(labels, [True, False, True, False, True])
    predicted = labels.copy()
    predicted[[1, 3, 4]] = 1 - predicted[[1, 3, 4]]
    scores = torch.from_numpy(np.stack([predicted == k for k in range(classes)], axis=1)).float() * 100
    counts = count_clip(scores, clip)
    half = SIZE[0] * SIZE[1] // 2
    assert counts.areas_3TK[0, :, :2].tolist() == [[half, half], [half, half], [0, 0]]
    assert (counts.areas_3TK[1:, :, :2] == half).all()
    assert (counts.areas_3TK[..., 2:] == 0).all()


def test_one_stray_pixel_is_not_empty() -> None:
    clip = sample(np.zeros((5, *SIZE)), [True] * 5)
    scores = torch.zeros(5, 2, *SIZE)
    scores[:, 0] = 100
    scores[0, :, 0, 0] = torch.tensor([0, 100])
    metrics = BinaryMetrics(BINARY["strict-empty"])
    score = metrics.update(count_clip(scores, clip), 5)
    assert (score.J, score.F) == (0.8, 0.0)
    assert pytest.approx(1 - 1 / 5 / 96) == BinaryMetrics(BINARY["published"]).update(count_clip(scores, clip), 5).J


def test_the_threshold_of_f_is_chosen_for_a_whole_clip() -> None:
    """One frame is perfect at thresholds below 0.05, the other above 0.96; at one half their J is 0 and 1/2."""
    truth = np.zeros((5, *SIZE), int)
    truth[:, : SIZE[0] // 2] = 1
    clip = sample(truth, [True, True, False, False, False])
    scores = torch.zeros(5, 2, *SIZE)
    inside = torch.from_numpy(truth == 1)
    scores[:, 1] = torch.where(
        inside, torch.tensor([-3.0, 6, 0, 0, 0])[:, None, None], torch.tensor([-6.0, 3, 0, 0, 0])[:, None, None]
    )
    metrics = BinaryMetrics(BINARY["published"])
    score = metrics.update(count_clip(scores, clip), 5)
    everything = 1.3 * 0.5 * 1 / (0.3 * 0.5 + 1)
    assert score.J_T == (0, 0.5)
    assert score.J == (0 + 0.5) / 2
    assert pytest.approx((1 + everything) / 2) == score.F
    assert pytest.approx((score.J, score.F)) == (metrics.result().M_J, metrics.result().M_F)


def test_padding_follows_the_length_of_a_clip_not_its_annotated_frames() -> None:
    labels = np.zeros((5, *SIZE), int)
    labels[:, :4] = 1
    counts = count_clip(
        torch.from_numpy(np.stack([labels == 1, labels == 0, labels < 0], axis=1)).float(),
        sample(labels, [True] + [False] * 4),
    )
    metrics = SemanticMetrics(SEMANTIC["avsbench-padded"], 3)
    metrics.update(counts, 5)
    result = metrics.result()
    assert (result.frames, result.padded_frames) == (1, 5)
    assert [c.frames for c in result.classes] == [6, 1, 0]
    assert [c.J for c in result.classes] == pytest.approx([5 / 6, 0, 0])
    assert pytest.approx(5 / 18) == result.M_J

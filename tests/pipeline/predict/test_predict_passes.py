"""Which pictures the network sees together in prediction, and that nothing else decides the result."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tiny_network import TINY
from two_ways import cached_labels, streamed_labels

from combo_avs.data.sources.synthetic.source import render_video
from combo_avs.data.sources.video.decoding import inspect
from combo_avs.data.sources.video.writer import write_video
from combo_avs.errors import ComboError
from combo_avs.model.config import ModelConfig
from combo_avs.model.inference import label_map, semantic_scores
from combo_avs.pipeline.common.devices import image_tensor
from combo_avs.pipeline.config.tree import load_config
from combo_avs.pipeline.predict.label_maps import LabelMaps, Window, read_window, segment_video
from combo_avs.pipeline.predict.segmenter import AS_TRAINED, Segmenter, open_segmenter, passes, unseen_settings
from combo_avs.pipeline.runs.data import DataNames
from combo_avs.pipeline.train.loop import train

LAYOUTS = ("per_frame", "published")


@pytest.fixture(scope="module")
def runs(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same weights, to be read in either layout."""
    folders = {}
    for layout in LAYOUTS:
        folders[layout] = tmp_path_factory.mktemp("passes") / layout
        train(
            DataNames(prepared, "felzenszwalb", "logmel"),
            load_config("tiny", [*TINY, "train.steps=1"]),
            folders[layout],
        )
        config = yaml.safe_load((folders[layout] / "config.yaml").read_text())
        config["model"]["audio_queries"] = layout
        (folders[layout] / "config.yaml").write_text(yaml.safe_dump(config))
    return folders


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "a.mp4"
    made = render_video(3, 7, 6, size=72)
    write_video(path, made.frames(), 6, made.waveform.astype(np.float32))
    return path


@pytest.fixture(scope="module")
def segmenters(runs: dict[str, Path], video: Path) -> dict[str, Segmenter]:
    """With weights that show both labels in both layouts, and for which the sound of a query decides."""
    found = {layout: open_segmenter(runs[layout], AS_TRAINED, "cpu") for layout in LAYOUTS}
    windows = [read_window(inspect(video), number, 64, every_frame=False) for number in range(2)]
    for seed in range(200):
        shown = []
        for segmenter in found.values():
            torch.manual_seed(seed)
            model = segmenter.model
            for layer in (model.decoder.class_embed, model.decoder.mask_embed[-1], model.audio_mlp[-1]):
                torch.nn.init.normal_(layer.weight)
                torch.nn.init.normal_(layer.bias)
            shown.append([labels_of(segmenter, window) for window in windows if window])
        per_frame, published = shown
        both = all(0.05 < labels.mean() < 0.95 for labels in (*per_frame, *published))
        if both and (per_frame[0] != published[0]).mean() > 0.01:
            return found
    raise AssertionError("no seed shows both labels")


def labels_of(segmenter: Segmenter, window: Window) -> np.ndarray:
    return segmenter(window.frames, window.seconds, window.log_mel, window.waveform).numpy()


@pytest.mark.parametrize(
    ("seconds", "length", "expected"),
    [
        ([0, 1, 2, 3, 4], 5, [[0, 1, 2, 3, 4]]),
        ([0, 1], 5, [[0, 1, 1, 1, 1]]),
        ([0], 5, [[0, 0, 0, 0, 0]]),
        ([0, 0, 1, 2, 2, 2], 3, [[0, 2, 3], [1, 1, 4], [5, 5, 5]]),
        ([1, 1, 3], 5, [[0, 0, 0, 2, 2], [1, 1, 1, 1, 1]]),
    ],
)
def test_a_pass_has_one_picture_of_every_second(seconds: list[int], length: int, expected: list[list[int]]) -> None:
    assert [list(pictures) for pictures in passes(np.array(seconds), length)] == expected


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("every_frame", [False, True])
def test_pictures_per_call_of_the_generator_decide_nothing(
    segmenters: dict[str, Segmenter], video: Path, layout: str, every_frame: bool
) -> None:
    """To the bit on a CPU, with a generator that is exact whatever the batch."""
    segmenter = segmenters[layout]
    for number in range(2):  # the second one has two seconds
        window = read_window(inspect(video), number, 64, every_frame=every_frame)
        assert window is not None
        assert len(window.frames) == [[5, 2], [30, 12]][every_frame][number]
        at_once = labels_of(replace(segmenter, batch_frames=64), window)
        assert at_once.any()
        for batch_frames in (1, 3, 8):
            np.testing.assert_array_equal(labels_of(replace(segmenter, batch_frames=batch_frames), window), at_once)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_windows_are_read_as_clips_are(
    segmenters: dict[str, Segmenter], video: Path, tmp_path: Path, layout: str
) -> None:
    """What import, precompute and evaluation give for the same video, its unfinished last clip included."""
    segmenter = segmenters[layout]
    streamed = streamed_labels(segmenter, video, tmp_path / "maps")
    np.testing.assert_array_equal(streamed, cached_labels(segmenter, video, tmp_path / "root"))


def test_every_picture_has_the_sound_of_its_second(segmenters: dict[str, Segmenter], video: Path) -> None:
    """Picture 8 is the third one of second 1: it is seen with the third ones of the other seconds."""
    segmenter = segmenters["published"]
    window = read_window(inspect(video), 0, 64, every_frame=True)
    assert window is not None
    together = np.arange(5) * 6 + 2
    with torch.inference_mode():
        maskiges = segmenter._propose(window.frames[together])
        images = image_tensor(window.frames[together], segmenter.device), image_tensor(maskiges, segmenter.device)
        predictions = segmenter.model(*images, segmenter._hear(window.log_mel, window.waveform))
    scores = semantic_scores(predictions.logits[-1], predictions.masks[-1], (64, 64))
    np.testing.assert_array_equal(labels_of(segmenter, window)[together], label_map(scores).numpy())


def test_label_maps_of_one_layout_are_not_taken_for_another_s(runs: dict[str, Path]) -> None:
    per_frame, published = (open_segmenter(runs[layout], AS_TRAINED, "cpu") for layout in LAYOUTS)
    for one, other in zip(per_frame.model.state_dict().values(), published.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert per_frame.identity != published.identity


def test_settings_that_weights_do_not_show() -> None:
    assert unseen_settings(ModelConfig()) == []  # as ever: predictions of earlier versions are known
    for name, value in (("audio_queries", "published"), ("queries", "all"), ("fusion_residual", "raw")):
        assert unseen_settings(ModelConfig.model_validate({name: value})) == [(name, value)]


def out_of_memory(*_: Any, **__: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore lines")


@pytest.mark.parametrize(
    ("part", "batch_frames", "advice"),
    [
        ("generator", 8, r"--set precompute\.batch_frames=4: fewer pictures per call of the generator"),
        ("generator", 1, "The generator has one picture at a time already"),
        ("model", 8, r"The network sees five pictures at a time, whatever precompute\.batch_frames"),
        ("encoder", 8, "The audio encoder hears five seconds at a time"),
    ],
)
def test_advice_when_memory_is_short(
    runs: dict[str, Path], video: Path, tmp_path: Path, part: str, batch_frames: int, advice: str
) -> None:
    fails: dict[str, Any] = {part: out_of_memory, "batch_frames": batch_frames}
    segmenter = replace(open_segmenter(runs["per_frame"], AS_TRAINED, "cpu"), **fails)
    maps = LabelMaps(tmp_path / "maps", inspect(video), every_frame=False, size=64)
    with pytest.raises(
        ComboError, match=r"cpu failed or is out of memory \(CUDA out of .* 2 GiB\.\); the same"
    ) as error:
        segment_video(segmenter, maps, lambda: None)
    assert advice.replace("\\", "") in str(error.value)
    other = replace(segmenter, device=torch.device("meta"))
    with pytest.raises(ComboError, match="--device cpu has the memory"), other._fatal("x"):
        out_of_memory()

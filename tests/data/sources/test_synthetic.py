"""The synthetic set: reproducible, exact, audible, and unsolvable by looks alone."""

import dataclasses
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from contracts import ClipSourceContract

from combo_avs.base import IGNORE_LABEL
from combo_avs.data.audio import log_mel_examples
from combo_avs.data.sources.synthetic.scene import KINDS, Mover, render
from combo_avs.data.sources.synthetic.source import SyntheticSource, render_video
from combo_avs.errors import BadInput, ClipError

FLAVOURS = ("s4", "ms3", "avss")
SIZE = 48


class TestSyntheticSourceContract(ClipSourceContract):
    @pytest.fixture(params=FLAVOURS)
    def source(self, request):
        return SyntheticSource(request.param, 4, 5, SIZE)

    @pytest.fixture
    def unreadable(self):
        return SyntheticSource("ms3", 2, 5, SIZE), SyntheticSource("ms3", 3, 5, SIZE).clips[2]


def arrays_equal(a, b) -> bool:
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_clip_depends_on_flavour_seed_index_and_size_only(flavour):
    few, many = SyntheticSource(flavour, 4, 5, SIZE), SyntheticSource(flavour, 9, 5, SIZE)
    forwards = [few.read(c) for c in few.clips]
    backwards = [many.read(c) for c in reversed(many.clips[:4])][::-1]
    assert few.clips == many.clips[:4]
    assert all(map(arrays_equal, forwards, backwards))


def test_a_clip_is_the_same_in_another_process():
    source = SyntheticSource("avss", 3, 5, SIZE)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        elsewhere = pool.submit(source.read, source.clips[2]).result()
    assert arrays_equal(elsewhere, source.read(source.clips[2]))


def test_seeds_flavours_and_indices_differ():
    sources = [SyntheticSource(f, 2, s, SIZE) for f, s in (("s4", 0), ("s4", 1), ("ms3", 0))]
    read = [source.read(clip) for source in sources for clip in source.clips]
    for field in ("frames", "waveform"):
        assert len({getattr(a, field).tobytes() for a in read}) == len(read)


def test_unfit_requests_are_refused():
    for flavour, clips, seed, size in (
        ("s5", 1, 0, 64),
        ("s4", 0, 0, 64),
        ("s4", 1, -1, 64),
        ("s4", 1, 0, 8),
    ):
        with pytest.raises(BadInput):
            SyntheticSource(flavour, clips, seed, size)
    other = SyntheticSource("s4", 3, 0, SIZE).clips[2]
    with pytest.raises(ClipError, match="synth-s4-000002"):
        SyntheticSource("s4", 2, 0, SIZE).read(other)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_arrays_have_the_shapes_and_values_of_the_border(flavour):
    source = SyntheticSource(flavour, 6, 1, SIZE)
    for clip in source.clips:
        a = source.read(clip)
        t = clip.num_frames
        assert (a.frames.shape, a.frames.dtype) == ((t, SIZE, SIZE, 3), np.uint8)
        assert (a.labels.shape, a.labels.dtype) == ((t, SIZE, SIZE), np.uint8)
        assert (a.waveform.shape, a.waveform.dtype) == ((t * 16000,), np.float64)
        assert np.abs(a.waveform).max() <= 1
        annotated = np.array(clip.frame_annotated)
        assert (a.labels[~annotated] == IGNORE_LABEL).all()
        assert a.labels[annotated].max() < len(source.classes)


def test_splits_subsets_and_annotation_follow_avsbench():
    for flavour in FLAVOURS:
        assert {c.split for c in SyntheticSource(flavour, 3, 0, SIZE).clips} == {"train", "val", "test"}
        splits = [c.split for c in SyntheticSource(flavour, 100, 0, SIZE).clips]
        assert [splits.count(s) for s in ("train", "val", "test")] == [70, 10, 20]
    by_subset = {"s4": 5, "ms3": 5, "v1s": 5, "v1m": 5, "v2": 10}
    for flavour in FLAVOURS:
        for clip in SyntheticSource(flavour, 30, 0, SIZE).clips:
            first_only = clip.subset in ("s4", "v1s") and clip.split == "train"
            assert clip.num_frames == by_subset[clip.subset]
            assert sum(clip.frame_annotated) == (1 if first_only else clip.num_frames)
            assert clip.frame_annotated[0]
            assert clip.frame_times[1] == 1.9375
    subsets = [c.subset for c in SyntheticSource("avss", 30, 0, SIZE).clips]
    assert [subsets.count(s) for s in ("v1s", "v1m", "v2")] == [10, 10, 10]


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_labels_are_the_visible_pixels_of_the_sounding_objects(flavour):
    source = SyntheticSource(flavour, 12, 2, SIZE)
    for index, clip in enumerate(source.clips):
        truth, labels = source.scene(index), source.read(clip).labels
        for k in np.flatnonzero(clip.frame_annotated):
            expected = np.zeros((SIZE, SIZE), np.uint8)
            for kind in np.flatnonzero(truth.sounding[k]):
                expected[truth.segments[k] == kind] = kind if flavour == "avss" else 1
            assert np.array_equal(labels[k], expected)
        heard = {KINDS[kind - 1] for kind in np.flatnonzero(truth.sounding.any(0))}
        assert len(clip.objects) == len(heard)
        if flavour != "s4":
            assert set(clip.objects) == heard


def test_segments_leave_out_what_nearer_objects_hide():
    source = SyntheticSource("s4", 40, 3, 96)
    hidden = 0
    for index, clip in enumerate(source.clips):
        truth, times = source.scene(index), np.array(clip.frame_times)
        expected = np.zeros_like(truth.segments)
        for mover in truth.scene.movers:
            alone = render(dataclasses.replace(truth.scene, movers=(mover,)), times, 96)[1] > 0
            assert ((truth.segments == mover.kind).sum((1, 2)) > 0.4 * alone.sum((1, 2))).all()
            hidden += int((expected[alone] > 0).sum())
            expected[alone] = mover.kind
        assert np.array_equal(truth.segments, expected)
    assert hidden > 0


def test_frames_show_the_objects_where_the_segments_say():
    source = SyntheticSource("ms3", 6, 4, 96)
    for index, clip in enumerate(source.clips):
        scene, times = source.scene(index).scene, np.array(clip.frame_times)
        frames, segments = render(scene, times, 96)
        empty = render(dataclasses.replace(scene, movers=()), times, 96)[0]
        changed = (frames != empty).any(-1)
        assert changed[segments > 0].mean() > 0.98
        for y, x in ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)):
            segments = np.maximum(segments, np.roll(segments, (y, x), (1, 2)))
        assert not changed[segments == 0].any()  # but for softened edges, one pixel wide


def test_two_to_four_different_objects_are_always_visible():
    counts = set()
    for flavour in FLAVOURS:
        source = SyntheticSource(flavour, 30, 6, SIZE)
        for index in range(30):
            truth = source.scene(index)
            kinds = [m.kind for m in truth.scene.movers]
            assert len(set(kinds)) == len(kinds)
            for segments in truth.segments:
                assert set(np.unique(segments)) == {0, *kinds}
            counts.add(len(kinds))
    assert counts == {2, 3, 4}


def test_who_sounds_when():
    s4 = SyntheticSource("s4", 30, 7, SIZE)
    for index in range(30):
        sounding = s4.scene(index).sounding
        assert (sounding.sum(1) == 1).all()
        assert (sounding == sounding[0]).all()
    ms3 = SyntheticSource("ms3", 150, 7, 32)
    truths = [ms3.scene(index) for index in range(150)]
    plans = [truth.sounding for truth in truths]
    heard = np.concatenate(plans).sum(1)
    assert set(heard) == {0, 1, 2}
    assert 0.03 < (heard == 0).mean() < 0.1
    assert all(plan.any() for plan in plans)
    assert np.mean([(plan != plan[0]).any() for plan in plans]) > 0.8
    assert all(t.sounding.sum(1).max() < len(t.scene.movers) for t in truths)  # never everything


NEAREST = len(KINDS) + 1  # the column of `appearance` that is True for the object in front


def appearance(movers: tuple[Mover, ...]) -> np.ndarray:
    """bool [N, features]: everything about the objects of a clip that could give the sounding one away."""
    n = len(movers)
    kinds = [[m.kind == k for m in movers] for k in range(1, len(KINDS) + 1)]
    depth = [[i == 0 for i in range(n)], [i == n - 1 for i in range(n)]]
    numbers = np.array(
        [
            (m.radius, *m.home, np.hypot(*np.subtract(m.home, 0.5)), *m.swing, *m.period, *m.tilt, *m.tint)
            for m in movers
        ]
    )
    largest = [numbers[:, j] == numbers[:, j].max() for j in range(numbers.shape[1])]
    return np.array([*kinds, *depth, *largest, [m.mirrored for m in movers]]).T


def deviations(features: list[np.ndarray], shares: list[np.ndarray]) -> np.ndarray:
    """How many standard errors more an object with each feature sounds than the average of its clip."""
    gains = np.array([(s - s.mean()) @ f for f, s in zip(features, shares, strict=True)])
    return gains.sum(0) / np.sqrt((gains**2).sum(0))


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_nothing_visible_says_which_object_sounds(flavour):
    source = SyntheticSource(flavour, 800, 8, 32)
    features, shares = [], []
    for index in range(len(source.clips)):
        truth = source.scene(index)
        features.append(appearance(truth.scene.movers))
        shares.append(truth.sounding[:, [m.kind for m in truth.scene.movers]].mean(0))
    assert np.abs(deviations(features, shares)).max() < 4
    # The same measure finds a mild bias, here one towards the nearest object of each clip.
    biased = [s + 0.2 * f[:, NEAREST] for f, s in zip(features, shares, strict=True)]
    assert np.abs(deviations(features, biased)).max() > 4


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1)) if a.any() or b.any() else 1.0


@pytest.mark.parametrize("flavour", ["s4", "ms3"])
def test_guessing_without_ears_scores_low(flavour):
    source = SyntheticSource(flavour, 120, 9, SIZE)
    everything, largest, nearest = [], [], []
    for index in range(len(source.clips)):
        truth = source.scene(index)
        front = truth.scene.movers[-1].kind
        for segments, labels in zip(truth.segments, truth.labels(semantic=False) > 0, strict=True):
            areas = np.bincount(segments[segments > 0])
            everything.append(iou(segments > 0, labels))
            largest.append(iou(segments == areas.argmax(), labels))
            nearest.append(iou(segments == front, labels))
    assert np.mean(everything) < 0.5
    assert np.mean(largest) < 0.45
    assert np.mean(nearest) < 0.45


def seconds_of(flavour: str, clips: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every second: log-mel averaged over time [n, 64], what sounds bool [n, K], and loudness (RMS)."""
    source = SyntheticSource(flavour, clips, seed, 32)
    features, sounding, loudness = [], [], []
    for index, clip in enumerate(source.clips):
        waveform, t = source.read(clip).waveform, clip.num_frames
        features.append(log_mel_examples(waveform)[:t].reshape(t, 96, 64).mean(1))
        sounding.append(source.scene(index).sounding[:, 1:])
        for k in range(t):
            core = waveform[int((0.96 * k + 0.03) * 16000) : int((0.96 * k + 0.95) * 16000)]
            loudness.append(np.sqrt((core**2).mean()))
    return np.concatenate(features), np.concatenate(sounding), np.array(loudness)


def test_log_mel_examples_tell_what_the_labels_of_their_frames_show():
    train, sounding, _ = seconds_of("s4", 90, 10)
    centroids = np.stack([train[sounding[:, k]].mean(0) for k in range(len(KINDS))])
    for flavour, clips in (("ms3", 60), ("avss", 60)):
        features, sounding, loudness = seconds_of(flavour, clips, 11)
        guess = ((features[:, None] - centroids) ** 2).sum(-1).argmin(1)
        hit = sounding[np.arange(len(guess)), guess]
        heard = sounding.sum(1)
        assert hit[heard == 1].mean() > 0.95
        assert hit[heard == 2].mean() > 0.95
        assert loudness[heard == 0].min() > 0
        assert loudness[heard == 0].max() < 0.5 * loudness[heard > 0].min()


def test_silent_seconds_have_empty_labels():
    source = SyntheticSource("ms3", 60, 12, SIZE)
    silent = 0
    for index, clip in enumerate(source.clips):
        quiet = ~source.scene(index).sounding.any(1)
        empty = ~source.read(clip).labels.any((1, 2))
        assert np.array_equal(quiet, empty)
        silent += quiet.sum()
    assert silent > 0


def test_video_shows_and_sounds_the_same_scene_at_any_rate():
    video = render_video(3, seconds=7, fps=4, size=SIZE)
    frames = list(video.frames())
    assert len(frames) == 28
    assert video.waveform.shape == (7 * 16000,)
    again = render_video(3, seconds=7, fps=2, size=SIZE)
    assert all(map(np.array_equal, frames[::2], again.frames()))
    assert np.array_equal(video.waveform, again.waveform)
    assert (video.waveform != render_video(4, 7, 4, SIZE).waveform).any()
    assert np.abs(video.waveform).max() <= 1
    segments = render(video.scene, np.array([0.9375, 5.5]), SIZE)[1]
    assert set(np.unique(segments)) == {0, *(m.kind for m in video.scene.movers)}
    assert np.array_equal(render(video.scene, np.array([5.5]), SIZE)[0][0], frames[22])


def test_unfit_videos_are_refused():
    for seed, seconds, fps, size in ((-1, 5, 25, 64), (0, 0, 25, 64), (0, 5, 0, 64), (0, 5, 25, 16)):
        with pytest.raises(BadInput):
            render_video(seed, seconds, fps, size)

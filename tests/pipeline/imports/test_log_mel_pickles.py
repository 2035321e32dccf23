"""Importing AVSBench with the log-mels that come with it, instead of computing them."""

import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from avsbench_tree import AVSS_ROWS, MS3_ROWS, S4_ROWS, SIZE, make_avss, make_ms3, make_s4, sound

from combo_avs.cli import app
from combo_avs.console import run
from combo_avs.data.sources.avsbench.source import AvsBenchSource
from combo_avs.data.store.store import ClipStore
from combo_avs.errors import BadInput
from combo_avs.pipeline.imports.clips import import_clips

MAKE = {"s4": (make_s4, S4_ROWS), "ms3": (make_ms3, MS3_ROWS), "avss": (make_avss, AVSS_ROWS)}


def pickle_paths(folder: Path, subset: str) -> dict[str, Path]:
    """By clip, where the published data set has them."""
    if subset == "s4":
        return {n: folder / "s4_data/audio_log_mel" / s / c / f"{n}.pkl" for n, c, s in S4_ROWS}
    if subset == "ms3":
        return {n: folder / "ms3_data/audio_log_mel" / s / f"{n}.pkl" for n, s in MS3_ROWS}
    return {uid: folder / label / uid / "audio.pkl" for uid, _, _, label in AVSS_ROWS}


def write_pickle(path: Path, tensor: torch.Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(tensor))


def make_set(root: Path, subset: str) -> tuple[Path, dict[str, torch.Tensor]]:
    """The folder, and what the pickles of its clips hold."""
    make, rows = MAKE[subset]
    folder = make(root, rows)
    torch.manual_seed(0)
    seconds = 10 if subset == "avss" else 5
    tensors = {}
    for clip, path in pickle_paths(folder, subset).items():
        tensors[clip] = torch.randn(seconds, 1, 96, 64).requires_grad_() * 2  # published ones carry a gradient flag
        write_pickle(path, tensors[clip])
    return folder, tensors


def imported(root: Path, folder: Path, subset: str, pickles: bool):
    return import_clips(AvsBenchSource(folder, subset, SIZE, log_mel_pickles=pickles), root, 20)


@pytest.mark.parametrize("subset", MAKE)
def test_the_store_holds_the_pickles(tmp_path: Path, subset: str) -> None:
    folder, tensors = make_set(tmp_path, subset)
    report = imported(tmp_path / "root", folder, subset, True)
    assert report.quarantined == {}
    clips = ClipStore(tmp_path / "root")
    for row in range(len(clips.table)):
        clip, span = clips.table[row], clips.span(row)
        expected = tensors[clip.id].detach()[: clip.num_frames, 0].numpy()
        assert np.array_equal(clips.read("log_mel", *span), expected)
        assert clips.read("waveform", *span).any()
        assert clips.read("audio_valid", *span).all()
    assert "log-mel pickle differs" in report.notes[clip.id]


def test_the_command_takes_the_option(tmp_path: Path) -> None:
    folder, _ = make_set(tmp_path, "ms3")
    arguments = ["import", "avsbench", str(tmp_path / "by-command"), "--source", str(folder), "--subset", "ms3"]
    imported(tmp_path / "direct", folder, "ms3", pickles=True)
    assert run(app, [*arguments, "--size", str(SIZE), "--log-mel-pickles"]) == 0
    by_command, direct = ClipStore(tmp_path / "by-command"), ClipStore(tmp_path / "direct")
    assert by_command.parameters == direct.parameters
    np.testing.assert_array_equal(by_command.read("log_mel", 0, 5), direct.read("log_mel", 0, 5))


def test_without_the_option_they_are_not_looked_at(tmp_path: Path) -> None:
    folder, _ = make_set(tmp_path, "ms3")
    for path in pickle_paths(folder, "ms3").values():
        path.write_bytes(b"no pickle")
    imported(tmp_path / "root", folder, "ms3", False)
    store = ClipStore(tmp_path / "root")
    assert store.quarantined() == store.notes() == {}
    assert "log_mel" not in store.parameters


def test_pickles_of_the_sound_itself_give_the_same_arrays_and_another_fingerprint(tmp_path: Path) -> None:
    folder, _ = make_set(tmp_path, "ms3")
    imported(tmp_path / "computed", folder, "ms3", False)
    computed = ClipStore(tmp_path / "computed")
    paths = pickle_paths(folder, "ms3")
    for row in range(len(computed.table)):
        log_mel = torch.from_numpy(computed.read("log_mel", *computed.span(row)))
        write_pickle(paths[computed.table[row].id], log_mel[:, None])
    report = imported(tmp_path / "pickled", folder, "ms3", True)
    assert report.notes == {}
    pickled = ClipStore(tmp_path / "pickled")
    assert np.array_equal(pickled.read("log_mel", 0, pickled.frames), computed.read("log_mel", 0, computed.frames))
    assert pickled.parameters["log_mel"] == "pickles of the data set"
    assert pickled.fingerprint() != computed.fingerprint()
    with pytest.raises(BadInput, match="different: parameters"):
        imported(tmp_path / "computed", folder, "ms3", True)


def test_a_sound_that_ends_early_is_still_known(tmp_path: Path) -> None:
    folder, _ = make_set(tmp_path, "avss")
    uid, _, _, label = AVSS_ROWS[0]
    sound(folder / label / uid / "audio.wav", 3.0)
    imported(tmp_path / "root", folder, "avss", True)
    clips = ClipStore(tmp_path / "root")
    row = next(r for r in range(len(clips.table)) if clips.table[r].id == uid)
    assert clips.read("audio_valid", *clips.span(row)).tolist() == [1, 1, 1, 0, 0]


@pytest.mark.parametrize("subset", MAKE)
def test_missing_pickles_are_all_listed(tmp_path: Path, subset: str) -> None:
    folder, _ = make_set(tmp_path, subset)
    gone = list(pickle_paths(folder, subset).values())[1:]
    for path in gone:
        path.unlink()
    with pytest.raises(BadInput) as error:
        AvsBenchSource(folder, subset, SIZE, log_mel_pickles=True)
    assert all(f"{path} is missing" in str(error.value) for path in gone)
    AvsBenchSource(folder, subset, SIZE)


class Trap:
    def __reduce__(self) -> tuple:
        return (os.mkdir, ("sprung",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(10, 1, 96, 64), r"float32 \[10, 1, 96, 64\]; expected float32 \[5, 1, 96, 64\]"),
        (torch.zeros(5, 96, 64), r"expected float32 \[5, 1, 96, 64\]"),
        (torch.zeros(5, 1, 96, 64, dtype=torch.float64), "holds float64"),
        (torch.full((5, 1, 96, 64), torch.nan), "not finite"),
        (np.zeros((5, 1, 96, 64), np.float32), "asks for numpy"),
        (Trap(), "asks for posix.mkdir"),
    ],
    ids=["seconds", "axes", "type", "nan", "array", "code"],
)
def test_an_unfit_pickle_quarantines_its_clip(tmp_path: Path, monkeypatch, content, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    folder, _ = make_set(tmp_path, "ms3")
    clip, path = next(iter(pickle_paths(folder, "ms3").items()))
    path.write_bytes(pickle.dumps(content))
    report = imported(tmp_path / "root", folder, "ms3", True)
    assert list(report.quarantined) == [clip]
    assert str(path) in report.quarantined[clip]
    assert re.search(message, report.quarantined[clip])
    assert not (tmp_path / "sprung").exists()

"""`combo doctor`: every fault that is planted is found under its number, and what is whole gets none."""

import errno
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from avsbench_tree import AVSS_ROWS, MS3_ROWS, S4_ROWS, SIZE, make_avss, make_ms3, make_s4, mask, picture, save, sound
from fakes import NoiseSource
from store_locations import KINDS, contents, open_place

import combo_avs
from combo_avs.data.store.attributes import Provenance
from combo_avs.data.store.root import audio_attributes, create_cache
from combo_avs.data.store.store import ClipStore
from combo_avs.pipeline.config.tree import load_config
from combo_avs.pipeline.doctor import machine
from combo_avs.pipeline.doctor.examine import examine
from combo_avs.pipeline.doctor.findings import RULES, Finding, Report
from combo_avs.pipeline.imports.clips import import_clips
from combo_avs.pipeline.runs.checkpoints import Checkpoint, checkpoint_path, write_checkpoint
from combo_avs.pipeline.runs.data import RunInfo
from combo_avs.pipeline.runs.folder import create_converted_run

OF_THE_MACHINE = "D1"


def found(*paths: str | Path) -> dict[str, Finding]:
    """Findings by number, those about this machine left out."""
    report = examine([str(p) for p in paths])
    json.dumps(report.to_json())
    findings = {f.code: f for f in report.findings if not f.code.startswith(OF_THE_MACHINE)}
    assert all(code in str(report) for code in findings)
    return findings


@pytest.fixture(autouse=True)
def _no_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COMBO_WEIGHTS", str(tmp_path / "weights"))


# The machine


def test_the_machine_alone():
    facts = examine([]).machine
    assert facts["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert facts["devices"][0]["cores"] >= 1
    assert 0 < facts["memory_gb"]["free"] <= facts["memory_gb"]["of"]
    assert all(free > 0 for free in facts["disk_gb"].values())


def test_missing_packages_and_parts(monkeypatch):
    wanted = ["numpy>=1", "no-such-package>=2", "pillow>=1000", 'also-missing>=3; extra == "s3"', 'x; extra == "dev"']
    monkeypatch.setattr(machine, "requires", lambda name: wanted)
    report = examine([])
    by_code = {f.code: f for f in report.findings}
    assert [item.split()[0] for item in by_code["D101"].items] == ["no-such-package", "pillow"]
    assert by_code["D102"].detail == "s3"
    assert [item.split()[0] for item in by_code["D102"].items] == ["also-missing"]
    assert report.machine["parts"] == {"s3": False}
    assert report.exit_code == 1


def test_the_memory_of_a_container_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    assert machine.free_memory() == 600_000
    assert "D106" in {f.code for f in examine([]).findings}
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.free_memory() > 600_000


@pytest.mark.parametrize(("memory", "disk", "codes"), [(3.9, 4.9, {"D106", "D107"}), (4.0, 5.0, set())])
def test_what_counts_as_little(memory, disk, codes):
    facts = machine.machine_facts()
    facts["memory_gb"]["free"], facts["disk_gb"] = memory, {"here": disk}
    assert {f.code for f in machine.machine_findings(facts)} & {"D106", "D107"} == codes


@pytest.mark.parametrize(("major", "codes"), [(7, {"D105"}), (8, set())])
def test_gpus_without_bf16(monkeypatch, major, codes):
    gpu = SimpleNamespace(name="a GPU", total_memory=16e9, major=major)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda index: gpu)
    report = examine([])
    assert {f.code for f in report.findings} & {"D103", "D104", "D105"} == codes
    assert report.machine["devices"][1] == {"device": "cuda:0", "name": "a GPU", "memory_gb": 16.0, "bf16": major >= 8}


def test_a_container_with_more_than_the_machine_has(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("1000000000000000")
    (tmp_path / "memory.current").write_text("0")
    assert machine.free_memory() < 1e15


def test_weights_by_size_at_once_and_by_hash_when_asked(tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "vggish-10086976.pth").write_bytes(b"damaged")  # no size is published
    report = examine([])
    assert report.machine["weights"]["here"] == ["vggish"]
    assert report.exit_code == 0
    report = examine([str(folder)])
    assert [f.code for f in report.findings if f.severity == "error"] == ["D111"]
    (folder / "mobile_sam.pt").write_bytes(b"cut off")
    assert [Path(f.where).name for f in examine([]).findings if f.code == "D111"] == ["mobile_sam.pt"]


def test_exit_codes():
    assert Report({}, findings=[Finding("D302", "x"), Finding("D103", "x")]).exit_code == 0
    assert Report({}, findings=[Finding("D302", "x"), Finding("D303", "x")]).exit_code == 1


# AVSBench

FRAME = "s4_data/visual_frames/train/dog_barking/-aaaaaaaaaa/-aaaaaaaaaa_2.png"
MASK = "s4_data/gt_masks/val/dog_barking/_bbbbbbbbb_/_bbbbbbbbb__3.png"
WAV = "s4_data/audio_wav/test/race_car/ccccccccccc.wav"
WHOLE = {"D302", "D314", "D318"}  # the small folders: few clips, an id with a dash, frames of 16 x 16


def test_whole_folders(tmp_path):
    make_s4(tmp_path, S4_ROWS), make_ms3(tmp_path, MS3_ROWS[:3])
    make_avss(tmp_path, AVSS_ROWS)
    assert found(tmp_path).keys() == WHOLE | {"D313", "D317"}
    assert examine([str(tmp_path)]).exit_code == 0


@pytest.mark.parametrize(
    ("code", "harm"),
    [
        ("D303", lambda s4: (s4 / FRAME).unlink()),
        ("D303", lambda s4: (s4 / WAV).unlink()),
        ("D304", lambda s4: (s4 / FRAME).write_bytes(b"no picture")),
        ("D304", lambda s4: (s4 / MASK).write_bytes((s4 / MASK).read_bytes()[:50])),
        ("D304", lambda s4: (s4 / WAV).write_bytes(b"RIFF")),
        ("D305", lambda s4: picture(s4 / FRAME, 0, (SIZE, SIZE + 1))),
        ("D306", lambda s4: picture((s4 / FRAME).parent / "-aaaaaaaaaa_6.png", 0)),
        ("D307", lambda s4: save(s4 / MASK, mask(1) // 255 * 100)),
        ("D308", lambda s4: save(s4 / MASK, mask(1) // 255)),
        ("D309", lambda s4: save(s4 / MASK, np.where(mask(1) > 0, 255, 30).astype(np.uint8))),
        ("D310", lambda s4: save(s4 / MASK, mask(1) * 0)),
        ("D311", lambda s4: sound(s4 / WAV, subtype="FLOAT")),
        ("D312", lambda s4: sound(s4 / WAV, seconds=4.7)),
        ("D315", lambda s4: (s4 / "s4_data/.DS_Store").touch()),
        ("D316", lambda s4: (s4 / "s4_data/visual_frames/train/dog_barking/half_extracted").mkdir()),
        ("D316", lambda s4: sound((s4 / WAV).with_name("other.wav"))),
    ],
)
def test_one_fault_gives_one_finding(tmp_path, code, harm):
    folder = make_s4(tmp_path, S4_ROWS)
    harm(folder)
    findings = found(tmp_path)
    assert findings.keys() == WHOLE | {code}
    assert len(findings[code].items) == 1


def test_labels_of_no_class(tmp_path):
    folder = make_avss(tmp_path, AVSS_ROWS)
    save(folder / "v2/eeeeeeeeeee_0_10000/labels_semantic/4.png", np.full((20, 31), 71, np.uint8))
    assert "71" in found(folder)["D307"].items[0]


def test_lists_that_cannot_be_used(tmp_path):
    folder = make_s4(tmp_path, S4_ROWS)
    (folder / "s4_meta_data.csv").write_text("name,category,split\n../../etc,dog,train\n")
    assert "line 2" in found(tmp_path)["D301"].detail
    avss = make_avss(tmp_path / "other", AVSS_ROWS)
    (avss / "label2idx.json").unlink()
    assert "label2idx.json" in found(avss)["D301"].detail


def test_shared_source_videos_are_counted(tmp_path):
    rows = [("aaaaaaaaaaa_0", "train"), ("aaaaaaaaaaa_1", "test"), ("aaaaaaaaaaa_2", "test"), ("bbbbbbbbbbb", "test")]
    finding = found(make_ms3(tmp_path, rows))["D320"]
    assert finding.detail == "2 of 3 test clips share a source video with train clips"
    assert finding.items == ("aaaaaaaaaaa_1", "aaaaaaaaaaa_2")


# File systems


def test_a_fit_file_system_is_left_as_it_was(tmp_path):
    assert found(tmp_path).keys() == {"D208"}
    assert list(tmp_path.iterdir()) == []
    assert found(f"memory://doctor-{os.getpid()}") == {}


def test_no_place(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "nothing", tmp_path / "file", "nosuch://place", "memory://x::memory://y"):
        assert found(path).keys() == {"D201"}


def test_a_place_without_rights():
    assert found("/proc/self").keys() >= {"D202", "D208"}


def not_at_once(source: Path, target: Path) -> None:
    target.write_bytes(b"")
    time.sleep(0.01)
    shutil.copyfile(source, target)


def refuse(number: int) -> Callable[..., None]:
    def call(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize(
    ("code", "owner", "name", "broken"),
    [
        ("D204", os, "replace", not_at_once),
        ("D205", os, "fsync", refuse(errno.EINVAL)),
        ("D206", fcntl, "flock", refuse(errno.ENOLCK)),
        ("D206", fcntl, "flock", lambda *_: None),  # says yes to everybody
    ],
)
def test_an_unfit_file_system(tmp_path, monkeypatch, code, owner, name, broken):
    monkeypatch.setattr(owner, name, broken)
    assert found(tmp_path).keys() == {"D208", code}
    assert list(tmp_path.iterdir()) == []


# Cache roots


@pytest.fixture
def root(tmp_path: Path) -> Path:
    import_clips(NoiseSource(), tmp_path / "root", shard_frames=20)
    return tmp_path / "root"


def a_cache(root: Path) -> Path:
    clips = ClipStore(root)
    attributes = audio_attributes(clips, Provenance("empty", "1", {}), dim=3, probes={})
    return Path(create_cache(clips, attributes).path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_root_is_left_as_it_was(kind, tmp_path):
    place = open_place(kind, tmp_path)
    import_clips(NoiseSource(), place, shard_frames=20)
    before = contents(place)
    assert found(place) == {}
    assert contents(place) == before


def test_damage_that_sizes_show(root):
    shard = next(p for p in (root / "clips.zarr/frames/c").rglob("*") if p.is_file())
    shard.write_bytes(shard.read_bytes()[:-1])
    assert found(root).keys() == {"D402"}


def test_a_damaged_clip_table(root):
    (root / "clips.zarr/clips.parquet").write_bytes(b"PAR1")
    assert found(root).keys() == {"D401"}


def test_unfinished_stale_and_broken_caches(root, tmp_path):
    cache = a_cache(root)
    assert found(root).keys() == {"D403"}
    import_clips(NoiseSource(seed=1), tmp_path / "other", shard_frames=20)
    shutil.copytree(cache, tmp_path / "other/audio" / cache.name)
    assert found(tmp_path / "other").keys() == {"D403", "D405"}
    (cache / "zarr.json").write_text("{")
    assert found(root).keys() == {"D401"}


def test_quarantined_clips(tmp_path):
    import_clips(NoiseSource(broken=("clip-2",)), tmp_path / "root", shard_frames=20)
    finding = found(tmp_path / "root")["D404"]
    assert [item.split(":")[0] for item in finding.items] == ["clip-2"]


# Runs


@pytest.fixture
def run(root: Path) -> Path:
    """A run with best weights and two checkpoints, of one number each; its caches are not there."""
    folder = root.parent / "run"
    clips = ClipStore(root)
    made = Provenance("fake", "1", {})
    info = RunInfo(str(root), "noise", clips.classes, clips.size, clips.fingerprint(), "p", made, "a", made)
    weights = {"w": torch.ones(1)}
    create_converted_run(folder, load_config("tiny", []), info, weights)
    for step in (1, 2):
        write_checkpoint(checkpoint_path(folder, step), Checkpoint({"model": weights}, {}, {"step": step}))
    return folder


def test_a_run_without_its_caches(run):
    findings = found(run)
    assert findings.keys() == {"D505"}
    assert "proposals" in findings["D505"].detail


@pytest.mark.parametrize(
    ("code", "harm"),
    [
        ("D501", lambda run: (run / "run.json").write_text("{}")),
        ("D501", lambda run: (run / "config.yaml").write_text("train: {no_such_key: 1}")),
        ("D502", lambda run: (run / "checkpoints/step-00000002/state.pt").write_bytes(b"x")),
        ("D503", lambda run: (run / "best/model.safetensors").write_bytes(b"x")),
        ("D504", lambda run: [shutil.rmtree(run / name) for name in ("best", "checkpoints")]),
        ("D506", lambda run: (run / "broken/step-00000007").mkdir(parents=True)),
    ],
)
def test_damaged_runs(run, code, harm):
    harm(run)
    assert found(run).keys() - {"D505"} == {code}


# The documentation


def test_the_documentation_lists_every_number():
    text = (Path(combo_avs.__file__).parent / "docs" / "doctor.md").read_text()
    rows = dict(re.findall(r"^\| (D\d{3}) \| (.*?) \|$", text, re.MULTILINE))
    assert rows == {code: f"{rule.severity} | {rule.what} | {rule.advice}" for code, rule in RULES.items()}

"""The command line: the forms that scripts rely on, exit codes, help, and messages."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.main import get_command

from combo_avs.cli import app
from combo_avs.console import run
from combo_avs.data.store.store import ClipStore
from combo_avs.errors import BAD_INPUT, DONE, FAILED, INTERRUPTED, QUARANTINED

SMALL = ["--size", "64", "--shard-frames", "20"]
TINY = ["model.width=32", "model.heads=2", "model.num_queries=4", "model.encoder_layers=1", "loss.num_points=64"]


def combo(*arguments: str | Path) -> int:
    return run(app, [str(a) for a in arguments])


def commands() -> list[list[str]]:
    """Every command and group, as typed."""
    found: list[list[str]] = [[]]

    def walk(group, path: list[str]) -> None:
        for name, command in group.commands.items():
            found.append([*path, name])
            if hasattr(command, "commands"):
                walk(command, [*path, name])

    walk(get_command(app), [])
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ROOT with caches and a RUN trained on it, made by the commands themselves; do not write here."""
    folder = tmp_path_factory.mktemp("cli")
    root, run = folder / "root", folder / "run"
    assert combo("import", "synthetic", root, "--flavour", "ms3", "--clips", 12, "--seed", 0, *SMALL) == DONE
    assert combo("precompute", root, "--proposals", "felzenszwalb", "--audio", "logmel", "--workers", 0) == DONE
    arguments = ["--preset", "tiny", "--proposals", "felzenszwalb", "--audio", "logmel", "--out", run]
    settings = [part for s in TINY for part in ("--set", s)]
    assert combo("train", root, *arguments, "--steps", 2, "--seed", 3, *settings) == DONE
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "root", tmp_path / "root"))


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_help(command: list[str], capsys: pytest.CaptureFixture) -> None:
    assert combo(*command, "--help") == DONE
    out = capsys.readouterr().out
    assert "Usage: combo" in out
    assert "--help" in out


def test_importing_the_cli_is_light() -> None:
    heavy = "{'torch', 'zarr', 'dask', 'distributed', 'numpy', 'pyarrow'}"
    code = f"import sys, combo_avs.cli; assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_python_m() -> None:
    done = subprocess.run([sys.executable, "-m", "combo_avs", "--help"], capture_output=True, text=True)
    assert done.returncode == DONE
    assert "precompute" in done.stdout


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["cache", "ver"], ["verify"]),
        (["train", "root", "--show-c"], ["--show-config"]),
        (["train", "root", "--preset", "ms3-"], ["ms3-pvt", "ms3-r50"]),
        (["predict", "run", "--masks", ""], ["png", "coco", "zarr"]),
    ],
)
def test_the_shell_completes(typed: list[str], offered: list[str]) -> None:
    asked = {
        "_COMBO_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(["combo", *typed]),
        "COMP_CWORD": str(len(typed)),
    }
    command = [sys.executable, "-m", "combo_avs"]
    done = subprocess.run(command, env=os.environ | asked, capture_output=True, text=True)
    assert done.stdout.split() == offered


class TestInfoAndVerify:
    def test_info(self, made: Path, capsys: pytest.CaptureFixture) -> None:
        assert combo("cache", "info", made / "root", "--json") == DONE
        info = json.loads(capsys.readouterr().out)
        assert sum(info["clips"]["splits"].values()) == 12
        assert {c["kind"] for c in info["caches"]} == {"proposals", "audio"}
        assert all(c["fresh"] and set(c["coverage"].values()) == {1.0} for c in info["caches"])
        assert combo("cache", "info", made / "root") == DONE
        assert "train 100%" in capsys.readouterr().out

    def test_verify_whole(self, made: Path, capsys: pytest.CaptureFixture) -> None:
        assert combo("cache", "verify", made / "root", "--json") == DONE
        assert json.loads(capsys.readouterr().out) == {"ok": True, "problems": []}

    def test_verify_damaged(self, copy: Path, capsys: pytest.CaptureFixture) -> None:
        path = copy / "clips.zarr" / "frames" / "c" / "1" / "0" / "0" / "0"
        data = bytearray(path.read_bytes())
        data[1000] ^= 4
        path.write_bytes(data)
        assert combo("cache", "verify", copy, "--json") == FAILED
        problems = json.loads(capsys.readouterr().out)["problems"]
        assert [(p["shard"], "contents changed" in p["problem"]) for p in problems] == [(1, True)]

    def test_verify_missing(self, copy: Path, capsys: pytest.CaptureFixture) -> None:
        next((copy / "audio").rglob("_done/*.json")).unlink()
        assert combo("cache", "verify", copy) == FAILED
        assert "never finished" in capsys.readouterr().out


class TestEvaluate:
    @pytest.mark.parametrize("sound", ["right", "swapped", "silent", "noise"])
    def test_json(self, made: Path, sound: str, capsys: pytest.CaptureFixture) -> None:
        assert combo("evaluate", made / "run", "--split", "test", "--sound", sound, "--json") == DONE
        scores = json.loads(capsys.readouterr().out)
        assert 0 <= scores["M_J"] <= 100
        assert 0 <= scores["M_F"] <= 100
        assert scores["unit"] == "percent"
        assert scores["sound"] == sound
        assert "empty_frames" in scores

    def test_several_protocols_in_one_pass(self, made: Path, capsys: pytest.CaptureFixture) -> None:
        names = ["published", "avsbench-bs2", "dataset-f"]
        assert combo("evaluate", made / "run", *(p for n in names for p in ("--protocol", n)), "--json") == DONE
        scores = json.loads(capsys.readouterr().out)
        assert list(scores["protocols"]) == names
        assert scores["M_F"] == scores["protocols"]["published"]["M_F"]
        assert combo("evaluate", made / "run", "--protocol", "dataset-confusion") == BAD_INPUT
        assert "avsbench-bsN" in capsys.readouterr().err

    def test_text(self, made: Path, capsys: pytest.CaptureFixture) -> None:
        assert combo("evaluate", made / "run") == DONE
        assert re.search(r"^M_J \d+\.\d\d %$", capsys.readouterr().out, re.M)


class TestExitCodes:
    def test_usage(self, capsys: pytest.CaptureFixture) -> None:
        assert combo("train", "somewhere") == BAD_INPUT
        assert combo("evaluate", "run", "--sound", "loud") == BAD_INPUT
        assert combo("no-such-command") == BAD_INPUT
        assert "No such command" in capsys.readouterr().err

    def test_bad_input(self, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
        assert combo("cache", "info", tmp_path) == BAD_INPUT
        assert "combo import" in capsys.readouterr().err

    def test_quarantined(self, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
        source, root = tmp_path / "avsbench", tmp_path / "root"
        flavour = ("--flavour", "ms3", "--clips", "6", "--seed", "0")
        assert combo("import", "synthetic", tmp_path / "a", *flavour, *SMALL, "--avsbench", source) == DONE
        mask = next(source.rglob("gt_masks/**/*_3.png"))
        header = mask.read_bytes()[:60]
        mask.write_bytes(header)  # a whole header, so that only decoding can find it
        with pytest.raises(OSError, match=r"truncated|broken|Truncated"):
            Image.open(mask).load()
        assert combo("import", "avsbench", root, "--source", source, "--subset", "ms3", *SMALL) == QUARANTINED
        captured = capsys.readouterr()
        assert mask.name in captured.out
        assert "1 clip is quarantined" in captured.err
        assert len(ClipStore(root).quarantined()) == 1

    def test_interrupted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
        from combo_avs.pipeline.imports import fill

        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(fill, "_fill_shard", stop)
        code = combo("import", "synthetic", tmp_path, "--flavour", "s4", "--clips", "3", *SMALL)
        assert code == INTERRUPTED
        assert "same command again" in capsys.readouterr().err

    def test_disk_full(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
        from combo_avs.pipeline.imports import fill

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(fill, "_fill_shard", full)
        assert combo("import", "synthetic", tmp_path, "--flavour", "s4", "--clips", "3", *SMALL) == FAILED
        assert "No space left" in capsys.readouterr().err


def test_dry_run_writes_nothing(copy: Path, capsys: pytest.CaptureFixture) -> None:
    assert combo("precompute", copy, "--proposals", "none", "--dry-run") == DONE
    assert "3 of 3 shards to do" in capsys.readouterr().out
    assert not list((copy / "proposals").glob("none-*"))


def test_videos_become_clips_with_proposals_and_features(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from combo_avs.data.sources.synthetic.source import render_video
    from combo_avs.data.sources.video.writer import write_video

    made = render_video(0, 12, fps=10, size=80)
    write_video(tmp_path / "-a b.mp4", made.frames(), 10, made.waveform.astype("float32"))
    root = tmp_path / "root"
    assert combo("import", "videos", root, "--size", 64, "--", tmp_path / "-a b.mp4") == DONE
    assert combo("precompute", root, "--proposals", "felzenszwalb", "--audio", "logmel", "--workers", 0) == DONE
    table = ClipStore(root).table
    assert [sum(clip.frame_valid) for clip in table] == [5, 5, 2]
    capsys.readouterr()
    assert combo("cache", "info", root, "--json") == DONE
    assert [c["coverage"] for c in json.loads(capsys.readouterr().out)["caches"]] == [{"test": 1.0}] * 2


def test_model_prints_the_sizes_of_table_4(capsys: pytest.CaptureFixture) -> None:
    assert combo("model", "--set", "model.siam=shared", "--json") == DONE
    assert round(json.loads(capsys.readouterr().out)["total"] / 1e6, 1) == 135.4
    assert combo("model") == DONE
    assert "158.903 M" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture) -> None:
    assert combo("--version") == DONE
    assert capsys.readouterr().out.startswith("combo-avs ")


def test_a_remote_root_is_refused_not_made_into_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert combo("import", "synthetic", "s3://bucket/root", "--flavour", "s4", "--clips", 3, *SMALL) == BAD_INPUT
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flavour", ["s4", "ms3", "avss"])
def test_every_flavour_survives_the_way_over_avsbench_folders(flavour: str, tmp_path: Path) -> None:
    source = tmp_path / "avsbench"
    arguments = ("--flavour", flavour, "--clips", "6", "--seed", "1")
    assert combo("import", "synthetic", tmp_path / "direct", *arguments, *SMALL, "--avsbench", source) == DONE
    code = combo("import", "avsbench", tmp_path / "read", "--source", source, "--subset", flavour, *SMALL)
    assert code == DONE
    direct, read = ClipStore(tmp_path / "direct"), ClipStore(tmp_path / "read")
    assert [c.num_frames for c in direct.table] == [c.num_frames for c in read.table]
    assert direct.classes == read.classes
    assert (direct.read("labels", 0, direct.frames) == read.read("labels", 0, read.frames)).all()

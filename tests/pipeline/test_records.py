"""What a run writes down about its clips: which were left out, and where they are."""

import json
import os
import shutil
import warnings
from pathlib import Path

import pytest
from typer.testing import CliRunner

from combo_avs.cli import app
from combo_avs.data.store.store import Cache
from combo_avs.errors import BadInput
from combo_avs.pipeline.config.tree import Config
from combo_avs.pipeline.evaluate.run import evaluate_run
from combo_avs.pipeline.runs.data import DataNames, came_and_went, open_data
from combo_avs.pipeline.runs.folder import read_run
from combo_avs.pipeline.runs.open import Choice
from combo_avs.pipeline.train.loop import train

CACHES = ("felzenszwalb", "logmel")


def trained(root: Path, config: Config, out: Path, *, steps: int = 2, resume: bool = True, allow: tuple = ()) -> None:
    changed = config.model_copy(update={"train": config.train.model_copy(update={"steps": steps})})
    train(DataNames(root, *CACHES), changed, out, resume=resume, allow=allow)


def ids(root: Path, split: str) -> list[str]:
    clips = open_data(DataNames(root, *CACHES)).clips
    return [clips.table[int(row)].id for row in clips.table.rows(split)]


def break_clips(monkeypatch: pytest.MonkeyPatch, *clips: str) -> None:
    """Both caches say that they could not make these clips."""
    monkeypatch.setattr(Cache, "quarantined", lambda self: dict.fromkeys(clips, "broke"))


def numbers(results: dict) -> dict:
    """Of each evaluation, without the place of the run."""
    return {name: {k: v for k, v in one.summary().items() if k != "run"} for name, one in results.items()}


def run_json(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())


class TestLeftOut:
    def test_a_run_goes_on_with_its_own_clips(
        self, prepared: Path, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run, (one, two, *_), val, test = tmp_path / "run", ids(prepared, "train"), ids(prepared, "val")[0], "test"
        break_clips(monkeypatch, two, val, ids(prepared, test)[0])
        trained(prepared, config, run, steps=1)
        assert run_json(run)["left_out"] == sorted([two, val])  # not those of test: nothing is learned from them
        trained(prepared, config, run, steps=2)

        break_clips(monkeypatch, one, val)
        before = {name: (run / name).read_bytes() for name in ("run.json", "config.yaml", "log.jsonl")}
        with pytest.raises(BadInput) as error:
            trained(prepared, config, run, steps=3)
        assert f"were left out, and can be used now: {two}\n" in str(error.value)
        assert f"were used, and are left out now: {one}\n" in str(error.value)
        assert "--allow-other left-out" in str(error.value)
        assert {name: (run / name).read_bytes() for name in before} == before
        assert came_and_went(read_run(run)[1], open_data(DataNames(prepared, *CACHES))) == ([two], [one])

        trained(prepared, config, run, steps=3, allow=("left-out",))
        assert run_json(run)["left_out"] == sorted([one, val])
        trained(prepared, config, run, steps=4)  # accepted once

    def test_evaluation_names_them_as_far_as_it_sees_them(
        self, prepared: Path, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A root with the test split alone is enough to score a run, and says nothing of the clips of train."""
        root = Path(shutil.copytree(prepared, tmp_path / "root"))
        one, two, *_ = ids(root, "train")
        with monkeypatch.context() as broken:
            break_clips(broken, two)
            trained(root, config, tmp_path / "run", steps=1)
        with monkeypatch.context() as broken:
            break_clips(broken, one)
            with pytest.warns(UserWarning, match="in training: clips that") as said:
                whole = evaluate_run(tmp_path / "run", device="cpu")
        messages = [str(one_of.message) for one_of in said]
        assert [m for m in messages if f"were left out, and can be used now: {two}" in m]
        assert [m for m in messages if f"were used, and are left out now: {one}" in m]

        data = open_data(DataNames(root, *CACHES))
        only_train = set(data.clips.shards_of("train")) - set(data.clips.shards_of("test"))
        assert only_train
        data.audio.invalidate(only_train)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert numbers(evaluate_run(tmp_path / "run", device="cpu")) == numbers(whole)

    def test_an_unknown_name_is_refused(self, prepared: Path, config: Config, tmp_path: Path) -> None:
        trained(prepared, config, tmp_path, steps=1)
        with pytest.raises(BadInput, match="--allow-other left_out: there are clips, proposals, audio, left-out"):
            trained(prepared, config, tmp_path, allow=("left_out",))

    def test_runs_of_older_versions_are_taken_and_named(
        self, prepared: Path, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        trained(prepared, config, tmp_path, steps=1)
        older = {k: v for k, v in run_json(tmp_path).items() if k not in ("left_out", "absolute_root")}
        (tmp_path / "run.json").write_text(json.dumps({**older, "root": str(prepared)}))
        assert came_and_went(read_run(tmp_path)[1], open_data(read_run(tmp_path)[1])) == ([], [])
        shutil.rmtree(tmp_path / "checkpoints")  # their manifests would know
        break_clips(monkeypatch, clip := ids(prepared, "train")[0])
        with pytest.warns(UserWarning, match="did not write down the clips that were left out.*leaves out 1, "):
            trained(prepared, config, tmp_path)
        assert run_json(tmp_path)["left_out"] == [clip]


class TestPlaces:
    @pytest.mark.parametrize("places", [("root", "run"), ("root", "root/runs/a"), ("run/cache", "run")], ids=str)
    def test_a_run_and_its_root_move_together(
        self, prepared: Path, config: Config, tmp_path: Path, places: tuple[str, str]
    ) -> None:
        root, run = (tmp_path / "here" / place for place in places)
        shutil.copytree(prepared, root)
        trained(root, config, run)
        assert run_json(run)["root"] == os.path.relpath(root, run)
        assert run_json(run)["absolute_root"] == str(root)
        scores = evaluate_run(run, device="cpu")
        shutil.move(tmp_path / "here", tmp_path / "there")
        root, run = (tmp_path / "there" / place for place in places)
        assert numbers(evaluate_run(run, device="cpu")) == numbers(scores)
        trained(root, config, run)

    def test_a_run_that_moves_alone_finds_its_root(self, root: Path, config: Config, tmp_path: Path) -> None:
        trained(root, config, tmp_path / "run")
        (tmp_path / "far" / "away").mkdir(parents=True)
        shutil.move(tmp_path / "run", tmp_path / "far" / "away" / "run")
        assert open_data(read_run(tmp_path / "far" / "away" / "run")[1]).clips.path == root / "clips.zarr"

    def test_links(self, root: Path, config: Config, tmp_path: Path) -> None:
        (tmp_path / "deep" / "down").mkdir(parents=True)
        (tmp_path / "link").symlink_to(tmp_path / "deep" / "down")
        trained(root, config, tmp_path / "link" / "run")
        assert run_json(tmp_path / "link" / "run")["root"] == "../../../root"
        for run in (tmp_path / "link" / "run", tmp_path / "deep" / "down" / "run"):
            assert open_data(read_run(run)[1]).clips.path == root / "clips.zarr"

    def test_a_root_that_is_elsewhere_is_named(self, root: Path, config: Config, tmp_path: Path) -> None:
        run, moved = tmp_path / "run", tmp_path / "a" / "b"
        trained(root, config, run)
        scores = evaluate_run(run, device="cpu")
        shutil.move(root, moved)
        with pytest.raises(BadInput, match="--root ROOT"):
            evaluate_run(run, device="cpu")
        assert numbers(evaluate_run(run, device="cpu", choice=Choice(root=moved))) == numbers(scores)
        call = ["report", str(run), "--out", str(tmp_path / "page"), "--root", str(moved), "--device", "cpu"]
        assert CliRunner().invoke(app, call).exit_code == 0
        assert "not scored" not in (tmp_path / "page" / "index.html").read_text()

    def test_a_wrong_root_is_refused(self, root: Path, config: Config, tmp_path: Path) -> None:
        trained(root, config, tmp_path / "run")
        info = (tmp_path / "run" / "run.json").read_text()
        wrong = json.loads(info)["clips_fingerprint"]
        (tmp_path / "run" / "run.json").write_text(info.replace(wrong, "0" * len(wrong)))
        with pytest.raises(BadInput, match=r"holds other clips[\s\S]*--root ROOT"):
            evaluate_run(tmp_path / "run", device="cpu", choice=Choice(root=root))

"""What an evaluation says of itself, what is kept of it, and when that is used again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from combo_avs.cli import app
from combo_avs.console import run as combo
from combo_avs.data.store.root import open_cache
from combo_avs.data.store.store import ClipStore
from combo_avs.errors import BAD_INPUT, DONE, BadInput
from combo_avs.model.weights.network_file import network_metadata
from combo_avs.pipeline.common.percent import in_percent
from combo_avs.pipeline.config.tree import Config
from combo_avs.pipeline.evaluate.results import Result, find_result, read_result
from combo_avs.pipeline.evaluate.run import evaluate_run
from combo_avs.pipeline.evaluate.show import show_results
from combo_avs.pipeline.runs.data import DataNames
from combo_avs.pipeline.runs.folder import read_best, read_run, read_run_log
from combo_avs.pipeline.runs.open import Choice, Weights, choose_weights, open_run
from combo_avs.pipeline.train.loop import train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(prepared: Path, config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped at step 2 of 3 and scored on val after step 1 and 2. Do not write here."""
    run = tmp_path_factory.mktemp("results") / "run"
    settings = {"evaluate_every": 1, "checkpoint_every": 1}
    for steps in (2, 3):
        changed = config.model_copy(update={"train": config.train.model_copy(update={**settings, "steps": steps})})
        if steps == 2:
            train(DataNames(prepared, "felzenszwalb", "logmel"), changed, run)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("  steps: 2\n", "  steps: 3\n"))
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def kept(run: Path, name: str) -> Result:
    result = read_result(run / "results" / f"{name}.json")
    assert result is not None
    return result


class TestWhatIsSaid:
    def test_of_a_run_that_is_not_finished(self, run: Path, prepared: Path) -> None:
        result = evaluate_run(run, device="cpu", choice=Choice("last"))["published"]
        clips = ClipStore(prepared)
        assert (result.weights, result.step, result.steps, result.finished) == ("last", 2, 3, False)
        assert result.weights_sha256 == choose_weights(run, read_run(run)[0], "last").sha256
        assert (result.run, result.split, result.sound) == (str(run), "test", "right")
        assert (result.dataset, result.clips_fingerprint) == (clips.dataset, clips.fingerprint())
        assert result.proposals == open_cache(clips, "proposals", "felzenszwalb").name
        assert (result.clips, result.clips_left_out, result.untrained) == (len(result.per_clip), 0, ())
        text = show_results([result])
        for said in ("last, step 2 of 3 (unfinished)", "right", str(run), result.clips_fingerprint[:12], "test of"):
            assert said in text
        assert f"M_J {result.M_J:.2f} %\nM_F {result.M_F:.2f} %" in text

    def test_the_best_weights_are_those_of_the_best_evaluation(self, run: Path) -> None:
        best = max((e for e in read_run_log(run) if "M_J" in e), key=lambda e: e["M_J"])
        result = evaluate_run(run, "val", device="cpu")["published"]
        assert (result.weights, result.step, result.finished) == ("best", best["step"], False)
        assert pytest.approx(best["M_J"], abs=1e-9) == result.M_J

    def test_the_same_as_json(self, run: Path, capsys: pytest.CaptureFixture) -> None:
        assert combo(app, ["evaluate", str(run), "--json", "--weights", "last", "--device", "cpu"]) == DONE
        printed = json.loads(capsys.readouterr().out)
        result = kept(run, "test-right-published-last")
        assert printed == result.summary()
        assert "per_clip" not in printed
        assert {"run", "weights", "step", "steps", "finished", "protocol", "split", "sound", "clips"} <= set(printed)

    def test_clip_and_frames_are_in_percent_and_agree(self, run: Path) -> None:
        result = evaluate_run(run, device="cpu")["published"]
        assert pytest.approx(sum(c.J or 0 for c in result.per_clip.values()) / result.clips) == result.M_J
        for clip in result.per_clip.values():
            assert pytest.approx(sum(j or 0 for j in clip.J_T) / len(clip.J_T)) == clip.J
            for j, area in zip(clip.J_T, clip.area_T, strict=True):
                assert area is None or j == pytest.approx(100 * (1 - area))


class TestWeights:
    def test_of_a_file(self, run: Path, tmp_path: Path) -> None:
        config, info = read_run(run)
        weights = load_file(run / "best" / "model.safetensors")
        mine = tmp_path / "mine.safetensors"
        turned = {k: -v if k.startswith("decoder.class_embed") else v for k, v in weights.items()}
        save_file(turned, mine, network_metadata(config.model, len(info.classes)))
        result = evaluate_run(run, device="cpu", choice=Choice(str(mine)))["published"]
        assert (result.weights, result.step) == (str(mine), None)
        assert kept(run, f"test-right-published-{result.weights_sha256[:12]}") == result
        evaluate_run(run, device="cpu")
        assert kept(run, "test-right-published-best").M_J != result.M_J

    def test_of_another_network(self, run: Path, tmp_path: Path) -> None:
        config, info = read_run(run)
        other = config.model.model_copy(update={"fusion": "none"})
        weights = load_file(run / "best" / "model.safetensors")
        save_file(weights, tmp_path / "other.safetensors", network_metadata(other, len(info.classes)))
        with pytest.raises(BadInput, match=r"(?s)another network.*model\.fusion is 'none', not 'bilateral'"):
            open_run(run, CPU, Choice(str(tmp_path / "other.safetensors")))
        with pytest.raises(BadInput, match="No such file"):
            open_run(run, CPU, Choice(str(tmp_path / "nowhere.safetensors")))

    def test_whether_all_steps_are_done(self, run: Path) -> None:
        config, _ = read_run(run)
        steps = {2: True, 3: False}
        for count, finished in steps.items():
            train = config.train.model_copy(update={"steps": count})
            for which in ("best", "last", "file.safetensors"):
                assert choose_weights(run, config.model_copy(update={"train": train}), which).finished is finished

    def test_without_any(self, run: Path) -> None:
        shutil.rmtree(run / "best")
        assert open_run(run, CPU).weights.which == "last"
        shutil.rmtree(run / "checkpoints")
        with pytest.raises(BadInput, match="no checkpoint yet"):
            open_run(run, CPU)


class TestKept:
    def found(self, run: Path, which: str = "best") -> Result | None:
        opened = open_run(run, CPU, Choice(which))
        return find_result(opened.weights, opened.data.dataset("test"), "right", "published")

    def test_found_again_also_where_the_run_was_moved(self, run: Path, tmp_path: Path) -> None:
        result = evaluate_run(run, device="cpu")["published"]
        assert self.found(run) == result
        assert self.found(run, "last") is None
        assert "run" not in json.loads((run / "results" / "test-right-published-best.json").read_text())
        moved = run.rename(tmp_path / "elsewhere")
        assert self.found(moved) == result.model_copy(update={"run": str(moved)})

    @pytest.mark.parametrize(
        "change",
        [{"step": 1234}, {"split": "val"}, {"sound": "noise"}, {"clips_fingerprint": "0"}, {"proposals": "other"},
         {"proposals_fingerprint": "0"}, {"audio": "other"}, {"audio_fingerprint": "0"}, {"weights": "last"},
         {"weights_sha256": "0"}],
        ids=lambda change: next(iter(change)),
    )  # fmt: skip
    def test_not_taken_when_it_is_of_something_else(self, run: Path, change: dict) -> None:
        evaluate_run(run, device="cpu")
        path = run / "results" / "test-right-published-best.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        assert self.found(run) is None

    def test_not_taken_for_other_weights_of_the_same_step(self, run: Path) -> None:
        evaluate_run(run, device="cpu")
        path = run / "best" / "model.safetensors"
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        turned = {k: -v if k.startswith("decoder.class_embed") else v for k, v in load_file(path).items()}
        save_file(turned, path, metadata)
        assert self.found(run) is None

    def test_a_run_that_trained_on_to_the_end_is_finished(self, run: Path) -> None:
        before = evaluate_run(run, device="cpu")["published"]
        config = run / "config.yaml"
        config.write_text(config.read_text().replace("  steps: 3\n", "  steps: 2\n"))
        assert (before.steps, before.finished) == (3, False)
        assert self.found(run) == before.model_copy(update={"steps": 2, "finished": True})

    def test_a_folder_that_cannot_be_read_is_named(self, run: Path) -> None:
        (run / "results" / "test-right-published-best.json").mkdir(parents=True)
        with pytest.raises(BadInput, match=r"test-right-published-best\.json cannot be read \(Is a directory\)"):
            self.found(run)

    @pytest.mark.parametrize(
        "damage", [lambda text: text[:-9], lambda text: "[]", lambda text: text.replace('"M_J"', '"MJ"')]
    )
    def test_damage_is_named(self, run: Path, damage: Callable[[str], str]) -> None:
        evaluate_run(run, device="cpu")
        path = run / "results" / "test-right-published-best.json"
        path.write_text(damage(path.read_text()))
        with pytest.raises(BadInput, match=rf"{path.name} is damaged .*evaluate again"):
            self.found(run)
        evaluate_run(run, device="cpu")  # writes it anew
        assert self.found(run) is not None

    def test_every_protocol_has_its_own(self, run: Path) -> None:
        evaluate_run(run, device="cpu", protocols=["published", "hard"])
        assert kept(run, "test-right-hard-best").protocol.startswith("hard: ")
        assert kept(run, "test-right-published-best").protocol.startswith("published: ")

    def test_a_run_that_cannot_be_written_is_scored_all_the_same(self, run: Path) -> None:
        (run / "results").write_text("not a folder")
        with pytest.warns(UserWarning, match="the result could not be kept"):
            assert evaluate_run(run, device="cpu")["published"].M_J >= 0


class TestOlderFiles:
    def test_shares_of_one_become_percent(self) -> None:
        old = {"step": 3, "M_J": 0.25, "M_F": 0.5, "frames": 7}
        assert in_percent(old) == {"step": 3, "M_J": 25.0, "M_F": 50.0, "frames": 7, "unit": "percent"}
        assert in_percent(in_percent(old)) == in_percent(old)
        assert in_percent({"step": 3}) == {"step": 3}

    def test_a_log_and_best_weights(self, run: Path) -> None:
        entry = {"step": 9, "M_J": 0.25, "M_F": 0.5}
        with (run / "log.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")
        assert read_run_log(run)[-1]["M_J"] == 25.0
        config, info = read_run(run)
        metadata = network_metadata(config.model, len(info.classes), entry)
        save_file(load_file(run / "best" / "model.safetensors"), run / "best" / "model.safetensors", metadata)
        best = read_best(run)
        assert best is not None
        assert (best["M_J"], best["M_F"]) == (25.0, 50.0)


def test_bad_names(run: Path, capsys: pytest.CaptureFixture) -> None:
    assert combo(app, ["evaluate", str(run), "--protocol", "../../x"]) == BAD_INPUT
    assert combo(app, ["evaluate", str(run), "--split", "../x"]) == BAD_INPUT
    assert not list(run.glob("**/x*.json"))


def test_how_weights_are_named() -> None:
    run = Path("runs/a")
    assert str(Weights(run, "best", run, 7, 9, False)) == "best of runs/a, step 7"
    assert str(Weights(run, "last", run, 7, 9, False)) == "runs/a at step 7"

"""What a run folder survives and refuses: damage, other data, two trainings at once, losses that are not finite."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from processes import exit_codes, start_training
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from combo_avs.data.dataset import ClipDataset, train_batch
from combo_avs.data.store.checksummed_json import digest
from combo_avs.data.store.root import open_cache
from combo_avs.data.store.store import ClipStore
from combo_avs.errors import BadInput, ComboError, Interrupted
from combo_avs.model.combo import COMBO
from combo_avs.pipeline.config.precompute import PrecomputeConfig
from combo_avs.pipeline.config.tree import Config, load_config, presets
from combo_avs.pipeline.evaluate import scores as scores_module
from combo_avs.pipeline.precompute.driver import plan_caches, run_plans
from combo_avs.pipeline.runs.checkpoints import (
    Checkpoint,
    checkpoints,
    newest_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from combo_avs.pipeline.runs.data import DataNames
from combo_avs.pipeline.runs.folder import (
    append_run_log,
    lock_run,
    read_best,
    read_run,
    read_run_log,
    rewrite_metrics,
)
from combo_avs.pipeline.runs.open import choose_weights, load_network
from combo_avs.pipeline.train import loop as train_module
from combo_avs.pipeline.train.loop import train
from combo_avs.pipeline.train.optim import WeightAverage
from combo_avs.pipeline.train.replay import replay
from combo_avs.pipeline.train.step import make_trainer, train_step

CACHES = ("felzenszwalb", "logmel")


def with_settings(config: Config, **train_settings) -> Config:
    return config.model_copy(update={"train": config.train.model_copy(update=train_settings)})


@pytest.fixture(scope="module")
def trained(prepared: Path, config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps, with an average of the weights. Do not write here."""
    run = tmp_path_factory.mktemp("runs") / "run"
    train(DataNames(prepared, *CACHES), with_settings(config, ema_decay=0.9, device="cpu"), run)
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_a_checkpoint_says_what_it_is(trained: Path) -> None:
    about = read_checkpoint(checkpoints(trained)[-1]).about
    assert about["step"] == 2
    assert about["config"]["train"]["ema_decay"] == 0.9
    assert about["run"]["proposals"].startswith("felzenszwalb-")
    assert len(about["run"]["clips_fingerprint"]) == 64
    assert about["version"]
    assert set(about["files"]) == {"model.safetensors", "ema.safetensors", "state.pt"}


@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors", "state.pt", "manifest.json"])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_any_damage_is_found_and_passed_over(run: Path, name: str, harm: str) -> None:
    newest, file = checkpoints(run)[-1], checkpoints(run)[-1] / name
    content = bytearray(file.read_bytes())
    if harm == "flip":
        content[len(content) // 2] ^= 1
    file.write_bytes(content[:-20] if harm == "cut" else content)
    if harm == "remove":
        file.unlink()
    with pytest.warns(UserWarning, match=f"{newest.name}: passed over, .*"):
        assert newest_checkpoint(run) == checkpoints(run)[0]


def test_a_manifest_leads_nowhere_else(run: Path) -> None:
    path = checkpoints(run)[-1]
    body = json.loads((path / "manifest.json").read_text())
    del body["sha256"]
    body["files"]["../../run.json"] = [1, "0"]
    (path / "manifest.json").write_text(json.dumps({"sha256": digest(body), **body}))
    with pytest.raises(ValueError, match=r"run\.json is missing"):
        read_checkpoint(path)


def test_leftovers_of_killed_saves_are_removed(run: Path) -> None:
    (run / "checkpoints" / ".step-00000003.tmp").mkdir()
    (run / "checkpoints" / ".step-00000003.tmp" / "model.safetensors").write_bytes(b"half")
    (run / "best" / ".model.safetensors.123.tmp").write_bytes(b"half")
    with lock_run(run):
        assert not list(run.rglob("*.tmp"))


def test_a_folder_in_use_is_refused(prepared: Path, config: Config, run: Path) -> None:
    with lock_run(run), pytest.raises(BadInput, match=r"in use: process \d+ on .* trains in it"):
        train(DataNames(prepared, *CACHES), config, run, resume=True)
    with lock_run(run):  # free again
        pass


def test_a_live_process_holds_its_folder_and_a_dead_one_does_not(
    prepared: Path, config: Config, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    endless = with_settings(config, steps=100_000, evaluate_every=100_000, device="cpu")
    process = start_training(DataNames(prepared, *CACHES), endless, out)
    try:
        while not checkpoints(out):
            assert process.is_alive()
        with pytest.raises(BadInput, match=f"process {process.pid} on"), lock_run(out):
            pass
    finally:
        process.kill()
        exit_codes([process])
    with lock_run(out):
        pass


def test_a_file_is_no_run_folder(prepared: Path, config: Config, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(BadInput, match="is a file"):
        train(DataNames(prepared, *CACHES), config, tmp_path / "run")


class TestOtherData:
    def test_another_cache_is_refused_unless_allowed(self, root: Path, run: Path) -> None:
        run_plans(plan_caches(root, PrecomputeConfig(), "none", None), workers=0, scheduler=None)
        longer = with_settings(read_run(run)[0], steps=3)
        with pytest.raises(BadInput, match=r"proposals was 'felzenszwalb-.*', is 'none-(.|\n)*allow proposals by name"):
            train(DataNames(root, "none", "logmel"), longer, run, resume=True)
        with pytest.raises(BadInput, match="proposals was"):
            train(DataNames(root, "none", "logmel"), longer, run, resume=True, allow=["audio", "clips"])
        train(DataNames(root, "none", "logmel"), longer, run, resume=True, allow=["proposals"])
        assert read_checkpoint(checkpoints(run)[-1]).about["run"]["proposals"].startswith("none-")

    def test_a_checkpoint_of_another_run_is_refused(self, prepared: Path, run: Path) -> None:
        newest = checkpoints(run)[-1]
        foreign = read_checkpoint(newest)
        about = {**foreign.about, "run": {**foreign.about["run"], "audio": "vggish-0"}}
        write_checkpoint(newest, Checkpoint(foreign.tensors, foreign.state, about))
        with pytest.raises(BadInput, match=r"step-00000002 was trained on other data(.|\n)*audio was 'vggish-0'"):
            train(DataNames(prepared, *CACHES), read_run(run)[0], run, resume=True)


def test_a_kill_between_best_weights_and_metrics_is_mended(run: Path) -> None:
    metrics = read_best(run)
    (run / "best" / "metrics.json").write_text("{}")
    rewrite_metrics(run)
    assert json.loads((run / "best" / "metrics.json").read_text()) == metrics
    (run / "best" / "model.safetensors").write_bytes(b"x")
    with pytest.raises(BadInput, match="is damaged"):
        read_best(run)


def test_a_kill_before_the_scores_is_made_up_for(prepared: Path, run: Path) -> None:
    before = read_run_log(run)
    lines = (run / "log.jsonl").read_text().splitlines(keepends=True)
    assert "M_J" in lines[-1]
    (run / "log.jsonl").write_text("".join(lines[:-1]))
    shutil.rmtree(run / "best")
    scores = train(DataNames(prepared, *CACHES), read_run(run)[0], run, resume=True).scores
    assert read_run_log(run) == before
    assert read_best(run)["M_J"] == scores.M_J


def test_a_cut_line_of_the_log_does_not_spoil_the_next(tmp_path: Path) -> None:
    append_run_log(tmp_path, [{"step": 0, "total": 1.0}])
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 1, "tot')
    append_run_log(tmp_path, [{"step": 1, "total": 2.0}])
    assert [e["total"] for e in read_run_log(tmp_path)] == [1.0, 2.0]


def test_a_signal_during_scoring_stops_and_scores_later(
    prepared: Path, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment = scores_module.segment

    def signalled(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return segment(*arguments)

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(scores_module, "segment", signalled)
        with pytest.raises(Interrupted, match="after step 2"):
            train(DataNames(prepared, *CACHES), config, out)
    assert not any("M_J" in e for e in read_run_log(out))
    assert train(DataNames(prepared, *CACHES), config, out, resume=True).scores is not None
    assert [e["step"] for e in read_run_log(out) if "M_J" in e] == [2]


class TestNotFinite:
    @pytest.fixture
    def broken(self, prepared: Path, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A run whose audio features were infinite at step 4."""
        make = train_module.train_batch

        def poisoned(*arguments, **options):
            batch = make(*arguments, **options)
            if arguments[-1] == 4:
                batch.features[0] = np.inf
            return batch

        monkeypatch.setattr(train_module, "train_batch", poisoned)
        config = with_settings(config, steps=30, evaluate_every=30, checkpoint_every=30, device="cpu")
        with pytest.raises(ComboError, match=r"broke at step 4 \(.*synth-ms3-.*combo replay .*step-00000004"):
            train(DataNames(prepared, *CACHES), config, tmp_path / "run")
        return tmp_path / "run"

    def test_the_dump_breaks_again_and_holds_the_state_before_the_step(self, broken: Path) -> None:
        dump = broken / "broken" / "step-00000004"
        assert all(tensor.isfinite().all() for tensor in load_file(dump / "model.safetensors").values())
        with pytest.raises(ComboError, match=r"step 4 broke again: .*hold NaN or infinity"):
            replay(dump, "cpu")

    def test_a_loss_is_looked_at_before_anything_is_kept(
        self, prepared: Path, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def breaking(trainer, batch, step):
            entry = train_step(trainer, batch, step)
            return (
                {**entry, "loss_ce": entry["loss_ce"] * torch.nan, "total": entry["total"] * torch.nan}
                if step == 4
                else entry
            )

        monkeypatch.setattr(train_module, "train_step", breaking)
        config = with_settings(config, steps=30, evaluate_every=30, checkpoint_every=6, device="cpu")
        with pytest.raises(ComboError, match=r"broke at step 4 \(not finite: (loss_ce, total|total, loss_ce)\)"):
            train(DataNames(prepared, *CACHES), config, tmp_path / "run")
        assert checkpoints(tmp_path / "run") == []
        assert read_run_log(tmp_path / "run")[-1]["step"] == 4
        assert replay(tmp_path / "run" / "broken" / "step-00000004", "cpu")["total"] > 0

    def test_nothing_is_learned_from_the_broken_step_on(self, prepared: Path, config: Config) -> None:
        clips = ClipStore(prepared)
        caches = (open_cache(clips, kind, name) for kind, name in zip(("proposals", "audio"), CACHES, strict=True))
        dataset = ClipDataset(clips, *caches, "train")
        trainer = make_trainer(with_settings(config, steps=9, device="cpu"), 2, 128)
        batches = [train_batch(dataset, 2, config.augment, 0, step) for step in range(3)]
        train_step(trainer, batches[0], 0)
        before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
        moments = [v.clone() for s in trainer.optimizer.state.values() for v in s.values()]
        trainer.health = torch.tensor(torch.nan)  # as after a loss that was not finite
        for step in (1, 2):
            train_step(trainer, batches[step], step)
        assert all(torch.equal(v, before[k]) for k, v in trainer.model.state_dict().items())
        now = [v for s in trainer.optimizer.state.values() for v in s.values()]
        assert all(torch.equal(a, b) for a, b in zip(moments, now, strict=True))

    def test_only_a_dump_replays(self, trained: Path, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match="is a checkpoint"):
            replay(checkpoints(trained)[-1])
        with pytest.raises(BadInput, match="not the dump of a step"):
            replay(tmp_path)


def test_a_replay_of_a_healthy_step_gives_its_losses_bit_by_bit(
    prepared: Path, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same loss as in the run, down to the last bit: dumped before step 2 of a run, replayed afterwards."""
    step = train_module.train_step
    dumps = tmp_path / "dump"

    def dumping(trainer, batch, number):
        if number == 2:
            about = {"step": 2, "config": trainer.config.model_dump(mode="json"), "run": info}
            train_module.dump_step(dumps, trainer, batch, about)
        return step(trainer, batch, number)

    out = tmp_path / "run"
    config = with_settings(config, steps=3, evaluate_every=3, checkpoint_every=3, device="cpu")
    train(DataNames(prepared, *CACHES), with_settings(config, steps=1), out)
    info = json.loads((out / "run.json").read_text())
    monkeypatch.setattr(train_module, "train_step", dumping)
    train(DataNames(prepared, *CACHES), config, tmp_path / "again")
    logged = next(e for e in read_run_log(tmp_path / "again") if e["step"] == 2 and "total" in e)
    replayed = replay(dumps, "cpu")
    assert replayed["total"] == logged["total"]
    assert replayed == {k: logged[k] for k in replayed}


class TestAverage:
    def test_it_follows_the_weights(self, config: Config) -> None:
        torch.manual_seed(0)
        model = COMBO(config.model, 2)
        average = WeightAverage(model, decay=0.75)
        ema = average.model
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 1
        before = {k: v.clone() for k, v in ema.named_parameters()}
        average.update(model, step=1000)
        assert all(torch.allclose(v, before[k] + 0.25, atol=1e-5) for k, v in ema.named_parameters())
        assert not any(p.requires_grad for p in ema.parameters())
        average.update(model, step=0)  # soon forgets where it began: weight 0.9
        assert all(torch.allclose(v, before[k] + 0.925, atol=1e-5) for k, v in ema.named_parameters())

    def test_it_is_what_is_scored_and_kept(self, trained: Path, config: Config) -> None:
        newest = checkpoints(trained)[-1]
        ema, model = load_file(newest / "ema.safetensors"), load_file(newest / "model.safetensors")
        best = load_file(trained / "best" / "model.safetensors")
        assert all(torch.equal(best[k], ema[k]) for k in ema)
        assert not all(torch.equal(best[k], model[k]) for k in model)

    def test_a_run_without_scores_yields_it(self, run: Path, config: Config) -> None:
        shutil.rmtree(run / "best")
        weights = choose_weights(run, config)
        model = load_network(weights, config, 2, torch.device("cpu"))
        assert str(weights).endswith("at step 2")
        ema = load_file(checkpoints(run)[-1] / "ema.safetensors")
        assert all(torch.equal(value, ema[k]) for k, value in model.state_dict().items())


class TestSeeing:
    def test_the_log_of_a_step(self, trained: Path) -> None:
        entry = next(e for e in read_run_log(trained) if "total" in e)
        assert {"lr", "lr_backbone", "grad_norm", "clips_per_second", "data_wait", "memory_gb"} <= entry.keys()
        assert sum(v for k, v in entry.items() if k.startswith("loss_")) == pytest.approx(entry["total"], rel=1e-5)

    def test_tensorboard_shows_what_the_log_says(self, trained: Path) -> None:
        board = EventAccumulator(str(trained / "tensorboard"))
        board.Reload()
        shown = [scalar.value for scalar in board.Scalars("loss/total")]
        assert shown == pytest.approx([e["total"] for e in read_run_log(trained) if "total" in e])
        assert {"loss/ce", "loss/dice_0", "loss/cosine_0", "train/lr", "val/M_J", "val/M_F"} <= set(
            board.Tags()["scalars"]
        )
        assert board.Tags()["images"] == ["val"]

    def test_pictures_of_val(self, trained: Path, prepared: Path) -> None:
        height, width = ClipStore(prepared).size
        picture = Image.open(trained / "pictures" / "step-00000002.png")
        assert picture.width == 5 * width
        assert picture.height % (2 * height) == 0


class TestRefusedBeforeTheFirstStep:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"subset": "avss"}, r"train\.subset = avss, but .* holds synthetic-ms3 with 2 classes"),
            ({"clips_per_batch": 100}, r"train\.clips_per_batch = 100, but split 'train' has \d+ usable clips"),
        ],
    )
    def test_what_does_not_fit(
        self, prepared: Path, config: Config, tmp_path: Path, settings: dict, message: str
    ) -> None:
        with pytest.raises(BadInput, match=message):
            train(DataNames(prepared, *CACHES), with_settings(config, **settings), tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_every_preset_of_a_subset_says_so(self) -> None:
        named = {p: load_config(p, []).train.subset for p in presets()}
        assert all(subset == preset.split("-")[0] for preset, subset in named.items() if "-" in preset)
        assert named["tiny"] is None

    @pytest.mark.parametrize(
        ("override", "meant"),
        [
            ("train.checkpoint_evry=5", "train.checkpoint_every"),
            ("lr=1", "train.lr"),
            ("model.num_points=5", "loss.num_points"),
            ("trian.lr=1", "train"),
            ("precompute.slurm.quue=gpu", "precompute.slurm.queue"),
        ],
    )
    def test_the_nearest_key_is_offered(self, override: str, meant: str) -> None:
        with pytest.raises(BadInput, match=rf"no such key;.*did you mean {meant}\?"):
            load_config("tiny", [override])

    def test_the_nearest_preset_is_offered(self) -> None:
        with pytest.raises(BadInput, match=r"did you mean ms3-r50\?"):
            load_config("ms3-r5", [])

"""Stage two: it reads caches only, learns, resumes exactly, stops in order, and refuses what cannot work."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from combo_avs.data.dataset import ClipDataset, batch_indices, prefetch, train_batch
from combo_avs.data.store.attributes import Provenance
from combo_avs.data.store.root import create_proposals, open_cache
from combo_avs.data.store.store import ClipStore
from combo_avs.errors import BadInput, ComboError
from combo_avs.pipeline.config.tree import Config, load_config
from combo_avs.pipeline.evaluate.run import evaluate_run
from combo_avs.pipeline.evaluate.sounds import swap_partners
from combo_avs.pipeline.runs.checkpoints import checkpoints
from combo_avs.pipeline.runs.data import DataNames
from combo_avs.pipeline.runs.folder import read_run, read_run_log
from combo_avs.pipeline.train import loop as train_module
from combo_avs.pipeline.train.loop import train
from combo_avs.pipeline.train.optim import parameter_groups, set_learning_rate
from combo_avs.pipeline.train.step import make_trainer, train_step

CACHES = ("felzenszwalb", "logmel")


def with_settings(config: Config, **train_settings) -> Config:
    return config.model_copy(update={"train": config.train.model_copy(update=train_settings)})


def weights(run: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(checkpoints(run)[-1] / "model.safetensors")


class TestOrder:
    def test_pure_function_of_seed_and_step(self) -> None:
        stream = [i for step in range(30) for i in batch_indices(7, 3, seed=1, step=step)]
        assert stream == [i for step in range(45) for i in batch_indices(7, 2, seed=1, step=step)]
        assert stream != [i for step in range(30) for i in batch_indices(7, 3, seed=2, step=step)]

    def test_every_epoch_has_every_clip_once(self) -> None:
        stream = [i for step in range(14) for i in batch_indices(7, 5, seed=0, step=step)]
        epochs = [stream[k : k + 7] for k in range(0, 70, 7)]
        assert all(sorted(e) == list(range(7)) for e in epochs)
        assert len({tuple(e) for e in epochs}) > 1

    def test_a_batch_may_be_larger_than_the_set(self) -> None:
        assert sorted(batch_indices(2, 4, seed=0, step=0)) == [0, 0, 1, 1]


class TestPrefetch:
    def test_gives_everything_in_order(self) -> None:
        assert list(prefetch(lambda s: s * s, range(3, 9))) == [s * s for s in range(3, 9)]

    def test_raises_where_it_happened(self) -> None:
        def make(step: int) -> int:
            if step == 2:
                raise ComboError("shard 7 is damaged")
            return step

        items = prefetch(make, range(5))
        assert [next(items), next(items)] == [0, 1]
        with pytest.raises(ComboError, match="shard 7"):
            next(items)

    def test_closing_stops_the_thread(self) -> None:
        made: list[int] = []
        items = prefetch(lambda s: made.append(s) or s, range(1_000_000))
        next(items)
        items.close()
        assert not [t.name for t in threading.enumerate() if t.name.startswith("prefetch")]
        assert len(made) <= 3  # two ahead of the one that was asked for


class TestTraining:
    def test_writes_a_run_that_can_be_evaluated(self, prepared: Path, config: Config, tmp_path: Path) -> None:
        scores = train(DataNames(prepared, *CACHES), config, tmp_path / "run").scores
        assert 0 <= scores.M_J <= 100
        saved, info = read_run(tmp_path / "run")
        assert saved == config
        assert info.classes == ("background", "sounding")
        losses = [e for e in read_run_log(tmp_path / "run") if "total" in e]
        assert [e["step"] for e in losses] == [0, 1]
        assert {"loss_ce", "loss_mask_0", "loss_dice", "loss_cosine_0", "lr", "grad_norm"} <= losses[0].keys()
        for sound in ("right", "swapped", "silent", "noise"):
            assert 0 <= evaluate_run(tmp_path / "run", "test", sound)["published"].M_J <= 100

    def test_the_loss_falls_on_one_batch(self, prepared: Path, config: Config) -> None:
        clips = ClipStore(prepared)
        dataset = ClipDataset(
            clips, open_cache(clips, "proposals", CACHES[0]), open_cache(clips, "audio", CACHES[1]), "train"
        )
        trainer = make_trainer(with_settings(config, steps=40), 2, 128)
        batch = train_batch(dataset, 2, config.augment, seed=0, step=0)
        totals = [float(train_step(trainer, batch, step)["total"]) for step in range(30)]
        assert sum(totals[-5:]) < 0.8 * sum(totals[:5])

    def test_no_generator_and_no_encoder_is_imported(self, prepared: Path, tmp_path: Path) -> None:
        code = (
            "import sys; from pathlib import Path; from combo_avs.pipeline.config.tree import load_config;"
            "from combo_avs.pipeline.train.loop import train; from combo_avs.pipeline.runs.data import DataNames;"
            f"train(DataNames({str(prepared)!r}, 'felzenszwalb', 'logmel'),"
            f"load_config('tiny', ['train.steps=1', 'train.clips_per_batch=1']), Path({str(tmp_path / 'run')!r}));"
            "frozen = [m for m in sys.modules if m.startswith(('combo_avs.model.foundation', 'combo_avs.model.audio',"
            "'combo_avs.pipeline.precompute.driver', 'combo_avs.pipeline.precompute.worker', 'skimage', 'dask'))];"
            "assert not frozen, frozen"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


class TestResume:
    def test_bit_equal_to_an_uninterrupted_run(self, prepared: Path, config: Config, tmp_path: Path) -> None:
        whole = with_settings(config, steps=4)
        train(DataNames(prepared, *CACHES), whole, tmp_path / "whole")

        def stops(trainer, batch, step, original=train_step):
            if step == 2:
                raise KeyboardInterrupt
            return original(trainer, batch, step)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(train_module, "train_step", stops)
            with pytest.raises(KeyboardInterrupt):
                train(DataNames(prepared, *CACHES), whole, tmp_path / "cut")
        assert [p.name for p in checkpoints(tmp_path / "cut")] == ["step-00000001", "step-00000002"]
        train(DataNames(prepared, *CACHES), whole, tmp_path / "cut", resume=True)
        a, b = weights(tmp_path / "whole"), weights(tmp_path / "cut")
        assert all(torch.equal(a[k], b[k]) for k in a)
        totals = [[e["total"] for e in read_run_log(tmp_path / n) if "total" in e] for n in ("whole", "cut")]
        assert totals[0] == totals[1]

    def test_sigterm_checkpoints_and_says_so(self, prepared: Path, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "combo_avs", "train", str(prepared), "--preset", "tiny"]
        command += ["--proposals", "felzenszwalb", "--audio", "logmel", "--out", str(tmp_path / "run")]
        process = subprocess.Popen(
            [*command, "--steps", "100000", "--set", "train.checkpoint_every=1"], stderr=subprocess.PIPE, text=True
        )
        try:
            while not checkpoints(tmp_path / "run") and process.poll() is None:
                time.sleep(0.2)
            process.send_signal(signal.SIGTERM)
            error = process.communicate()[1]
        finally:
            process.kill()
        assert process.returncode == 4, error
        assert "--resume auto" in error
        assert checkpoints(tmp_path / "run")

    def test_a_damaged_checkpoint_is_passed_over(self, prepared: Path, config: Config, tmp_path: Path) -> None:
        run = tmp_path / "run"
        train(DataNames(prepared, *CACHES), config, run)
        state = checkpoints(run)[-1] / "state.pt"
        state.write_bytes(state.read_bytes()[:-100])
        with pytest.warns(UserWarning, match="step-00000002.*passed over"):
            train(DataNames(prepared, *CACHES), with_settings(config, steps=3), run, resume=True)
        assert checkpoints(run)[-1].name == "step-00000003"

    def test_a_finished_run_is_only_evaluated_again(self, prepared: Path, config: Config, tmp_path: Path) -> None:
        run = tmp_path / "run"
        train(DataNames(prepared, *CACHES), config, run)
        before = checkpoints(run)[-1].stat().st_mtime_ns
        train(DataNames(prepared, *CACHES), config, run, resume=True)
        assert checkpoints(run)[-1].stat().st_mtime_ns == before

    def test_without_resume_a_run_is_not_overwritten(self, prepared: Path, config: Config, tmp_path: Path) -> None:
        train(DataNames(prepared, *CACHES), config, tmp_path / "run")
        with pytest.raises(BadInput, match="--resume auto"):
            train(DataNames(prepared, *CACHES), config, tmp_path / "run")

    def test_other_settings_are_refused_by_name(self, prepared: Path, config: Config, tmp_path: Path) -> None:
        train(DataNames(prepared, *CACHES), config, tmp_path / "run")
        with pytest.raises(BadInput, match=r"train\.lr"):
            train(DataNames(prepared, *CACHES), with_settings(config, lr=0.5), tmp_path / "run", resume=True)


class TestStartingWeights:
    def test_from_another_run(self, prepared: Path, config: Config, tmp_path: Path) -> None:
        train(DataNames(prepared, *CACHES), config, tmp_path / "first")
        saved = checkpoints(tmp_path / "first")[-1] / "model.safetensors"
        trainer = make_trainer(with_settings(config, start_from=str(saved)), 2, 128)
        expected = weights(tmp_path / "first")
        assert all(torch.equal(value, expected[key]) for key, value in trainer.model.state_dict().items())

    def test_of_another_network_are_refused(self, prepared: Path, config: Config, tmp_path: Path) -> None:
        train(DataNames(prepared, *CACHES), config, tmp_path / "first")
        saved = checkpoints(tmp_path / "first")[-1] / "model.safetensors"
        with pytest.raises(BadInput, match="class_embed"):
            make_trainer(with_settings(config, start_from=str(saved)), 71, 128)

    def test_random_backbones_of_the_paper_are_pointed_out(self, config: Config) -> None:
        big = config.model_copy(update={"model": config.model.model_copy(update={"backbone": "r50"})})
        with pytest.warns(UserWarning, match=r"train\.backbone_weights"):
            make_trainer(big, 2, 128)


class TestRecipe:
    def test_poly_schedule(self, config: Config) -> None:
        settings = config.train.model_copy(update={"steps": 100, "lr": 0.01})
        model = torch.nn.Linear(2, 2)
        optimizer = torch.optim.AdamW(parameter_groups(model, settings))
        assert set_learning_rate(optimizer, settings, 0) == 0.01
        assert set_learning_rate(optimizer, settings, 50) == pytest.approx(0.01 * 0.5**0.9)

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_precisions(self, prepared: Path, config: Config, tmp_path: Path, precision: str) -> None:
        train(DataNames(prepared, *CACHES), with_settings(config, precision=precision, steps=1), tmp_path / "run")


class TestBadInput:
    def test_no_such_cache(self, prepared: Path, config: Config, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match=r"combo precompute .* --proposals sam-vit-h"):
            train(DataNames(prepared, "sam-vit-h", "logmel"), config, tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_a_cache_that_does_not_cover_the_split(self, root: Path, config: Config, tmp_path: Path) -> None:
        create_proposals(ClipStore(root), Provenance("half", "1", {}))
        with pytest.raises(BadInput, match="does not cover split 'train'"):
            train(DataNames(root, "half", "logmel"), config, tmp_path / "run")

    def test_features_of_another_width(self, prepared: Path, config: Config, tmp_path: Path) -> None:
        other = config.model_copy(update={"model": config.model.model_copy(update={"audio_dim": 64})})
        with pytest.raises(BadInput, match=r"--set model\.audio_dim=128"):
            train(DataNames(prepared, *CACHES), other, tmp_path / "run")

    def test_a_device_that_is_not_there(self, prepared: Path, config: Config, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match="cuda:77"):
            train(DataNames(prepared, *CACHES), with_settings(config, device="cuda:77"), tmp_path / "run")

    def test_a_loss_that_is_not_finite_stops_the_run(self, prepared: Path, config: Config, tmp_path: Path) -> None:
        wild = with_settings(config, lr=1e30, clip_norm=1e30, steps=30)
        with pytest.raises(ComboError, match=r"step \d+.*synth-ms3-"):
            train(DataNames(prepared, *CACHES), wild, tmp_path / "run")

    def test_clips_that_changed_since_training(self, root: Path, config: Config, tmp_path: Path) -> None:
        train(DataNames(root, *CACHES), config, tmp_path / "run")
        (root / "clips.zarr" / "_done" / "000000.json").unlink()
        with pytest.raises(BadInput, match="combo import"):
            evaluate_run(tmp_path / "run")

    def test_not_a_run(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match="combo train"):
            evaluate_run(tmp_path)


class TestSwap:
    def test_partners_are_others_with_other_objects(self, prepared: Path) -> None:
        clips = list(ClipStore(prepared).table)
        partners = swap_partners(clips)
        for clip, partner in zip(clips, partners, strict=True):
            assert clips[partner].id != clip.id
            assert clips[partner].num_frames == clip.num_frames

    def test_one_clip_cannot_be_swapped(self, prepared: Path) -> None:
        with pytest.raises(BadInput, match="no other clip"):
            swap_partners([ClipStore(prepared).table[0]])


class TestConfig:
    def test_every_preset_is_valid(self) -> None:
        from combo_avs.pipeline.config.tree import presets

        assert {load_config(p, []).model.backbone for p in presets()} == {"tiny", "r50", "pvt-v2-b5"}

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("train.lrr=1", r"train\.lrr: no such key; train has steps.*lr"),
            ("trian.lr=1", r"trian: no such key; the config has model, loss"),
            ("train.lr=-1", r"train\.lr = -1: .*greater than 0"),
            ("model.backbone=vgg", r"model\.backbone = 'vgg'"),
            ("train.lr", r"section\.key=value"),
            ("train.lr.x=1", r"lr is a value|valid"),
            ("train.lr=[", "not valid YAML"),
        ],
    )
    def test_mistakes_are_named(self, override: str, message: str) -> None:
        with pytest.raises(BadInput, match=message):
            load_config("tiny", [override])

    def test_unknown_preset(self) -> None:
        with pytest.raises(BadInput, match="tiny"):
            load_config("huge", [])

    def test_values_are_typed(self) -> None:
        config = load_config(None, ["augment.scale=[0.5, 1]", "train.lr=3e-4", "augment.colour=false"])
        assert config.augment.scale == (0.5, 1.0)
        assert config.train.lr == 3e-4
        assert config.augment.colour is False


def test_json_of_a_run_is_plain(prepared: Path, config: Config, tmp_path: Path) -> None:
    train(DataNames(prepared, *CACHES), config, tmp_path / "run")
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert info["proposals"].startswith("felzenszwalb-")
    assert not os.path.isabs(info["root"])
    assert os.path.isabs(info["absolute_root"])

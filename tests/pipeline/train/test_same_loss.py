"""What is said to change no loss does not, whatever the network, the losses and the augmentation."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.layers.drop import DropPath
from tiny_network import TINY

from combo_avs.data.dataset import Batch, ClipDataset, prefetch, train_batch
from combo_avs.data.store.root import open_cache
from combo_avs.data.store.store import ClipStore
from combo_avs.errors import BadInput
from combo_avs.model import backbones
from combo_avs.model.across_ranks import rows_of_all_ranks
from combo_avs.model.backbones import PerClipDropPath
from combo_avs.pipeline.compare.grid import Comparison, plan_cells
from combo_avs.pipeline.compare.variants import plan_variants
from combo_avs.pipeline.config.tree import Config, load_config
from combo_avs.pipeline.runs.data import DataNames
from combo_avs.pipeline.runs.folder import MAY_CHANGE
from combo_avs.pipeline.train.loop import train
from combo_avs.pipeline.train.step import Trainer, backward, make_trainer

CLIPS, CACHES = 4, ("felzenszwalb", "logmel")
PUBLISHED = "model.audio_queries=published"
NETWORKS = [
    *([f"model.fusion={fusion}"] for fusion in ("none", "visual", "audio", "bilateral")),
    *([f"model.queries={queries}"] for queries in ("all", "dim", "none")),
    *([f"model.siam={siam}"] for siam in ("none", "shared")),
    ["model.fusion_residual=raw", "model.mask_dim=48"],
    ["augment.shared_colour=true", "loss.consistency_on=all", "loss.consistency_clip=whole"],
    ["train.precision=bf16"],
]
SAVING = {"train.micro_batch_clips=1", "train.micro_batch_clips=3", "train.checkpointing=true"}


def dataset_of(root: Path) -> ClipDataset:
    clips = ClipStore(root)
    proposals, audio = CACHES
    return ClipDataset(clips, open_cache(clips, "proposals", proposals), open_cache(clips, "audio", audio), "train")


def settings(*overrides: str) -> Config:
    return load_config("tiny", [*TINY, f"train.clips_per_batch={CLIPS}", "train.device=cpu", *overrides])


def make(config: Config, batch: Batch) -> Trainer:
    model = config.model.model_copy(update={"audio_dim": batch.features.shape[1]})
    trainer = make_trainer(config.model_copy(update={"model": model}), 2, model.audio_dim)
    with torch.no_grad():  # the layer scale starts at 1e-4, which would hide the fusion and its dropout
        for name, parameter in trainer.model.named_parameters():
            if "gamma" in name:
                parameter.fill_(1.0)
    return trainer


def losses_and_norms(config: Config, batch: Batch) -> tuple[dict[str, float], dict[str, float]]:
    trainer = make(config, batch)
    losses = backward(trainer, batch, 5)
    norms = {n: float(p.grad.norm()) for n, p in trainer.model.named_parameters() if p.grad is not None}
    return {name: value.item() for name, value in losses.items()}, norms


@pytest.fixture(scope="module")
def dataset(prepared: Path) -> ClipDataset:
    return dataset_of(prepared)


def assert_same(config: Config, saving: Config, batch: Batch) -> None:
    (losses, norms), (same_losses, same_norms) = (losses_and_norms(c, batch) for c in (config, saving))
    close = 2e-2 if config.train.precision == "bf16" else 1e-4
    assert same_losses == pytest.approx(losses, rel=close)
    total = float(np.linalg.norm(list(norms.values())))
    assert same_norms == pytest.approx(norms, rel=0.03, abs=max(close, 1e-3) * total)


@pytest.mark.parametrize("saving", sorted(SAVING))
@pytest.mark.parametrize("changes", NETWORKS, ids=" ".join)
def test_what_saves_memory(dataset: ClipDataset, changes: list[str], saving: str) -> None:
    config = settings(*changes)
    batch = train_batch(dataset, CLIPS, config.augment, 0, 3)
    assert_same(config, settings(*changes, saving), batch)


@pytest.mark.parametrize(
    "changes", [["model.fusion=audio"], ["model.queries=dim"], ["model.siam=shared"]], ids=" ".join
)
def test_checkpointing_of_the_published_layout(dataset: ClipDataset, changes: list[str]) -> None:
    config = settings(*changes, PUBLISHED)
    batch = train_batch(dataset, CLIPS, config.augment, 0, 3)
    assert_same(config, settings(*changes, PUBLISHED, "train.checkpointing=true"), batch)


@pytest.mark.parametrize("siam", ["none", "shared", "separate"])
@pytest.mark.parametrize("saving", sorted(SAVING))
def test_stochastic_depth_keeps_to_its_clip(
    dataset: ClipDataset, monkeypatch: pytest.MonkeyPatch, siam: str, saving: str
) -> None:
    def build() -> backbones.Built:
        network: Any = timm.create_model("pvt_v2_b0", pretrained=False, features_only=True, drop_path_rate=0.5)
        for block in list(network.modules()):
            for name, child in block.named_children():
                if isinstance(child, DropPath):
                    setattr(block, name, PerClipDropPath(child.drop_prob))
        return network, network.feature_info.channels()

    monkeypatch.setitem(backbones.BACKBONES, "tiny", build)
    config = settings(f"model.siam={siam}")
    batch = train_batch(dataset, CLIPS, config.augment, 0, 3)
    assert_same(config, settings(f"model.siam={siam}", saving), batch)


@pytest.mark.parametrize("threads", [2, 3])
def test_loader_threads_make_the_same_batches(dataset: ClipDataset, threads: int) -> None:
    config = settings()

    def batch(step: int) -> Batch:
        return train_batch(dataset, CLIPS, config.augment, 0, step)

    for one, same in zip(map(batch, range(4)), prefetch(batch, range(4), threads=threads), strict=True):
        assert one.clip_ids == same.clip_ids
        for name in ("frames", "maskiges", "features", "labels", "supervised"):
            np.testing.assert_array_equal(getattr(one, name), getattr(same, name))


def test_shares_of_several_processes_are_the_batch_of_one(dataset: ClipDataset) -> None:
    augment = settings("augment.shared_colour=true").augment
    whole = train_batch(dataset, CLIPS, augment, 0, 3)
    shares = [train_batch(dataset, CLIPS, augment, 0, 3, share=slice(k, k + 2)) for k in (0, 2)]
    assert sum((share.places for share in shares), ()) == whole.places
    for name in ("frames", "maskiges", "features", "labels", "supervised"):
        np.testing.assert_array_equal(np.concatenate([getattr(s, name) for s in shares]), getattr(whole, name))


class TestMicroBatchesOfThePublishedLayout:
    """A query hears other clips of its batch, so a part of the batch has another loss."""

    @pytest.mark.parametrize("clips", [1, 3])
    def test_the_loss_would_be_another(self, dataset: ClipDataset, clips: int) -> None:
        config = settings(PUBLISHED)
        batch = train_batch(dataset, CLIPS, config.augment, 0, 3)
        parts = config.train.model_copy(update={"micro_batch_clips": clips})
        whole, other = (losses_and_norms(c, batch)[0] for c in (config, config.model_copy(update={"train": parts})))
        assert other["total"] != pytest.approx(whole["total"], rel=1e-4)

    def test_it_is_refused(self) -> None:
        words = (
            r"micro_batch_clips = 3 with model\.audio_queries = published: queries hear all 4 clips.*=null.*per_frame"
        )
        with pytest.raises(BadInput, match=words):
            settings(PUBLISHED, "train.micro_batch_clips=3")

    @pytest.mark.parametrize(
        "changes", [["train.micro_batch_clips=4"], ["model.queries=none", "train.micro_batch_clips=1"]]
    )
    def test_where_it_changes_nothing_it_is_taken(self, dataset: ClipDataset, changes: list[str]) -> None:
        plain = settings(PUBLISHED, *(c for c in changes if c.startswith("model.")))
        batch = train_batch(dataset, CLIPS, plain.augment, 0, 3)
        assert_same(plain, settings(PUBLISHED, *changes), batch)

    def test_training_resuming_and_comparing_refuse_it(self, prepared: Path, tmp_path: Path) -> None:
        names, out = DataNames(prepared, *CACHES), tmp_path / "run"
        audio_dim = dataset_of(prepared)[0].features.shape[1]
        config = settings(PUBLISHED, f"model.audio_dim={audio_dim}", "train.steps=1")
        train(names, config, out)
        files = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        odd = config.model_copy(update={"train": config.train.model_copy(update={"micro_batch_clips": 1, "steps": 2})})
        for folder, resume in ((tmp_path / "new", False), (out, True)):
            with pytest.raises(BadInput, match="micro_batch_clips = 1 with model"):
                train(names, odd, folder, resume=resume)
        assert not (tmp_path / "new").exists()
        assert files == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        variants = plan_variants(["audio_queries=per_frame,published"], *CACHES, one_by_one=False)
        comparison = Comparison(prepared, "tiny", variants, [0], [*TINY, "train.micro_batch_clips=1"])
        with pytest.raises(BadInput, match=r"audio_queries=published: .*\n?.*micro_batch_clips = 1 with model"):
            plan_cells(comparison, tmp_path / "compared")


def test_all_that_may_change_on_resume_is_tested_here() -> None:
    """Steps change the learning rate, as documented; the others come after the loss, or are `SAVING`."""
    elsewhere = {"train.steps", "train.evaluate_every", "train.checkpoint_every", "train.device"}
    assert set(MAY_CHANGE) == elsewhere | {setting.split("=")[0] for setting in SAVING}


def test_alone_rows_of_all_ranks_are_one_s_own() -> None:
    rows = torch.randn(3, 2)
    same, first = rows_of_all_ranks(rows)
    assert same is rows
    assert first == 0

"""Every fast path of a training step against the slow one it stands for: same losses, same gradients."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from published_draws import PublishedDraws, by_clip

import combo_avs
from combo_avs.data.augment import AugmentConfig, augment
from combo_avs.data.dataset import Batch, ClipDataset, train_batch
from combo_avs.data.store.root import open_cache
from combo_avs.data.store.store import ClipStore
from combo_avs.model.combo import COMBO
from combo_avs.model.config import ModelConfig
from combo_avs.model.criterion import CriterionConfig, Supervision, criterion
from combo_avs.model.decoder import Predictions
from combo_avs.model.matcher import assign_any, assign_few, frame_targets
from combo_avs.model.random_numbers import rand_by_clip
from combo_avs.pipeline.config.tree import Config, load_config
from combo_avs.pipeline.train.optim import make_optimizer, parameter_groups, set_learning_rate
from combo_avs.pipeline.train.step import Trainer, backward, clip_seeds, make_trainer, train_step

sys.path.insert(0, str(Path(combo_avs.__file__).parent / "benchmarks"))
from loader import plain_augment
from plain_step import plain_criterion, plain_optimizer, plain_parts

SMALL = {
    "backbone": "tiny",
    "num_queries": 6,
    "width": 32,
    "audio_dim": 12,
    "audio_hidden": 16,
    "heads": 2,
    "encoder_layers": 1,
    "encoder_ffn": 16,
    "decoder_layers": 4,
    "decoder_ffn": 16,
}
LOSS = CriterionConfig(num_points=40)
POINTS = LOSS.num_points


class InOrder(PublishedDraws):
    """Draws for the plain step, which asks in the published order: call i gets array i."""

    def __init__(self) -> None:
        super().__init__("speed", 0, POINTS)
        self.asked = -1

    def __call__(self, shape: tuple[int, ...]) -> torch.Tensor:
        self.asked += 1
        return self._call(self.asked, shape)


def inputs(frames: int, classes: int) -> tuple[torch.Tensor, ...]:
    rng = torch.Generator().manual_seed(3)
    pictures = torch.randint(0, 256, (2, frames, 3, 64, 64), generator=rng, dtype=torch.uint8)
    blocks = torch.randint(classes, (frames, 8, 8), generator=rng, dtype=torch.uint8)
    blocks[0] = 0  # an empty frame: one target
    labels = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)
    return pictures[0], pictures[1], torch.randn(frames, SMALL["audio_dim"], generator=rng), labels


def one_step(model: COMBO, classes: int, plain: set[str]) -> tuple[dict[str, float], list[torch.Tensor]]:
    """Losses and gradients of two clips of five frames, every other frame supervised; without dropout."""
    frames, maskiges, audio, labels = inputs(10, classes)
    supervised = torch.arange(10) % 2 == 0
    with plain_parts(model, plain):
        predictions: Predictions = model(frames, maskiges, audio)
    if "losses" in plain:
        losses = plain_criterion(predictions, labels, supervised, LOSS, InOrder())
    else:
        draws = by_clip(PublishedDraws("speed", int(supervised.sum()), POINTS))
        losses = criterion(*predictions, Supervision(labels, supervised, [5, 5]), LOSS, draws)
    losses["total"].backward()
    return {k: v.item() for k, v in losses.items()}, [p.grad for p in model.parameters() if p.requires_grad]


@pytest.mark.parametrize("mask_dim", [None, 16, 48])
@pytest.mark.parametrize("classes", [2, 4], ids=["enumerated", "Hungarian"])
@pytest.mark.parametrize(
    "plain", [{"fusion"}, {"decoder"}, {"losses"}, {"fusion", "decoder", "losses"}], ids=lambda p: "+".join(sorted(p))
)
def test_step_equals_the_plain_one(plain: set[str], classes: int, mask_dim: int | None) -> None:
    results = []
    for parts in (set(), plain):
        torch.manual_seed(0)
        model = COMBO(ModelConfig(**SMALL, mask_dim=mask_dim), classes)
        assert model.pixel_decoder.mask_features.weight.shape[:2] == (mask_dim or SMALL["width"], SMALL["width"])
        model.fusion.eval()
        results.append(one_step(model, classes, parts))
    (losses, gradients), (slow_losses, slow_gradients) = results
    assert losses == pytest.approx(slow_losses, rel=1e-4)
    for fast, slow in zip(gradients, slow_gradients, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-2, atol=2e-4)


def test_frozen_norm_equals_torchvisions() -> None:
    torch.manual_seed(0)
    model = COMBO(ModelConfig(**SMALL | {"backbone": "r50", "siam": "none"}), 2).siam_encoder.image_backbone
    for name, buffer in model.named_buffers():
        buffer.uniform_(0.5, 1.5) if "running" in name or "weight" in name else buffer.uniform_(-1, 1)
    norm, x = model.get_submodule("layer1")[0].bn1, torch.randn(2, 64, 5, 6)
    plain = super(type(norm), norm).forward(x)
    torch.testing.assert_close(norm(x), plain)
    assert norm(x.bfloat16()).dtype == torch.bfloat16
    torch.testing.assert_close(norm(x.bfloat16()).float(), plain, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("queries", [2, 3, 50])
def test_enumeration_finds_the_optimum(queries: int) -> None:
    """Against the Hungarian algorithm, over many frames, also where both targets want the same query."""
    rng = np.random.default_rng(0)
    labels = torch.zeros(40, 8, 8, dtype=torch.uint8)
    labels[::2, :4] = 1  # two targets
    labels[1::4] = 1  # one, class 1
    labels[2] = 255  # none
    targets = frame_targets(labels, torch.ones(40, dtype=torch.bool), 2)
    costs = rng.normal(size=(3, 40, queries, 2)).astype(np.float32)
    costs[0, ..., 1] = costs[0, ..., 0]  # always the same wish
    few, any_number = assign_few(torch.from_numpy(costs), targets), assign_any(costs, targets)
    assert torch.equal(few[1:], any_number[1:])
    assert few.shape == (3, 3, sum(targets.counts))
    for pairs in (few[0], any_number[0]):  # ties: the choice may differ, the sum may not
        column = (pairs[2] == 1) & torch.tensor([targets.counts[s] == 2 for s in pairs[0]])
        total = costs[0][pairs[0], pairs[1], column.long()].sum()
        assert total == pytest.approx(costs[0][few[0][0], few[0][1], 0].sum(), rel=1e-5)


def test_numbers_of_a_clip_do_not_depend_on_its_neighbours() -> None:
    together, device = rand_by_clip([7, 8, 9], torch.device("cpu")), torch.device("cpu")
    alone = rand_by_clip([8], device)
    for rows, shape in (([2, 3, 1], (4,)), ([0, 5, 2], (3, 2))):
        drawn = together(rows, shape)
        assert drawn.shape == (sum(rows), *shape)
        assert torch.equal(drawn[rows[0] : rows[0] + rows[1]], alone([rows[1]], shape))


@pytest.fixture(scope="module")
def batch(prepared: Path) -> Batch:
    return train_batch(open_dataset(prepared), 4, AugmentConfig(scale=(), colour=False), 0, 0)


def open_dataset(root: Path) -> ClipDataset:
    clips = ClipStore(root)
    caches = (open_cache(clips, kind, name) for kind, name in (("proposals", "felzenszwalb"), ("audio", "logmel")))
    return ClipDataset(clips, *caches, "train")


def trainer_for(batch: Batch, config: Config, **train: object) -> Trainer:
    settings = config.train.model_copy(update={"clips_per_batch": 4, "device": "cpu", **train})
    model = config.model.model_copy(update={"audio_dim": batch.features.shape[1]})
    return make_trainer(config.model_copy(update={"train": settings, "model": model}), 2, model.audio_dim)


def losses_and_gradients(trainer: Trainer, batch: Batch) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    losses = backward(trainer, batch, 5)
    return {k: v.item() for k, v in losses.items()}, {n: p.grad for n, p in trainer.model.named_parameters()}


def assert_as_good_as_equal(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Batches of another size add up in another order, and ReLU can turn a last digit into a whole gradient."""
    for name, gradient in expected.items():
        assert (actual[name] - gradient).norm() <= 0.03 * gradient.norm() + 1e-5, name


@pytest.mark.parametrize(
    "changes", [{"micro_batch_clips": 1}, {"micro_batch_clips": 3}, {"checkpointing": True}], ids=str
)
@pytest.mark.parametrize("first_only", [False, True], ids=["all frames", "first frames"])
def test_saving_memory_changes_no_number(batch: Batch, config: Config, changes: dict, first_only: bool) -> None:
    if first_only:
        supervised = np.arange(len(batch.supervised)) % 5 == 0
        batch = Batch(**{**vars(batch), "supervised": supervised & (np.arange(len(supervised)) > 4)})
    losses, gradients = losses_and_gradients(trainer_for(batch, config), batch)
    saving = losses_and_gradients(trainer_for(batch, config, **changes), batch)
    assert saving[0] == pytest.approx(losses, rel=1e-4)
    assert_as_good_as_equal(saving[1], gradients)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["r50", "pvt-v2-b5"])
def test_checkpointing_of_big_backbones_changes_no_number(batch: Batch, backbone: str) -> None:
    config = load_config("tiny", [f"model.backbone={backbone}"])
    part = batch.parts(1)[0]
    with pytest.warns(UserWarning, match="random weights"):
        plain, saving = (trainer_for(part, config, checkpointing=on) for on in (False, True))
    (losses, gradients), (same_losses, same_gradients) = (losses_and_gradients(t, part) for t in (plain, saving))
    assert same_losses == pytest.approx(losses, rel=1e-4)
    assert_as_good_as_equal(same_gradients, gradients)


def test_shares_of_a_batch_draw_what_the_whole_draws(batch: Batch) -> None:
    whole, parts = clip_seeds(batch, 1, 2), [clip_seeds(part, 1, 2) for part in batch.parts(3)]
    assert whole == [seed for part in parts for seed in part]
    assert len(set(whole)) == 4
    assert clip_seeds(batch, 1, 3) != whole


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_no_step_waits_for_the_gpu(batch: Batch, config: Config, precision: str) -> None:
    trainer = trainer_for(batch, config, precision=precision, device="cuda")
    train_step(trainer, batch, 0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        train_step(trainer, batch, 1)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_fused_optimizer_equals_one_tensor_after_the_other(config: Config) -> None:
    models = []
    for fused in (True, False):
        torch.manual_seed(0)
        model = COMBO(ModelConfig(**SMALL), 2)
        groups = parameter_groups(model, config.train)
        optimizer = make_optimizer(model, config.train) if fused else plain_optimizer(groups)
        for step in range(3):
            set_learning_rate(optimizer, config.train, step)
            rng = torch.Generator().manual_seed(step)
            for group in groups:
                for parameter in group["params"]:
                    parameter.grad = torch.randn(parameter.shape, generator=rng)
            optimizer.step()
        models.append(dict(model.named_parameters()))
    fast, slow = models
    for name, parameter in slow.items():
        torch.testing.assert_close(fast[name], parameter, rtol=1e-5, atol=1e-7, msg=name)


def test_bf16_gives_nearly_the_losses_of_fp32(batch: Batch, config: Config) -> None:
    fp32, bf16 = (losses_and_gradients(trainer_for(batch, config, precision=p), batch)[0] for p in ("fp32", "bf16"))
    assert bf16 == pytest.approx(fp32, rel=0.05, abs=0.02)
    assert bf16 != fp32


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("size", [(64, 64), (48, 80)], ids=str)
def test_augmentation_equals_the_plain_one_byte_by_byte(size: tuple[int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    frames, maskiges = rng.integers(0, 256, (2, 5, *size, 3), dtype=np.uint8)
    labels = rng.integers(0, 3, (5, *size), dtype=np.uint8)
    one, two = (
        way(frames, maskiges, labels, AugmentConfig(), np.random.default_rng(seed)) for way in (augment, plain_augment)
    )
    for fast, slow in zip(one, two, strict=True):
        np.testing.assert_array_equal(fast, slow)


def test_augmenting_leaves_the_store_alone(prepared: Path) -> None:
    dataset = open_dataset(prepared)
    before = dataset[0]
    augment(before.frames, before.maskiges, before.labels, AugmentConfig(), np.random.default_rng(0))
    np.testing.assert_array_equal(before.frames, dataset[0].frames)

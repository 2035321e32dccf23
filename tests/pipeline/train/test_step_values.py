"""One training step and the loop around it by value, each against a plain implementation of its own."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from combo_avs.data.augment import AugmentConfig
from combo_avs.data.dataset import Batch, ClipDataset, train_batch
from combo_avs.data.store.root import open_cache
from combo_avs.data.store.store import ClipStore
from combo_avs.pipeline.common.distributed import Ranks
from combo_avs.pipeline.config.tree import Config
from combo_avs.pipeline.evaluate.scores import Scores
from combo_avs.pipeline.runs.checkpoints import checkpoints
from combo_avs.pipeline.runs.data import DataNames
from combo_avs.pipeline.runs.folder import read_best, read_run_log
from combo_avs.pipeline.train import loop, monitor
from combo_avs.pipeline.train import step as step_module
from combo_avs.pipeline.train.loop import train
from combo_avs.pipeline.train.monitor import plain_entries, scalar_name
from combo_avs.pipeline.train.optim import WeightAverage, make_optimizer, parameter_groups, set_learning_rate
from combo_avs.pipeline.train.step import Trainer, clip_seeds, make_trainer, train_step, update

NAMES = ("felzenszwalb", "logmel")


def with_settings(config: Config, **train_settings) -> Config:
    return config.model_copy(update={"train": config.train.model_copy(update={"device": "cpu", **train_settings})})


@pytest.fixture(scope="module")
def dataset(prepared: Path) -> ClipDataset:
    clips = ClipStore(prepared)
    return ClipDataset(clips, open_cache(clips, "proposals", NAMES[0]), open_cache(clips, "audio", NAMES[1]), "train")


@pytest.fixture(scope="module")
def batch(dataset: ClipDataset) -> Batch:
    return train_batch(dataset, 2, AugmentConfig(), 0, 0)


class TestGroups:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image_backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.GroupNorm(2, 4))
            self.head = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Embedding(3, 4))
            self.scale = nn.Parameter(torch.ones(1))
            self.tied = nn.Linear(4, 4, bias=False)
            self.tied.weight = self.head[0].weight  # must not be updated twice
            self.frozen = nn.Linear(2, 2).requires_grad_(False)

    def test_rate_and_decay_of_every_parameter(self, config: Config) -> None:
        settings = config.train.model_copy(update={"lr": 0.5, "backbone_lr_factor": 0.25, "weight_decay": 0.125})
        network = self.Network()
        names = {id(p): n for n, p in network.named_parameters()}
        groups = parameter_groups(network, settings)
        found = [(names[id(p)], g["lr"], g["lr_factor"], g["weight_decay"]) for g in groups for p in g["params"]]
        backbone, rest = ("image_backbone.0.weight", "image_backbone.0.bias"), ("head.0.weight", "head.0.bias", "scale")
        norms = [f"image_backbone.{k}.{name}" for k in (1, 2) for name in ("weight", "bias")]
        expected = [(name, 0.125, 0.25, 0.0) for name in norms]
        expected += [(name, 0.125, 0.25, 0.125) for name in backbone]
        expected += [(name, 0.5, 1.0, 0.0) for name in ("head.1.weight", "head.1.bias", "head.2.weight")]
        expected += [(name, 0.5, 1.0, 0.125) for name in rest]
        assert sorted(found) == sorted(expected)

    def test_the_rate_of_every_group_at_a_step(self, config: Config) -> None:
        settings = config.train.model_copy(
            update={"lr": 0.5, "backbone_lr_factor": 0.25, "steps": 10, "poly_power": 2.0}
        )
        optimizer = make_optimizer(self.Network(), settings)
        for step, share in ((0, 1.0), (5, 0.25), (9, 0.01)):
            assert set_learning_rate(optimizer, settings, step) == pytest.approx(0.5 * share, rel=1e-12)
            rates = {g["lr_factor"]: g["lr"] for g in optimizer.param_groups}
            assert rates == pytest.approx({1.0: 0.5 * share, 0.25: 0.125 * share}, rel=1e-12)


class TestStep:
    @pytest.mark.parametrize("clip_norm", [0.5, 1e6], ids=["clipped", "not clipped"])
    def test_two_steps_equal_adamw_written_out(self, batch: Batch, config: Config, clip_norm: float) -> None:
        """Gradients come from `backward`, tested elsewhere; what is done with them is done here again in float64."""
        settings = {"clip_norm": clip_norm, "lr": 0.01, "steps": 7, "weight_decay": 0.3, "backbone_lr_factor": 0.25}
        trainer, twin = (make_trainer(with_settings(config, **settings), 2, 128) for _ in range(2))
        decayed = {id(p): g["weight_decay"] for g in twin.optimizer.param_groups for p in g["params"]}
        weights = {n: p.detach().double() for n, p in twin.model.named_parameters() if p.requires_grad}
        first, second = ({n: torch.zeros_like(p) for n, p in weights.items()} for _ in range(2))
        for step in range(2):
            twin.model.zero_grad()
            step_module.backward(twin, batch, step)
            parameters = {n: p for n, p in twin.model.named_parameters() if n in weights}
            gradients = {
                n: torch.zeros_like(weights[n]) if p.grad is None else p.grad.double() for n, p in parameters.items()
            }
            norm = math.sqrt(sum(float((g**2).sum()) for g in gradients.values()))
            assert norm > 0.6
            scale = min(1.0, clip_norm / (norm + 1e-6))
            lr = 0.01 * (1 - step / 7) ** 0.9
            entry = train_step(trainer, batch, step)
            assert float(entry["grad_norm"]) == pytest.approx(norm, rel=1e-4)
            assert (entry["step"], entry["lr"], entry["lr_backbone"]) == pytest.approx((step, lr, lr / 4))
            assert entry["clips"] == batch.clip_ids
            for name, weight in weights.items():
                rate, g = lr * (0.25 if "backbone" in name else 1), scale * gradients[name]
                if parameters[name].grad is None:
                    continue
                weight -= rate * decayed[id(parameters[name])] * weight
                first[name] = 0.9 * first[name] + 0.1 * g
                second[name] = 0.999 * second[name] + 0.001 * g**2
                steady = (second[name] / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
                weight -= rate * first[name] / (1 - 0.9 ** (step + 1)) / steady
            # the twin goes on from the weights that the step has made, so that only one step's rounding is compared
            for name, parameter in trainer.model.named_parameters():
                if name in weights:
                    large = first[name].abs() > 1e-7  # below, Adam divides noise by noise
                    torch.testing.assert_close(
                        parameter.detach().double()[large], weights[name][large], rtol=1e-4, atol=2e-5, msg=name
                    )
                    weights[name] = parameter.detach().double().clone()
            twin.model.load_state_dict(trainer.model.state_dict())

    def test_what_a_seed_of_a_clip_depends_on(self) -> None:
        def seeds(places: tuple[int, ...], seed: int, step: int) -> list[int]:
            return clip_seeds(SimpleNamespace(places=places), seed, step)

        base = seeds((0, 1), 3, 5)
        assert base == [int(np.random.SeedSequence([3, 5, p]).generate_state(1, np.uint64)[0]) for p in (0, 1)]
        assert seeds((1,), 3, 5) == base[1:]
        others = [seeds((0, 1), 4, 5), seeds((0, 1), 3, 6), seeds((2, 3), 3, 5), seeds((0, 1), 5, 3)]
        assert len({*base, *(s for other in others for s in other)}) == 10

    def test_initial_weights_follow_from_the_seed(self, config: Config) -> None:
        def start(seed: int) -> torch.Tensor:
            return torch.cat(
                [p.flatten() for p in make_trainer(with_settings(config, seed=seed), 2, 128).model.parameters()]
            )

        assert torch.equal(start(1), start(1))
        assert not torch.equal(start(1), start(2))

    def test_dropout_is_on_and_the_average_is_not(self, config: Config) -> None:
        trainer = make_trainer(config, 2, 128)
        assert all(m.training for m in trainer.model.modules() if not isinstance(m, nn.BatchNorm2d))
        assert not any(m.training for m in WeightAverage(trainer.model, 0.9).model.modules())


class TestNotFinite:
    """What `update` does with the gradient of one weight, after losses that are finite or not."""

    @pytest.fixture
    def trainer(self, config: Config) -> Trainer:
        model = nn.Linear(1, 1, bias=False)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.5, weight_decay=0.0, fused=True)
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        return Trainer(model, optimizer, scaler, torch.device("cpu"), config, torch.ones(()))

    @staticmethod
    def moved(trainer: Trainer, total: float, norm: float) -> bool:
        (weight,) = trainer.model.parameters()
        before = weight.detach().clone()
        weight.grad = torch.ones_like(weight)
        update(trainer, torch.tensor(total), torch.tensor(norm))
        return not torch.equal(before, weight)

    @pytest.mark.parametrize(("total", "norm"), [(math.nan, 1), (math.inf, 1), (1, math.nan), (1, math.inf)])
    def test_nothing_moves_from_then_on(self, trainer: Trainer, total: float, norm: float) -> None:
        assert self.moved(trainer, 1.0, 1.0)
        assert trainer.health == 1
        assert not self.moved(trainer, total, norm)
        assert not self.moved(trainer, 1.0, 1.0), "once ill, always ill"
        assert trainer.health.isnan()

    def test_under_fp16_a_gradient_may_overflow_but_a_loss_may_not(self, trainer: Trainer) -> None:
        trainer.scaler = torch.amp.GradScaler("cpu", enabled=True, init_scale=4.0)
        trainer.scaler.scale(torch.ones(()))
        (weight,) = trainer.model.parameters()
        weight.grad = torch.full_like(weight, math.inf)
        trainer.scaler.unscale_(trainer.optimizer)
        before = weight.detach().clone()
        update(trainer, torch.tensor(1.0), torch.tensor(math.inf))
        assert torch.equal(before, weight)
        assert (trainer.health, trainer.scaler.get_scale()) == (1, 2.0)
        weight.grad = torch.ones_like(weight)
        trainer.scaler.unscale_(trainer.optimizer)
        update(trainer, torch.tensor(math.nan), torch.tensor(1.0))
        assert trainer.health.isnan()


@dataclass(frozen=True)
class Cadence:
    """A run whose steps do nothing but count, scored as told."""

    trained: list[int]
    saved: list[int]
    scored: list[int]
    run: Path


@pytest.fixture
def count_steps(
    prepared: Path, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Cadence]:
    def run(scores: list[float], *, resume: bool = False, **settings: Any) -> Cadence:
        trained, saved, scored, values = [], [], [], iter(scores)
        save, score = loop.save, loop.score

        def counted(trainer: Trainer, batch: Batch, step: int) -> dict[str, Any]:
            trained.append(step)
            with torch.no_grad():
                trainer.model.audio_mlp[0].bias.fill_(step + 1)
            total = torch.tensor(float(step))
            return {"step": step, "lr": 0.0, "grad_norm": total, "clips": batch.clip_ids, "total": total}

        monkeypatch.setattr(loop, "train_step", counted)
        monkeypatch.setattr(loop, "save", lambda training, done: saved.append(done) or save(training, done))
        monkeypatch.setattr(loop, "score", lambda training, done, m: scored.append(done) or score(training, done, m))
        monkeypatch.setattr(loop, "validation_picture", lambda *_: np.zeros((2, 2, 3), np.uint8))
        monkeypatch.setattr(
            loop, "evaluate_dataset", lambda *_, **__: {"published": Scores(next(values), 0.5, "published: x", {}, {})}
        )
        out = tmp_path / "run"
        train(DataNames(prepared, *NAMES), with_settings(config, **settings), out, resume=resume)
        return Cadence(trained, saved, scored, out)

    return run


class TestLoop:
    def test_what_is_saved_and_scored_when_and_kept(self, count_steps: Callable[..., Cadence]) -> None:
        done = count_steps([0.2, 0.6, 0.6, 0.5], steps=8, evaluate_every=3, checkpoint_every=4)
        assert done.saved == [3, 4, 6, 8]
        assert done.scored == [3, 6, 8]
        assert [p.name for p in checkpoints(done.run)] == ["step-00000006", "step-00000008"]
        best = read_best(done.run)
        assert best is not None
        assert (best["step"], best["M_J"]) == (6, 0.6)
        for path, step in ((done.run / "best", 6), (checkpoints(done.run)[-1], 8)):
            assert set(load_file(path / "model.safetensors")["audio_mlp.0.bias"].tolist()) == {step}
        more = count_steps([0.6, 0.7], resume=True, steps=10, evaluate_every=9, checkpoint_every=100)
        assert (more.trained, more.saved, more.scored) == ([8, 9], [9, 10], [9, 10])
        best = read_best(done.run)
        assert best is not None
        assert (best["step"], best["M_J"]) == (10, 0.7)
        assert [e["step"] for e in read_run_log(done.run) if "total" in e] == list(range(10))
        assert [e["total"] for e in read_run_log(done.run) if "total" in e] == list(range(10))

    def test_the_average_moves_by_its_rule_after_every_step(
        self, count_steps: Callable[..., Cadence], config: Config
    ) -> None:
        done = count_steps([0.1], steps=3, evaluate_every=100, checkpoint_every=1, ema_decay=0.15)
        second, third = (load_file(path / "ema.safetensors")["audio_mlp.0.bias"] for path in checkpoints(done.run))
        start = make_trainer(config, 2, 128).model.audio_mlp[0].bias.detach()
        first = start / 10 + 0.9 * 1  # (1 + 0) / (10 + 0) is less than the decay
        assert torch.allclose(second, 0.15 * first + 0.85 * 2, atol=1e-6)
        assert torch.allclose(third, 0.15 * second + 0.85 * 3, atol=1e-6)


class TestMonitor:
    def test_entries_are_means_over_ranks(self) -> None:
        ranks = SimpleNamespace(mean=lambda values: (values + values + 2) / 2)  # another rank had 2 more
        entries = [{"step": 4, "lr": 0.5, "clips": ("a",), "total": torch.tensor(3.0), "grad_norm": torch.tensor(7.0)}]
        plain = plain_entries(entries, ranks)
        assert plain == [{"step": 4, "lr": 0.5, "total": 4.0, "grad_norm": 8.0}]

    @pytest.mark.parametrize("precision", ["fp32", "fp16"])
    def test_what_counts_as_broken(self, config: Config, tmp_path: Path, precision: str) -> None:
        settings = with_settings(config, precision=precision, steps=100).train

        def entry(step: int, **values: float) -> dict[str, Any]:
            tensors = {k: torch.tensor(v) for k, v in {"total": 1.0, "grad_norm": 1.0, **values}.items()}
            return {"step": step, "clips": ("a", "b"), **tensors}

        with monitor.Monitor(tmp_path, settings, 0, Ranks(), torch.device("cpu")) as watched:
            watched.step(entry(0, grad_norm=math.inf), 0.25)
            if precision == "fp32":
                with pytest.raises(step_module.NotFinite, match="grad_norm"):
                    watched.look()
                return
            watched.look()
            for step in range(1, 10):
                watched.step(entry(step), 0.25)
            watched.step(entry(10), 0.25)
            assert len(read_run_log(tmp_path)) == 11, "ten steps are pending, so the losses are looked at"
            watched.step(entry(11, total=math.nan), 0.25)
            watched.step(entry(12), 0.25)
            with pytest.raises(step_module.NotFinite, match="total") as broken:
                watched.look()
            assert (broken.value.step, broken.value.everywhere) == (11, True)
        log = read_run_log(tmp_path)
        assert [e["step"] for e in log] == list(range(12))
        assert {e["data_wait"] for e in log} == {0.25}

    def test_tags(self) -> None:
        names = [scalar_name(key) for key in ("loss_ce", "loss_mask_0", "total", "lr", "grad_norm")]
        assert names == ["loss/ce", "loss/mask_0", "loss/total", "train/lr", "train/grad_norm"]

"""Every ablation of the paper is one setting on the command line, and one step of training shows its effect."""

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from combo_avs.pipeline.config.precompute import PrecomputeConfig
from combo_avs.pipeline.config.tree import Config, load_config
from combo_avs.pipeline.precompute.driver import plan_caches, run_plans
from combo_avs.pipeline.runs.checkpoints import checkpoints
from combo_avs.pipeline.runs.data import DataNames
from combo_avs.pipeline.runs.folder import read_run_log
from combo_avs.pipeline.train.loop import train
from combo_avs.pipeline.train.step import make_trainer

Run = tuple[dict[str, torch.Tensor], set[str], dict[str, float]]
Step = Callable[..., Run]

ONE_STEP = ["train.steps=1", "train.clips_per_batch=1", "loss.num_points=64"]


@pytest.fixture(scope="module")
def two_proposals(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared root with a second proposals cache: the control experiment without any."""
    root = Path(shutil.copytree(prepared, tmp_path_factory.mktemp("ablations") / "root"))
    run_plans(plan_caches(root, PrecomputeConfig(), "none", None), workers=0, scheduler=None)
    return root


@pytest.fixture
def step(two_proposals: Path, tmp_path: Path) -> Step:
    """Trains one step with `--set` overrides; gives weights, names of those that changed, and the step's log."""
    folders = (tmp_path / str(i) for i in itertools.count())

    def run(*overrides: str, proposals: str = "felzenszwalb") -> Run:
        folder, config = next(folders), load_config("tiny", [*ONE_STEP, *overrides])
        train(DataNames(two_proposals, proposals, "logmel"), config, folder)
        weights = load_file(checkpoints(folder)[-1] / "model.safetensors")
        (losses,) = (entry for entry in read_run_log(folder) if "total" in entry)
        return weights, learned_by(weights, config), losses

    return run


def learned_by(weights: dict[str, torch.Tensor], config: Config) -> set[str]:
    """Names of the weights that are not as they were initialised."""
    initial = make_trainer(config, num_classes=2, audio_dim=128).model.state_dict()
    assert initial.keys() == weights.keys()
    return {name for name, value in weights.items() if not torch.equal(value, initial[name])}


@pytest.mark.parametrize(
    ("override", "learning", "resting"),
    [
        (
            "model.siam=none",
            ["siam_encoder.image_backbone."],
            ["siam_encoder.gates.", "siam_encoder.maskige_backbone."],
        ),
        ("model.siam=shared", ["siam_encoder.gates."], ["siam_encoder.maskige_backbone."]),
        ("model.siam=separate", ["siam_encoder.gates.", "siam_encoder.maskige_backbone."], []),
        ("model.fusion=none", ["fusion.level_embed."], ["fusion.gamma", "fusion.audio_pos."]),
        ("model.fusion=visual", ["fusion.value_proj.", "fusion.gamma"], ["fusion.norm_v.", "fusion.key_proj."]),
        ("model.fusion=audio", ["fusion.gamma_a"], ["fusion.gamma_v", "fusion.out_v_proj."]),
        ("model.fusion=bilateral", ["fusion.gamma_a", "fusion.gamma_v", "fusion.out_v_proj."], []),
        ("model.queries=add", ["decoder.query_feat.", "audio_mlp."], []),
        ("model.queries=all", ["audio_mlp."], ["decoder.query_feat."]),
        ("model.queries=dim", ["decoder.query_feat.", "audio_mlp."], []),
        ("model.queries=none", ["decoder.query_feat."], ["audio_mlp."]),
    ],
)
def test_parts_of_the_network(step: Step, override: str, learning: list[str], resting: list[str]) -> None:
    """A part that is switched off is not there, or is not trained."""
    _, changed, _ = step(override)
    for prefix in learning:
        assert any(name.startswith(prefix) for name in changed), prefix
    assert [name for name in changed if name.startswith(tuple(resting))] == []


def test_weight_of_the_consistency_loss(step: Step) -> None:
    def terms(weight: int) -> list[float]:
        losses = step(f"loss.consistency_weight={weight}")[2]
        return [value for name, value in losses.items() if name.startswith("loss_cosine")]

    none, five, twenty = terms(0), terms(5), terms(20)
    assert len(none) == 3
    assert not any(none)
    assert twenty == pytest.approx([4 * value for value in five])
    assert min(five) > 0


def test_readings_of_the_consistency_loss(step: Step) -> None:
    everywhere = step("loss.consistency_on=all", "loss.consistency_detach=true", "loss.consistency_clip=whole")[2]
    assert {n for n in everywhere if "cosine" in n} == {"loss_cosine", *(f"loss_cosine_{p}" for p in range(3))}
    middle = step("loss.consistency_on=middle")[2]
    assert {n for n in middle if "cosine" in n} == {"loss_cosine_2"}
    assert middle["loss_cosine_2"] == pytest.approx(everywhere["loss_cosine_2"])


def test_number_of_queries(step: Step) -> None:
    weights, changed, _ = step("model.num_queries=3")
    assert len(weights["decoder.query_feat.weight"]) == len(weights["decoder.query_embed.weight"]) == 3
    assert "decoder.query_feat.weight" in changed


def test_proposals(step: Step) -> None:
    """The same frames with Maskiges and without any: another loss, with the same network."""
    some, none = step(proposals="felzenszwalb"), step(proposals="none")
    assert some[0].keys() == none[0].keys()
    assert some[2]["total"] != none[2]["total"]


@pytest.mark.parametrize(
    "backbone",
    ["tiny", pytest.param("r50", marks=pytest.mark.slow), pytest.param("pvt-v2-b5", marks=pytest.mark.slow)],
)
def test_backbone(step: Step, backbone: str) -> None:
    _, changed, _ = step(f"model.backbone={backbone}")
    for prefix in ("siam_encoder.image_backbone.", "siam_encoder.maskige_backbone.", "pixel_decoder.", "decoder."):
        assert any(name.startswith(prefix) for name in changed), prefix

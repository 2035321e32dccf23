"""Weights of a run carry their config, so that what shapes do not show, or what was added, converts rightly."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_network import TINY
from torch import Tensor, nn

from combo_avs.errors import BadInput
from combo_avs.model.bilateral_fusion import FUSIONS, NoFusion
from combo_avs.model.random_numbers import Uniform
from combo_avs.model.weights.network_file import load_network, read_header
from combo_avs.pipeline.config.tree import Config, load_config
from combo_avs.pipeline.evaluate.run import evaluate_run
from combo_avs.pipeline.runs.checkpoints import checkpoints
from combo_avs.pipeline.runs.data import DataNames
from combo_avs.pipeline.train.loop import train
from combo_avs.pipeline.weights.convert import convert_weights

STEPS = ["train.steps=2", "train.evaluate_every=2", "train.checkpoint_every=1"]


class GateFusion(NoFusion):
    """Audio weighs the channels of the mask features."""

    def __init__(self, width: int, audio_dim: int, heads: int, residual: str = "normalised") -> None:
        super().__init__(width, audio_dim, heads, residual)
        self.gate = nn.Linear(audio_dim, width)

    def forward(self, visual_BCHW: Tensor, audio_BD: Tensor, uniform: Uniform | None = None) -> tuple[Tensor, Tensor]:
        return self.embed(visual_BCHW) * self.gate(audio_BD).sigmoid()[..., None, None], audio_BD


@pytest.fixture(scope="module")
def gated(prepared: Path, tmp_path_factory: pytest.TempPathFactory):
    """A run of a fusion that one dict entry adds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FUSIONS, "gate", GateFusion)
        config = load_config("tiny", [*TINY, *STEPS, "model.fusion=gate", "model.mask_dim=48"])
        run = tmp_path_factory.mktemp("gated") / "run"
        train(DataNames(prepared, "felzenszwalb", "logmel"), config, run)
        yield run


@pytest.fixture
def saved(gated: Path) -> Path:
    return gated / "best" / "model.safetensors"


def test_an_added_fusion_learns_and_is_evaluated(gated: Path, saved: Path) -> None:
    fusion = load_network(saved).fusion
    assert isinstance(fusion, GateFusion)
    moments = torch.load(checkpoints(gated)[-1] / "state.pt", weights_only=True)["optimizer"]["state"].values()
    assert any(m["exp_avg"].shape == fusion.gate.weight.shape and m["exp_avg"].any() for m in moments)
    assert 0 <= evaluate_run(gated, split="val")["published"].M_J <= 100


def test_weights_of_a_run_say_what_they_are_of(gated: Path, saved: Path) -> None:
    for path in (saved, checkpoints(gated)[-1] / "model.safetensors"):
        header = read_header(path)
        assert (header["config"].fusion, header["config"].mask_dim, header["num_classes"]) == ("gate", 48, 2)
    assert read_header(saved).keys() == {"config", "num_classes"}
    assert "combo" not in json.loads((gated / "best" / "metrics.json").read_text())


def test_an_added_fusion_has_no_published_counterpart(saved: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(saved.read_bytes())
    for path in (saved, moved):
        with pytest.raises(BadInput, match=r"fusion gate; it has none, visual, bilateral"):
            convert_weights(path, tmp_path / "out.pth", "published")


def test_runs_that_wrote_no_metadata_are_known_by_their_config(gated: Path, saved: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "best").mkdir(parents=True)
    for name in ("config.yaml", "run.json"):
        (run / name).write_bytes((gated / name).read_bytes())
    save_file(load_file(saved), run / "best" / "model.safetensors")
    with pytest.raises(BadInput, match="fusion gate"):
        convert_weights(run / "best" / "model.safetensors", tmp_path / "out.pth", "published")
    lost = tmp_path / "lost.safetensors"
    save_file(load_file(saved), lost)
    with pytest.raises(BadInput, match=r"unexpected: fusion\.gate\.weight"):
        convert_weights(lost, tmp_path / "out.pth", "published")


def test_the_config_names_fusions_and_backbones_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match=r"model\.fusion = 'door'.*there are none, visual, audio, bilateral"):
        load_config("tiny", ["model.fusion=door"])
    monkeypatch.setitem(FUSIONS, "door", GateFusion)
    with pytest.raises(BadInput, match=r"bilateral.*door; did you mean door\?"):
        load_config("tiny", ["model.fusion=dor"])
    with pytest.raises(BadInput, match=r"there are r50, pvt-v2-b5, tiny; did you mean r50\?"):
        load_config("tiny", ["model.backbone=r5"])
    config: Config = load_config("tiny", ["model.fusion=door"])
    assert config.model.fusion == "door"

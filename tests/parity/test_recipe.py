"""Parameter groups and schedule of the optimiser against those of the published training, tensor by tensor."""

import pytest
import torch
from golden import fixtures, load_json

from combo_avs.model.combo import COMBO
from combo_avs.model.weights.published_keys import to_published
from combo_avs.pipeline.config.tree import load_config
from combo_avs.pipeline.train.optim import make_optimizer, set_learning_rate

GROUPS = fixtures("combo", "param_groups_*.json")


def preset_of(spec: dict) -> str:
    """Ours for a released config such as configs/avs_s4/COMBO_R50_bs8_90k.yaml."""
    subset = next(
        s for released, s in (("avs_s4", "s4"), ("avs_ms3", "ms3"), ("avs_ss", "avss")) if released in spec["config"]
    )
    return f"{subset}-{'pvt' if 'PVTV2B5' in spec['config'] else 'r50'}"


def optimizer_of(preset: str) -> tuple[torch.optim.AdamW, dict[str, torch.Tensor]]:
    """The optimiser of a preset, and its network's trainable parameters under their published names."""
    with torch.device("meta"):
        model = COMBO(load_config(preset, []).model, 71 if preset.startswith("avss") else 2)
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return make_optimizer(model, load_config(preset, []).train), to_published(trainable)


@pytest.mark.parametrize("name", GROUPS)
def test_rate_and_decay_of_every_tensor(name: str) -> None:
    spec = load_json("combo", name)
    optimizer, published = optimizer_of(preset_of(spec))
    of_tensor = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(of_tensor)
    ours = {key: of_tensor[id(p)] for key, p in published.items()}
    assert ours.keys() == spec["params"].keys()
    differing = {k: (ours[k], v) for k, v in spec["params"].items() if ours[k] != pytest.approx(v, rel=1e-9, abs=0)}
    assert differing == {}


@pytest.mark.parametrize("name", GROUPS)
def test_optimiser(name: str) -> None:
    spec = load_json("combo", name)
    optimizer, _ = optimizer_of(preset_of(spec))
    assert type(optimizer).__name__ == spec["optimizer"]
    for group in optimizer.param_groups:
        assert list(group["betas"]) == spec["betas"]
        assert group["eps"] == spec["eps"]
        assert group["amsgrad"] == spec["amsgrad"]
    clip = spec["clip"]
    assert (clip["type"], clip["norm_type"]) == ("full_model", 2.0)  # the only one there is here
    assert load_config(preset_of(spec), []).train.clip_norm == clip["max_norm"]


@pytest.mark.parametrize("name", GROUPS)
def test_schedule(name: str) -> None:
    spec = load_json("combo", name)
    settings = load_config(preset_of(spec), []).train
    optimizer, _ = optimizer_of(preset_of(spec))
    first = [group["lr"] for group in optimizer.param_groups]
    for step, factor in spec["lr_multiplier_at_iter"].items():
        assert set_learning_rate(optimizer, settings, int(step)) == pytest.approx(settings.lr * factor, rel=1e-9)
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([lr * factor for lr in first], rel=1e-9)

"""The published networks' key lists against ours, both ways; on the meta device, names and shapes only."""

import pytest
import torch
from golden import fixtures, load_json

from combo_avs.model.combo import COMBO
from combo_avs.model.config import ModelConfig
from combo_avs.model.weights.published_keys import from_published, to_published
from combo_avs.model.weights.state import load_weights


def network_of(spec: dict) -> COMBO:
    """Our network, on the meta device, for the published configuration of a key list."""
    bilateral = any(".b_attn." in key for key in spec["keys"])
    config = ModelConfig(
        backbone="pvt-v2-b5" if "PVTV2B5" in spec["config"] else "r50",
        fusion="bilateral" if bilateral else "none",
    )
    with torch.device("meta"):
        return COMBO(config, spec["num_classes"])


@pytest.mark.parametrize("name", fixtures("combo", "state_dict_*.json"))
def test_every_published_key_has_its_place(name):
    spec = load_json("combo", name)
    model = network_of(spec)
    state = {key: torch.empty(shape, device="meta") for key, shape in spec["keys"].items()}

    network, vggish, empty_weight = from_published(state)

    load_weights(model, network, name)
    assert {"audio_backbone." + key for key in vggish} == set(spec["frozen"])
    assert len(empty_weight) == spec["num_classes"] + 1
    again = to_published(model.state_dict(), vggish, empty_weight)
    assert {key: list(tensor.shape) for key, tensor in again.items()} == spec["keys"]

    total = sum(p.numel() for p in [*model.parameters(), *vggish.values()])
    assert total == round(spec["params_M"] * 1e6)

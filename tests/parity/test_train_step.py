"""One whole training step, network and losses, against what the published code gave: losses and gradients."""

import numpy as np
import pytest
from golden import fixtures, load_arrays, load_json
from published_head import head_network, training_losses

from combo_avs.model.weights.published_keys import to_published


@pytest.mark.parametrize("name", fixtures("combo", "train_step_*.json"))
def test_train_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, arrays = load_json("combo", name), load_arrays("combo", name)
    model = head_network(name, monkeypatch)
    losses = training_losses(name, model)
    losses["total"].backward()

    actual = [losses[key].item() for key in spec["loss_names_sorted"]]
    np.testing.assert_allclose(actual, arrays["out.losses"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(losses["total"].item(), arrays["out.total"][0], rtol=1e-5)
    gradients = to_published({key: p.grad for key, p in model.named_parameters() if p.grad is not None})
    norms = [gradients[key].norm() if key in gradients else -1.0 for key in spec["param_names"]]
    np.testing.assert_allclose(norms, arrays["out.grad_norms"], rtol=1e-2, atol=1e-6)

"""One whole training step, network and losses, against what the published code gave: losses and gradients."""

from itertools import chain

import numpy as np
import pytest
import torch
from golden import fixtures, load_arrays, load_json
from published_draws import PublishedDraws, by_clip
from published_head import given, head_network

from combo_avs.model.criterion import CriterionConfig, Supervision, criterion
from combo_avs.model.weights.published_keys import to_published


@pytest.mark.parametrize("name", fixtures("combo", "train_step_*.json"))
def test_train_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, arrays = load_json("combo", name), load_arrays("combo", name)
    lengths, maps = spec["videos_frames"], arrays["in.target_label_maps"]
    # Without flags, the first frame of each clip is supervised. AVSS has ten slots of sound for every clip.
    flags = spec["gt_flags"] or [[1] + [0] * (n - 1) for n in lengths]
    supervised = np.array(list(chain(*flags)), bool)
    audio = given(name, "audio", 1.5, 0.5)
    if spec["gt_flags"]:
        audio = torch.cat([slots[:n] for slots, n in zip(audio.split(10), lengths, strict=True)])
    labels = np.full((sum(lengths), *maps.shape[1:]), 255, np.uint8)
    labels[supervised] = maps

    model = head_network(name, monkeypatch)
    frames = torch.zeros(sum(lengths), 3, *spec["image_hw"])
    logits, masks = model(frames, frames, audio)
    losses = criterion(
        logits,
        masks,
        Supervision(torch.from_numpy(labels), torch.from_numpy(supervised), lengths),
        CriterionConfig(num_points=spec["num_points"], no_object=spec["eos_coef"]),
        by_clip(PublishedDraws(spec["salt"], int(supervised.sum()), spec["num_points"])),
    )
    losses["total"].backward()

    actual = [losses[key].item() for key in spec["loss_names_sorted"]]
    np.testing.assert_allclose(actual, arrays["out.losses"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(losses["total"].item(), arrays["out.total"][0], rtol=1e-5)
    gradients = to_published({key: p.grad for key, p in model.named_parameters() if p.grad is not None})
    norms = [gradients[key].norm() if key in gradients else -1.0 for key in spec["param_names"]]
    np.testing.assert_allclose(norms, arrays["out.grad_norms"], rtol=1e-2, atol=1e-6)

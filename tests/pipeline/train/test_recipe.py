"""The shipped presets are the released training recipe, and docs/fidelity.md speaks of settings that exist."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import combo_avs
from combo_avs.data.augment import draw_geometry
from combo_avs.errors import BadInput
from combo_avs.model.bilateral_fusion import DROPOUT
from combo_avs.pipeline.config.tree import PRESETS, Config, load_config, presets
from combo_avs.pipeline.weights.model_info import describe_model, parameter_counts

Tree = dict[str, Any]

SIDES = (112, 134, 156, 179, 201, 224, 246, 268, 291, 313, 336, 358, 380, 403, 425, 448)  # at 224 pixels
NO_SCALING = {"augment.scale": ()}
COMMON: Tree = {
    "model.siam": "separate",
    "model.fusion": "bilateral",
    "model.fusion_residual": "normalised",
    "model.queries": "add",
    "model.num_queries": 100,
    "model.width": 256,
    "model.mask_dim": None,  # MASK_DIM is 256, as the width
    "model.audio_dim": 128,
    "model.audio_hidden": 4096,
    "model.heads": 8,
    "model.encoder_layers": 6,
    "model.encoder_ffn": 1024,
    "model.decoder_layers": 9,
    "model.decoder_ffn": 2048,
    "loss.class_weight": 2.0,
    "loss.mask_weight": 5.0,
    "loss.dice_weight": 5.0,
    "loss.consistency_weight": 10.0,
    "loss.consistency_on": "aux",
    "loss.consistency_clip": "five",
    "loss.consistency_detach": False,
    "loss.no_object": 0.1,
    "loss.num_points": 12544,
    "loss.oversample": 3.0,
    "loss.importance": 0.75,
    "augment.scale": tuple(n / 10 for n in range(5, 21)),
    "augment.flip": 0.5,
    "augment.colour": True,
    "augment.shared_colour": False,
    "train.steps": 90_000,
    "train.clips_per_batch": 8,
    "train.lr": 1e-4,
    "train.backbone_lr_factor": 0.1,
    "train.weight_decay": 0.05,
    "train.poly_power": 0.9,
    "train.clip_norm": 0.01,
    "train.precision": "fp32",
    "train.evaluate_every": 5_000,
}
MS3: Tree = {"train.steps": 20_000, "train.evaluate_every": 400}
AVSS: Tree = NO_SCALING | {"train.precision": "fp16"}
RELEASED: dict[str, Tree] = {
    "s4-r50": COMMON | {"model.backbone": "r50"},
    "s4-pvt": COMMON | {"model.backbone": "pvt-v2-b5"},
    "ms3-r50": COMMON | MS3 | {"model.backbone": "r50"},
    "ms3-pvt": COMMON | MS3 | {"model.backbone": "pvt-v2-b5"},
    "avss-r50": COMMON | AVSS | {"model.backbone": "r50"},
    "avss-pvt": COMMON | AVSS | {"model.backbone": "pvt-v2-b5"},
}
# Settings without a released value: ours, of the machine, or, audio_queries, right where the release is not.
OURS = {
    "model.audio_queries",
    "train.backbone_weights",
    "train.start_from",
    "train.subset",
    "train.micro_batch_clips",
    "train.checkpointing",
    "train.loader_threads",
    "train.ema_decay",
    "train.checkpoint_every",
    "train.seed",
    "train.device",
}


def leaves(tree: Tree, path: str = "") -> Tree:
    """section.key -> value."""
    out: Tree = {}
    for key, value in tree.items():
        out |= leaves(value, f"{path}{key}.") if isinstance(value, dict) else {path + key: value}
    return out


def settings_of(config: Config) -> Tree:
    return leaves(config.model_dump(exclude={"precompute"}))


class TestPresets:
    def test_there_is_one_per_subset_and_backbone(self) -> None:
        assert set(presets()) == {*RELEASED, "tiny"}

    @pytest.mark.parametrize("name", RELEASED)
    def test_equals_the_released_recipe(self, name: str) -> None:
        loaded = settings_of(load_config(name, []))
        assert {key: loaded[key] for key in RELEASED[name]} == RELEASED[name]
        # A new setting needs a released value above, or a word on why there is none.
        assert loaded.keys() - RELEASED[name].keys() == OURS

    @pytest.mark.parametrize("name", presets())
    def test_holds_only_differences(self, name: str) -> None:
        defaults = settings_of(Config())
        held = leaves(yaml.safe_load((PRESETS / f"{name}.yaml").read_text()) or {})
        loaded = settings_of(load_config(name, []))
        assert [key for key in held if loaded[key] == defaults[key]] == []

    def test_without_a_preset_it_is_the_first(self) -> None:
        assert Config() == load_config("s4-r50", ["train.subset=null"])

    def test_scaled_sides_never_reach_the_published_limit(self) -> None:
        """The release caps the long side at 896; frames of a store are square, so it would bind nowhere."""
        config, rng = load_config("s4-r50", []).augment, np.random.default_rng(0)
        drawn = {draw_geometry(config, (224, 224), rng).resized for _ in range(400)}
        assert drawn == {(side, side) for side in SIDES}
        assert max(SIDES) < 896


class TestParameterCounts:
    """Table 4 of the paper, and what the released models count."""

    @pytest.mark.parametrize(
        ("preset", "overrides", "classes", "total"),
        [
            ("s4-r50", [], 2, 158_903_091),  # the paper: 158.9 M
            ("s4-r50", ["model.siam=shared"], 2, 135_448_179),  # the paper: 135.5 M, see docs/fidelity.md
            ("avss-r50", [], 71, 158_920_824),
            ("s4-pvt", [], 2, 273_507_203),
        ],
    )
    def test_totals(self, preset: str, overrides: list[str], classes: int, total: int) -> None:
        assert parameter_counts(load_config(preset, overrides), classes)["total"] == total

    def test_parts_of_the_published_resnet_model(self) -> None:
        counts = parameter_counts(load_config("s4-r50", []), 2)
        millions = {name: round(count / 1e6, 3) for name, count in counts.items()}
        assert millions == {
            "image_backbone": 23.455,
            "maskige_backbone": 23.455,
            "gates": 0.700,
            "pixel_decoder": 6.036,
            "fusion": 0.298,
            "audio_mlp": 18.359,
            "decoder": 14.459,
            "network": 86.762,
            "trainable": 86.762,
            "buffers": 0.212,
            "vggish": 72.141,
            "total": 158.903,
        }

    def test_what_learns_nothing_is_not_counted_as_trainable(self) -> None:
        counts = parameter_counts(load_config("s4-r50", ["model.queries=none"]), 2)
        assert counts["network"] - counts["trainable"] > counts["audio_mlp"] > 0

    def test_parts_make_up_the_network_and_are_printed(self) -> None:
        config = load_config("tiny", ["model.siam=none"])
        counts = parameter_counts(config, 71)
        assert counts["maskige_backbone"] == counts["gates"] == 0
        lines = describe_model(config, 71).splitlines()
        assert [line.split()[0] for line in lines] == list(counts)
        assert lines[-1].endswith("M")

    def test_settings_that_do_not_fit_are_refused(self) -> None:
        with pytest.raises(BadInput, match="heads"):
            parameter_counts(load_config("s4-r50", ["model.heads=7"]), 2)


class TestFidelityPage:
    PAGE = (Path(combo_avs.__file__).parent / "docs" / "fidelity.md").read_text()

    def settings(self, column: int) -> set[str]:
        """`section.key=value` in one column of the page's first table."""
        rows = [line.split("|") for line in self.PAGE.splitlines() if line.startswith("|")]
        return {s for row in rows if len(row) == 7 for s in re.findall(r"`([a-z_]+\.[a-z_]+=[^`]+)`", row[column])}

    def test_defaults_are_what_it_says(self) -> None:
        said = self.settings(4)
        assert load_config(None, sorted(said)) == Config()
        named = {setting.split("=")[0] for setting in said}
        assert named >= {f"loss.{k}" for k in ("num_points", "oversample", "importance", "no_object")}
        assert named >= {"model.audio_dim", "model.audio_hidden", "train.evaluate_every", "train.micro_batch_clips"}
        assert len(named) >= 30

    def test_numbers_in_words_are_the_settings(self) -> None:
        """What the released code does, where ours is said to be the same."""
        c = Config()
        for words in (
            f"at {c.loss.num_points:,} points a mask: of {c.loss.oversample:g} x {c.loss.num_points:,} random ones",
            f"the {c.loss.importance:.0%}".replace("%", " %"),
            f"at {c.loss.num_points:,} random points a frame",
            f"weigh {c.loss.no_object};",
            f"{c.model.audio_dim} - {c.model.audio_hidden} - {c.model.audio_hidden} - {c.model.width}",
            f"| {DROPOUT} of the attention probabilities",
            f"scored every {c.train.evaluate_every:,} steps, MS3 every {RELEASED['ms3-r50']['train.evaluate_every']}",
            f"decay {c.train.weight_decay}, but none",
        ):
            assert words in self.PAGE, words

    def test_every_other_setting_that_it_names_is_accepted(self) -> None:
        named = set(re.findall(r"`([a-z_]+\.[a-z_]+=[^`]+)`", self.PAGE)) - self.settings(4)
        assert len(named) > 5
        for setting in named:
            assert load_config(None, [setting]) != Config()

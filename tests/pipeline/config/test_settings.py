"""Settings say what they do: in their fields, in what --show-config prints, and on the page of all settings."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import combo_avs
from combo_avs.base import Section
from combo_avs.cli import app
from combo_avs.console import run
from combo_avs.errors import BAD_INPUT, BadInput
from combo_avs.model.audio import ENCODERS
from combo_avs.model.foundation import GENERATORS
from combo_avs.pipeline.config.tree import READS, Config, check_read, explain_config, load_config, parse_config, presets

DOCS = Path(combo_avs.__file__).parent / "docs"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("settings_page", DOCS / "assets" / "settings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def undescribed(section: type[Section], prefix: str) -> Iterator[str]:
    for key, field in section.model_fields.items():
        if not field.description:
            yield f"{prefix}.{key}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from undescribed(field.annotation, f"{prefix}.{key}")


def test_every_setting_has_a_description() -> None:
    entries = {**GENERATORS, **ENCODERS}
    sections = {"config": Config, **{name: entry.config for name, entry in entries.items()}}
    assert [key for name, section in sections.items() for key in undescribed(section, name)] == []


def test_the_page_is_up_to_date(script: ModuleType) -> None:
    """If not: python docs/assets/settings.py."""
    assert (DOCS / "settings.md").read_text() == script.page()


def test_the_page_has_every_section_and_every_model(script: ModuleType) -> None:
    page = script.page()
    for heading in ("model", "loss", "augment", "train", "precompute", "precompute.slurm"):
        assert f"## {heading}\n" in page
    for name in (*GENERATORS, *ENCODERS):
        assert any(name in line for line in page.splitlines() if line.startswith("## precompute.")), name
    assert "| `lr` | number > 0 | `0.0001` | learning rate of the first step |" in page
    assert "| `micro_batch_clips` | integer ≥ 1 or null | `null` |" in page


@pytest.mark.parametrize("preset", presets())
def test_an_explained_config_is_the_config(preset: str) -> None:
    config = load_config(preset, ["precompute.slurm.jobs=3", "precompute.generator.scales=[50, 200]"])
    text = explain_config(config)
    assert parse_config(yaml.safe_load(text)) == config
    assert "  # learning rate of the first step\n  lr: " in text
    assert "    # GPUs per job, as --gpus-per-node\n    gpus: 1\n" in text


FOREIGN = [  # command, a setting that it does not read, the commands that do
    ("precompute", "loss.class_weight=5", "'combo train' and 'combo compare'"),
    ("precompute", "model.width=64", "'combo train' and 'combo compare' and 'combo model'"),
    ("model", "precompute.max_masks=5", "'combo precompute' and 'combo predict'"),
    ("model", "train.lr=1", "'combo train' and 'combo compare'"),
    ("train", "precompute.max_masks=5", "'combo precompute' and 'combo predict'"),
    ("compare", "precompute.device=cpu", "'combo precompute' and 'combo predict'"),
    ("predict", "augment.colour=false", "'combo train' and 'combo compare'"),
]


@pytest.mark.parametrize(("command", "setting", "readers"), FOREIGN)
def test_a_setting_that_a_command_does_not_read_is_refused(command: str, setting: str, readers: str) -> None:
    with pytest.raises(BadInput) as error:
        load_config(None, [setting], command)
    assert f"--set {setting}: {setting.partition('.')[0]} is read by {readers}\n" in str(error.value)
    assert f"'combo {command}' does not read" in str(error.value)
    for reader in READS:
        if f"'combo {reader}'" in readers and not setting.startswith("loss."):
            load_config(None, [setting], reader)


def test_a_misspelt_section_is_named_as_such() -> None:
    with pytest.raises(BadInput, match=r"modle: no such key.*did you mean model"):
        load_config(None, ["modle.width=64"], "precompute")


@pytest.mark.parametrize(
    ("setting", "arguments", "why"),
    [
        ("precompute.slurm.jobs=2", ["--audio", "logmel"], "it is read with --slurm"),
        ("precompute.slurm={}", ["--audio", "logmel"], "it is read with --slurm"),
        ("precompute.generator.sigma=2", ["--audio", "logmel"], "it is read with --proposals"),
        ("precompute.encoder.weights=x", ["--proposals", "none"], "it is read with --audio"),
    ],
)
def test_settings_of_what_is_not_asked_for(
    prepared: Path, setting: str, arguments: list[str], why: str, capsys: pytest.CaptureFixture
) -> None:
    call = ["precompute", str(prepared), *arguments, "--set", setting, "--dry-run"]
    assert run(app, call) == BAD_INPUT
    assert f"--set {setting}: {why}" in capsys.readouterr().err


def test_a_setting_of_a_like_name_is_another() -> None:
    check_read("precompute", ["precompute.slurmy=1", "precompute.batch_frames=2"], {"precompute.slurm": "no"})


def test_seeds_of_a_comparison_are_not_set(prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    names = ["--proposals", "felzenszwalb", "--audio", "logmel", "--out", str(tmp_path / "out")]
    assert run(app, ["compare", str(prepared), "--preset", "tiny", *names, "--set", "train.seed=7"]) == BAD_INPUT
    assert "--set train.seed=7: every variant is trained with all of --seeds" in capsys.readouterr().err

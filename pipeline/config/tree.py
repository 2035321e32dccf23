"""The one config tree: sections stand beside the code they configure, presets hold only differences."""

import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from ...base import Section
from ...data.augment import AugmentConfig
from ...errors import BadInput, did_you_mean
from ...model.config import ModelConfig
from ...model.criterion import CriterionConfig
from .precompute import PrecomputeConfig
from .train import TrainConfig

NETWORK = ("model", "loss", "augment", "train")
NOTHING: Mapping[str, str] = {}
READS = {  # which sections the --set of each command may change
    "train": NETWORK,
    "compare": NETWORK,
    "model": ("model",),
    "precompute": ("precompute",),
    "predict": ("precompute",),
}

PRESETS = Path(__file__).parent / "presets"


class Config(Section):
    """Everything a run depends on, apart from the clips and caches that it reads."""

    model: ModelConfig = Field(default=ModelConfig(), description="the network")
    loss: CriterionConfig = Field(default=CriterionConfig(), description="the losses")
    augment: AugmentConfig = Field(default=AugmentConfig(), description="augmentation of training clips")
    train: TrainConfig = Field(default=TrainConfig(), description="optimisation, evaluation and checkpoints")
    precompute: PrecomputeConfig = Field(default=PrecomputeConfig(), description="stage one")


def presets() -> list[str]:
    """Names that `--preset` takes."""
    return sorted(p.stem for p in PRESETS.glob("*.yaml"))


def load_config(
    preset: str | None, overrides: list[str], command: str | None = None, unread: Mapping[str, str] = NOTHING
) -> Config:
    """A preset with `section.key=value` overrides (values are YAML: numbers, true, [1, 2], text).

    command, unread: as for `check_read`. Raises `BadInput` that names every wrong key or value and what is allowed, and
    every setting that the command does not read.
    """
    if command is not None:
        check_read(command, overrides, unread)
    tree: dict[str, Any] = {}
    if preset is not None:
        if preset not in presets():
            raise BadInput(f"no preset {preset!r}; there are {', '.join(presets())}{did_you_mean(preset, presets())}")
        tree = yaml.safe_load((PRESETS / f"{preset}.yaml").read_text()) or {}
    for override in overrides:
        _apply(tree, override)
    config = parse_config(tree)
    if problems := list(conflicts(config)):
        raise BadInput.listing("the config is not valid:", problems)
    return config


def check_read(command: str, overrides: list[str], unread: Mapping[str, str] = NOTHING) -> None:
    """Raise `BadInput` that lists the overrides that a command does not read, each with what does.

    command: the one of `READS` that asks. unread: settings or sections that it reads otherwise, but not this time, each
    with what to do instead.
    """
    problems = []
    for override in overrides:
        name = override.partition("=")[0]
        section = name.partition(".")[0]
        problems += [f"--set {override}: {why}" for key, why in unread.items() if f"{name}.".startswith(f"{key}.")]
        if section in Config.model_fields and section not in READS[command]:
            readers = " and ".join(f"'combo {name}'" for name, sections in READS.items() if section in sections)
            problems.append(f"--set {override}: {section} is read by {readers}")
    if problems:
        advice = f"It reads {', '.join(READS[command])}"
        raise BadInput.listing(f"'combo {command}' does not read these settings:", problems, advice)


def conflicts(config: Config) -> Iterator[str]:
    """Settings that no training may combine; older runs may have done so, and are still read."""
    model, train = config.model, config.train
    part = train.micro_batch_clips or train.clips_per_batch
    if model.audio_queries == "published" and model.queries != "none" and part < train.clips_per_batch:
        yield (
            f"train.micro_batch_clips = {part} with model.audio_queries = published: queries hear all "
            f"{train.clips_per_batch} clips of the batch, so parts of it have another loss; take "
            "train.micro_batch_clips=null (train.checkpointing=true saves memory, too) or model.audio_queries=per_frame"
        )


def parse_config(tree: dict[str, Any]) -> Config:
    """Validate a whole tree. Raises `BadInput` as `load_config` does."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise BadInput.listing("the config is not valid:", [_explain(e) for e in error.errors()]) from None


def show_config(config: Config) -> str:
    """The whole tree as YAML, as it is saved with a run."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def explain_config(config: Section, indent: str = "") -> str:
    """The same tree for people: the description of every setting is a comment above it."""
    lines = []
    for key, value in config.model_dump(mode="json").items():
        section, description = getattr(config, key), type(config).model_fields[key].description
        lines.append(f"{indent}# {description}\n" if description else "")
        if isinstance(section, Section):
            lines += [f"{indent}{key}:\n", explain_config(section, indent + "  ")]
        else:
            lines.append(textwrap.indent(yaml.safe_dump({key: value}, sort_keys=False), indent))
    return "".join(lines)


def _apply(tree: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise BadInput(f"--set {override!r}: write it as section.key=value, for example train.lr=0.0003")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadInput(f"--set {override!r}: the value is not valid YAML ({error})") from None
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise BadInput(f"--set {override!r}: {key} is a value, not a section")
    tree[keys[-1]] = value


def _explain(error: Any) -> str:
    path = [str(p) for p in error["loc"]]
    name = ".".join(path) or "the config"
    if error["type"] != "extra_forbidden":
        return f"{name} = {error['input']!r}: {error['msg']}"
    section: Any = Config
    for key in path[:-1]:
        section = section.model_fields[key].annotation
    known = f"{'.'.join(path[:-1]) or 'the config'} has {', '.join(section.model_fields)}"
    names = list(setting_names(Config))
    elsewhere = [n for n in names if n.endswith(f".{path[-1]}")]  # right but for its section
    meant = f"; did you mean {elsewhere[0]}?" if elsewhere else did_you_mean(name, names)
    return f"{name}: no such key; {known}{meant}"


def setting_names(section: type[Section], prefix: str = "") -> Iterator[str]:
    """Full names of all settings and sections within a section."""
    for key, field in section.model_fields.items():
        yield prefix + key
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from setting_names(field.annotation, f"{prefix}{key}.")

"""What `combo compare` compares: the recipe with each combination of some caches and settings."""

import itertools
import re
from collections import Counter
from dataclasses import dataclass

from ...errors import BadInput
from ..common.choices import SOUNDS, Sound
from ..config.tree import Config, setting_names

CACHES = ("proposals", "audio")
SECTIONS = ("model", "loss", "augment", "train")  # where short names are looked up; precompute is settled by the caches
RECIPE = "recipe"  # the variant that changes nothing


@dataclass(frozen=True)
class Variant:
    """One row of the table: a name, the caches it reads, and what it sets as `section.key=value`."""

    name: str
    proposals: str
    audio: str
    overrides: tuple[str, ...]

    @property
    def folder(self) -> str:
        """Its name as that of a folder."""
        return re.sub(r"[^\w.=,+-]+", "-", self.name)


def plan_variants(
    overs: list[str], proposals: str | None, audio: str | None, *, one_by_one: bool = False
) -> list[Variant]:
    """The variants that `KEY=VALUE,VALUE,...` texts span.

    KEY is proposals, audio, any section.key, or a key's own name. VALUE+KEY=VALUE+... sets more along with a value, as
    a backbone needs its own weights; variants are named without it. Several texts span every combination of their
    values; with `one_by_one`, the recipe itself and then each value alone.
    proposals, audio: the caches of variants that name none.
    Raises `BadInput` for texts that cannot be understood, unknown keys, and variants that cannot be told apart.
    """
    choices = [_parse(over) for over in overs]
    twice = [key for key, count in Counter(full_key(key) for key, _ in choices).items() if count > 1]
    if twice:
        raise BadInput(f"--over {twice[0]} is given twice; list all its values in one")
    pairs = [[(key, value) for value in values] for key, values in choices]
    combinations = [(), *((pair,) for pair in itertools.chain(*pairs))] if one_by_one else itertools.product(*pairs)
    variants = [_variant(combination, proposals, audio) for combination in combinations]
    same = [name for name, count in Counter(v.folder for v in variants).items() if count > 1]
    if same:
        raise BadInput(f"--over: two variants would be called {same[0]!r}; name each value once")
    return variants


def parse_seeds(text: str) -> list[int]:
    """`0,1,2` as numbers. Raises `BadInput` for anything else, and for a seed that is named twice."""
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise BadInput(f"--seeds {text!r}: write numbers with commas, for example 0,1,2")
    seeds = [int(seed) for seed in text.split(",")]
    if len(set(seeds)) < len(seeds):
        raise BadInput(f"--seeds {text!r}: a seed is named twice")
    return seeds


def parse_sounds(text: str) -> list[Sound]:
    """`right,swapped` as names. Raises `BadInput` for anything else, and for a sound that is named twice."""
    sounds = text.split(",")
    known: dict[str, Sound] = dict(zip(map(str, SOUNDS), SOUNDS, strict=True))
    if not set(sounds) <= set(known) or len(set(sounds)) < len(sounds):
        raise BadInput(f"--sounds {text!r}: write {', '.join(known)}, each at most once, with commas between")
    return [known[sound] for sound in sounds]


def full_key(key: str) -> str:
    """A key's own name with its section in front; `proposals`, `audio` and full keys as they are.

    Raises `BadInput` for names that no section or several have, and for keys that cannot be compared over.
    """
    if key not in CACHES and "." not in key:
        sections = [name for name in SECTIONS if f"{name}.{key}" in setting_names(Config)]
        if len(sections) != 1:
            found = f"is in {', '.join(sections)}; write section.{key}" if sections else "is no setting"
            raise BadInput(f"--over {key}: {found}; write proposals, audio or a key of {', '.join(SECTIONS)}")
        key = f"{sections[0]}.{key}"
    if key == "train.seed":
        raise BadInput("--over seed: every variant is trained with all of --seeds")
    if key.startswith("precompute."):
        raise BadInput(f"--over {key}: training reads finished caches; make one for each value, then --over proposals=")
    return key


def _parse(over: str) -> tuple[str, list[str]]:
    key, equals, text = over.partition("=")
    values = re.split(r",(?![^\[]*\])", text)  # not at commas inside of brackets
    if not key or not equals or not all(value.strip() for value in values):
        raise BadInput(f"--over {over!r}: write KEY=VALUE,VALUE, for example fusion=none,bilateral")
    return key.strip(), [value.strip() for value in values]


def _variant(combination: tuple[tuple[str, str], ...], proposals: str | None, audio: str | None) -> Variant:
    parts = [(key, *re.split(r"\+(?=[\w.]+=)", value)) for key, value in combination]
    name = ",".join(f"{key}={value}" for key, value, *_ in parts) or RECIPE
    chosen = [(key, value) for key, value, *_ in parts]
    chosen += [(key, value) for _, _, *along in parts for key, _, value in (text.partition("=") for text in along)]
    settings = [(full_key(key), value) for key, value in chosen]
    twice = [key for key, count in Counter(key for key, _ in settings).items() if count > 1]
    if twice:
        raise BadInput(f"--over: {name} sets {twice[0]} twice")
    caches: dict[str, str] = {}
    for kind, default in (("proposals", proposals), ("audio", audio)):
        cache = dict(settings).get(kind, default)
        if cache is None:
            raise BadInput(f"name the {kind} cache with --{kind}, or several with --over {kind}=")
        caches[kind] = cache
    overrides = tuple(f"{key}={value}" for key, value in settings if key not in CACHES)
    return Variant(name, **caches, overrides=overrides)

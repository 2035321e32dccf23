"""Write docs/settings.md from the config classes: every setting with its type, default and description.

python docs/assets/settings.py
"""

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from combo_avs.base import Section
from combo_avs.model.audio import ENCODERS
from combo_avs.model.builders import Entry
from combo_avs.model.foundation import GENERATORS
from combo_avs.pipeline.config.tree import Config

PAGE = Path(__file__).parents[1] / "settings.md"
HEAD = """# Settings

Every setting is `--set section.key=value`, and unknown keys are refused. `combo train --preset NAME --show-config`
prints all of them with the values of a preset. The defaults are those of S4 with ResNet-50, as published.

This page is written by `python docs/assets/settings.py` from the classes that validate the settings.
"""
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def page() -> str:
    """The whole page, as Markdown."""
    parts = [HEAD, *_sections("", Config)]
    for kind, entries in (("generator", GENERATORS), ("encoder", ENCODERS)):
        for names, section in _by_class(entries):
            title = f"## precompute.{kind} of {', '.join(names)}"
            parts.append("\n\n".join([title, _table(section) or "No settings."]) + "\n")
    return "\n".join(parts)


def _sections(prefix: str, section: type[Section]) -> Iterator[str]:
    """Headings and tables of the sections within a section, and of those within them."""
    for key, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Section):
            yield "\n\n".join([f"## {prefix}{key}", inspect.cleandoc(inner.__doc__ or ""), _table(inner)]) + "\n"
            yield from _sections(f"{prefix}{key}.", inner)


def _by_class(entries: Mapping[str, Entry[Any]]) -> Iterator[tuple[list[str], type[Section]]]:
    """The config classes of a table of builders, each with the names that it belongs to."""
    for section in dict.fromkeys(entry.config for entry in entries.values()):
        yield [name for name, entry in entries.items() if entry.config is section], section


def _table(section: type[Section]) -> str:
    schema = section.model_json_schema()
    rows = [
        f"| `{key}` | {_type(field)} | `{_value(field.get('default'))}` | {_cell(field.get('description', ''))} |"
        for key, field in schema.get("properties", {}).items()
        if "$ref" not in field
    ]
    return "\n".join(["| setting | type | default | |", "|---|---|---|---|", *rows]) if rows else ""


def _type(schema: dict[str, Any]) -> str:
    """A JSON schema in words: `integer ≥ 1 or null`."""
    if "anyOf" in schema:
        return " or ".join(_type(choice) for choice in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema["type"] == "array":
        return "list" + (f" of {_type(schema['items'])}" if "items" in schema else "")
    bounds = [f"{sign} {_value(schema[key])}" for key, sign in BOUNDS.items() if key in schema]
    bounds += [f"a multiple of {schema['multipleOf']}"] if "multipleOf" in schema else []
    name = {"string": "text", "object": "mapping"}.get(schema["type"]) or schema["type"]
    return f"{name} {', '.join(bounds)}".strip()


def _value(value: Any) -> str:
    """As it is written behind `--set key=`."""
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page())

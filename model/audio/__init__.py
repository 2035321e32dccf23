"""Audio encoders: frozen models that turn each second of sound into one vector.

`ENCODERS` names ours; a new one is one more line there, and `AudioEncoderContract` in the tests. Other packages add
theirs by an entry point of the group `combo_avs.audio_encoders`.
"""

from collections.abc import Mapping
from typing import Any

from ...base import Section
from ..builders import Entry, Kind, build_named, known_names
from .ast import AstConfig, build_ast
from .interface import AudioEncoder
from .logmel import LogMelEncoder
from .vggish import VggishConfig, build_vggish

KIND = Kind("audio encoder", "combo_avs.audio_encoders", AudioEncoder)
ENCODERS: dict[str, Entry[AudioEncoder]] = {
    "logmel": Entry(Section, lambda _: LogMelEncoder()),
    "vggish": Entry(VggishConfig, build_vggish),
    "ast": Entry(AstConfig, build_ast),
}


def encoder(name: str, parameters: Mapping[str, Any]) -> AudioEncoder:
    """Build the encoder called `name`, ours or a plug-in's, on the CPU. Raises as `build_named`."""
    return build_named(KIND, ENCODERS, name, parameters)


def encoder_names() -> list[str]:
    """All names that `encoder` accepts, those of plug-ins as "name (package)"."""
    return known_names(KIND, ENCODERS)

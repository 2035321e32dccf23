"""Audio encoders: frozen models that turn each second of sound into one vector.

`ENCODERS` names ours; a new one is one more line there, and `AudioEncoderContract` in the tests. Other packages add
theirs by an entry point of the group `combo_avs.audio_encoders`.
"""

from collections.abc import Mapping
from typing import Any

from ..builders import Entry, Kind, build_named, known_names
from . import ast, logmel, vggish
from .interface import AudioEncoder

KIND = Kind("audio encoder", "combo_avs.audio_encoders", AudioEncoder)
ENCODERS: dict[str, Entry] = {
    "logmel": Entry(logmel.LogMelConfig, logmel.build),
    "vggish": Entry(vggish.VggishConfig, vggish.build),
    "ast": Entry(ast.AstConfig, ast.build),
}


def encoder(name: str, parameters: Mapping[str, Any]) -> AudioEncoder:
    """Build the encoder called `name`, ours or a plug-in's, on the CPU. Raises as `build_named` does."""
    return build_named(KIND, ENCODERS, name, parameters)


def encoder_names() -> list[str]:
    """All names that `encoder` accepts, those of plug-ins as "name (package)"."""
    return known_names(KIND, ENCODERS)

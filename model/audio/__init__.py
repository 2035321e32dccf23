"""Audio encoders: frozen models that turn each second of sound into one vector.

`ENCODERS` names them all; a new one is one more line there, and `AudioEncoderContract` in the tests.
"""

from collections.abc import Mapping
from typing import Any

from ..builders import Entry, build_named
from . import logmel, vggish
from .border import AudioEncoder

ENCODERS: dict[str, Entry] = {
    "logmel": Entry(logmel.LogMelConfig, logmel.build),
    "vggish": Entry(vggish.VggishConfig, vggish.build),
}


def encoder(name: str, parameters: Mapping[str, Any]) -> AudioEncoder:
    """Build the encoder called `name`, on the CPU. BadInput for an unknown name or a wrong parameter."""
    return build_named("audio encoder", ENCODERS, name, parameters)

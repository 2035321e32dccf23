"""Proposal generators: frozen models that find all objects of a frame, whatever their class.

`GENERATORS` names them all; a new one is one more line there, and `ProposalGeneratorContract` in the tests.
"""

from collections.abc import Mapping
from typing import Any

from ..builders import Entry, build_named
from . import felzenszwalb, none
from .border import ProposalGenerator

GENERATORS: dict[str, Entry] = {
    "felzenszwalb": Entry(felzenszwalb.FelzenszwalbConfig, felzenszwalb.build),
    "none": Entry(none.NoneConfig, none.build),
}


def generator(name: str, parameters: Mapping[str, Any]) -> ProposalGenerator:
    """Build the generator called `name`, on the CPU. BadInput for an unknown name or a wrong parameter."""
    return build_named("proposal generator", GENERATORS, name, parameters)

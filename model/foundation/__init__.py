"""Proposal generators: frozen models that find all objects of a frame, whatever their class.

`GENERATORS` names ours; a new one is one more line there, and `ProposalGeneratorContract` in the tests. Other packages
add theirs by an entry point of the group `combo_avs.generators`.
"""

import functools
from collections.abc import Mapping
from typing import Any

from ..builders import Entry, Kind, build_named, known_names
from . import felzenszwalb, mobile_sam, none, sam, sam2
from .interface import ProposalGenerator
from .semantic_sam import generator as semantic_sam

KIND = Kind("proposal generator", "combo_avs.generators", ProposalGenerator)
GENERATORS: dict[str, Entry] = {
    **{f"sam-vit-{v}": Entry(sam.SamConfig, functools.partial(sam.build, v)) for v in "blh"},
    "mobile-sam": Entry(sam.SamConfig, mobile_sam.build),
    **{n: Entry(semantic_sam.SemanticSamConfig, functools.partial(semantic_sam.build, n)) for n in semantic_sam.SIZES},
    **{n: Entry(sam2.Sam2Config, functools.partial(sam2.build, n)) for n in sam2.SIZES},
    "felzenszwalb": Entry(felzenszwalb.FelzenszwalbConfig, felzenszwalb.build),
    "none": Entry(none.NoneConfig, none.build),
}


def generator(name: str, parameters: Mapping[str, Any]) -> ProposalGenerator:
    """Build the generator called `name`, ours or a plug-in's, on the CPU. Raises as `build_named` does."""
    return build_named(KIND, GENERATORS, name, parameters)


def generator_names() -> list[str]:
    """All names that `generator` accepts, those of plug-ins as "name (package)"."""
    return known_names(KIND, GENERATORS)

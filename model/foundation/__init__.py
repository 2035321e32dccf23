"""Proposal generators: frozen models that find all objects of a frame, whatever their class.

`GENERATORS` names ours; a new one is one more line there, and `ProposalGeneratorContract` in the tests. Other packages
add theirs by an entry point of the group `combo_avs.generators`.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from ...base import Section
from ..builders import Entry, Kind, build_named, find_entry, known_names
from . import sam, sam2
from .felzenszwalb import Felzenszwalb, FelzenszwalbConfig
from .interface import ProposalGenerator
from .mobile_sam import build_mobile_sam
from .none import NoProposals
from .semantic_sam import generator as semantic_sam

KIND = Kind("proposal generator", "combo_avs.generators", ProposalGenerator)
EXACT = {"precision": "fp32", "points_per_side": 32}  # of all that segment everything
GENERATORS: dict[str, Entry[ProposalGenerator]] = {
    **{name: Entry(sam.SamConfig, partial(sam.build_sam, name), EXACT) for name in sam.NAMES},
    "mobile-sam": Entry(sam.SamConfig, build_mobile_sam, EXACT),
    **{
        name: Entry(semantic_sam.SemanticSamConfig, partial(semantic_sam.build_semantic_sam, name), EXACT)
        for name in semantic_sam.SIZES
    },
    **{name: Entry(sam2.Sam2Config, partial(sam2.build_sam2, name), EXACT) for name in sam2.SIZES},
    "felzenszwalb": Entry(FelzenszwalbConfig, Felzenszwalb),
    "none": Entry(Section, lambda _: NoProposals()),
}


def generator(name: str, parameters: Mapping[str, Any]) -> ProposalGenerator:
    """Build the generator called `name`, ours or a plug-in's, on the CPU. Raises as `build_named`."""
    return build_named(KIND, GENERATORS, name, parameters)


def exact_parameters(name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What would have to be set so that the generator called `name` is exact; empty if it is, as it declares."""
    exact = find_entry(KIND, GENERATORS, name).exact
    return {key: value for key, value in exact.items() if parameters.get(key, value) != value}


def generator_names() -> list[str]:
    """All names that `generator` accepts, those of plug-ins as "name (package)"."""
    return known_names(KIND, GENERATORS)

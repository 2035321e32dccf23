"""Ways of computing M_J and M_F, by name: what papers print, and what is comparable between them.

Plain data, light to import. `metrics` computes them; docs/metrics.md has the formulas and who prints which.
"""

import re
from dataclasses import dataclass
from typing import Literal

from ...errors import BadInput

Classes = Literal["all", "present", "no-background", "no-last-class"]
PUBLISHED = "published"


@dataclass(frozen=True)
class BinaryProtocol:
    """How frames with one kind of object (S4, MS3) become M_J and M_F.

    clips_per_call: J is averaged, and the threshold of F chosen, over the frames of N clips in the order of
    the split; the scores are the plain mean over these calls, the last of which may be smaller. None: all clips.
    empty: J of a frame without any object in the truth: the share of pixels predicted background, or
    ("strict") 1 if no pixel is predicted object, else 0. F leaves such frames out.
    threshold: of F: the best of 255 for each call, or one half always, as for J.
    """

    title: str
    clips_per_call: int | None = 1
    empty: Literal["background", "strict"] = "background"
    threshold: Literal["best", "half"] = "best"


@dataclass(frozen=True)
class SemanticProtocol:
    """How frames with classes (AVSS) become M_J and M_F.

    pixels: J and F of a class are its means over the frames where it is present or predicted, or follow from its
    pixels of the whole data set.
    pad_to: shorter clips are padded to N frames, which are background in truth and prediction; 0: no padding.
    J_over, F_over: the classes whose mean is M_J and M_F. Absent ones (neither present nor predicted) count 0,
    except in "present", which leaves them out.
    """

    title: str
    pixels: Literal["frame", "dataset"] = "frame"
    pad_to: int = 0
    J_over: Classes = "all"
    F_over: Classes = "all"


MetricProtocol = BinaryProtocol | SemanticProtocol


def avsbench(clips: int) -> BinaryProtocol:
    """AVSBench's evaluation at a loader batch of N clips."""
    return BinaryProtocol(f"AVSBench at {clips} {'clip' if clips == 1 else 'clips'} per call", clips_per_call=clips)


BINARY: dict[str, BinaryProtocol] = {
    PUBLISHED: BinaryProtocol("COMBO, and AVSBench at 1 clip per call"),
    "avsbench-bs2": avsbench(2),
    "avsbench-bs4": avsbench(4),
    "dataset-f": BinaryProtocol("one threshold of F for all frames of the data set", clips_per_call=None),
    "strict-empty": BinaryProtocol("as published, but J of a frame with empty truth is 1 or 0", empty="strict"),
    "hard": BinaryProtocol("F of the mask that J scores, over all frames", clips_per_call=None, threshold="half"),
}

SEMANTIC: dict[str, SemanticProtocol] = {
    PUBLISHED: SemanticProtocol("COMBO, by frame, all classes, absent ones 0"),
    "published-no-background": SemanticProtocol(
        "as published, without class 0", J_over="no-background", F_over="no-background"
    ),
    "published-no-last-class": SemanticProtocol(
        "what COMBO prints as noBg: without the last class, background included",
        J_over="no-last-class",
        F_over="no-last-class",
    ),
    "published-present": SemanticProtocol("as published, without absent classes", J_over="present", F_over="present"),
    "avsbench-padded": SemanticProtocol("AVSBench and AVSegFormer, by frame, clips padded to 10 frames", pad_to=10),
    "avsbench-padded-no-last-class": SemanticProtocol(
        "what AVSBench and AVSegFormer print as noBg: without the last class, background included, padded",
        pad_to=10,
        J_over="no-last-class",
        F_over="no-last-class",
    ),
    "dataset-confusion": SemanticProtocol(
        "CAVP style, pixels of the whole data set, absent classes 0 in J", pixels="dataset", F_over="present"
    ),
    "dataset-confusion-present": SemanticProtocol(
        "DDESeg style, pixels of the whole data set, without absent classes",
        pixels="dataset",
        J_over="present",
        F_over="present",
    ),
}

PROTOCOLS: dict[str, dict[str, MetricProtocol]] = {"binary": {**BINARY}, "semantic": {**SEMANTIC}}


def find_protocol(name: str, num_classes: int) -> MetricProtocol:
    """The protocol of that name for a set of K classes, background included; avsbench-bsN with any N.

    Raises `BadInput` with the names that fit when there is none.
    """
    binary = num_classes == 2
    fitting = PROTOCOLS["binary" if binary else "semantic"]
    if name in fitting:
        return fitting[name]
    any_batch = re.fullmatch(r"avsbench-bs([1-9][0-9]{0,5})", name)
    if any_batch and binary:
        return avsbench(int(any_batch[1]))
    known = any_batch or any(name in names for names in PROTOCOLS.values())
    wrong = f"protocol {name!r} does not fit {num_classes} classes" if known else f"there is no protocol {name!r}"
    allowed = ", ".join(fitting) + (", avsbench-bsN for any N clips per call" if binary else "")
    raise BadInput(f"{wrong}; for a set of {num_classes} classes there are {allowed}")


def full_name(name: str, protocol: MetricProtocol) -> str:
    """The name and meaning of a protocol, printed with every number."""
    return f"{name}: {protocol.title}"

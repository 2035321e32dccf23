"""What the paper prints for COMBO, and the sets that it was scored on. Plain data.

Yang et al., "Cooperation Does Matter: Exploring Multi-Order Bilateral Relations for Audio-Visual Segmentation",
CVPR 2024, arXiv 2312.06462: mIoU (M_J) and F-score (M_F) on the test splits, Maskiges of Semantic-SAM.
"""

from typing import NamedTuple


class Numbers(NamedTuple):
    """In percent; the paper prints one decimal."""

    M_J: float
    M_F: float


PAPER: dict[tuple[str, str], Numbers] = {
    ("s4", "r50"): Numbers(81.7, 90.1),
    ("s4", "pvt"): Numbers(84.7, 91.9),
    ("ms3", "r50"): Numbers(54.5, 66.6),
    ("ms3", "pvt"): Numbers(59.2, 71.2),
    ("avss", "r50"): Numbers(33.3, 37.3),
    ("avss", "pvt"): Numbers(42.1, 46.1),
}
TOLERANCE = 0.1  # points: twice what the paper's rounding can hide

# Clips per split in the CSV files that AVSBench was released with. The paper of AVSBench-semantic speaks of more.
CLIPS: dict[str, dict[str, int]] = {
    "s4": {"train": 3452, "val": 740, "test": 740},
    "ms3": {"train": 296, "val": 64, "test": 64},
    "avss": {"train": 8498, "val": 1304, "test": 1554},
}
CLASSES = {"s4": 2, "ms3": 2, "avss": 71}  # background counted

# How the released test settings fuse. The one of AVSS with ResNet-50 says none where its training settings say
# bilateral; which of them gave the printed numbers is not known.
FUSIONS: dict[tuple[str, str], tuple[str, ...]] = dict.fromkeys(PAPER, ("bilateral",))
FUSIONS["avss", "r50"] = ("none", "bilateral")

"""From class and mask logits to per-pixel scores and labels: inference of mask classification networks.

B frames, Q queries, K classes (class logits hold one entry more, "no object"), h w masks at stride 4,
H W frames.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

FRAMES_AT_ONCE = 8  # bounds the memory for masks at full size: 20 MB per frame at 100 queries and 224 x 224


@torch.no_grad()
def semantic_scores(logits_BQK: Tensor, masks_BQhw: Tensor, size: tuple[int, int]) -> Tensor:
    """Sum over queries of class probability times mask probability, at `size` = (H, W).

    logits_BQK: [B, Q, K + 1], the last entry is "no object", which takes its share of the softmax and is then
    dropped. masks_BQhw: [B, Q, ceil(H/4), ceil(W/4)] logits, enlarged bilinearly before the sigmoid.
    Returns float32 [B, K, H, W] on the same device; 0..Q, not normalised over classes.
    Raises ValueError if `size` is not that of the masks.
    """
    h, w = masks_BQhw.shape[-2:]
    height, width = size
    if (h, w) != (-(-height // 4), -(-width // 4)):
        raise ValueError(f"masks of {h} x {w} at stride 4 do not fit frames of {height} x {width}")
    parts = []
    for logits_bQK, masks_bQhw in zip(logits_BQK.split(FRAMES_AT_ONCE), masks_BQhw.split(FRAMES_AT_ONCE), strict=True):
        classes_bQK = logits_bQK.float().softmax(dim=-1)[..., :-1]
        enlarged = F.interpolate(masks_bQhw.float(), (4 * h, 4 * w), mode="bilinear", align_corners=False)
        masks_bQHW = enlarged[..., :height, :width].sigmoid()
        parts.append(torch.einsum("bqk,bqhw->bkhw", classes_bQK, masks_bQHW))
    return torch.cat(parts)


def label_map(scores_BKHW: Tensor) -> Tensor:
    """The class with the highest score, the lower one of equals: [B, K, H, W] to uint8 [B, H, W]."""
    return scores_BKHW.argmax(dim=1).to(torch.uint8)


def foreground_score(scores_BKHW: Tensor) -> Tensor:
    """Object minus background, what the binary metrics read: [B, 2, H, W] to [B, H, W].

    Positive means object. Its sigmoid is the softmax over both scores, which published evaluation thresholds.
    """
    if scores_BKHW.shape[1] != 2:
        raise ValueError(f"a foreground score needs background and object, not {scores_BKHW.shape[1]} classes")
    return scores_BKHW[:, 1] - scores_BKHW[:, 0]

"""Weights under other key names: published COMBO checkpoints and ImageNet backbones.

`RULES` maps published keys to ours, and back; a key without a rule is an error, never dropped. Two parts of a
published checkpoint do not belong to the network: VGGish and the class weights of the loss.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ...errors import BadInput
from ..combo import COMBO
from ..config import ModelConfig
from ..pixel_decoder import MASK2FORMER_KEYS
from .network_file import network_config
from .state import Rule, State, differences, first_that_fits, fitting, load_weights, rename_keys, under

VGGISH, EMPTY_WEIGHT = "audio_backbone.", "criterion.empty_weight"


def _stage_rules(stage: int) -> list[Rule]:
    """Backbone stage 1..4: ResNet as detectron2 and as timm name it, then PVT-v2 as released and in timm."""
    downsample = "patch_embed" if stage == 1 else f"stages_{stage - 1}.downsample"
    return [
        (f"res{stage + 1}.#.conv#.norm.*", f"layer{stage}.#.bn#.*"),
        (f"res{stage + 1}.#.conv#.*", f"layer{stage}.#.conv#.*"),
        (f"res{stage + 1}.#.shortcut.norm.*", f"layer{stage}.#.downsample.1.*"),
        (f"res{stage + 1}.#.shortcut.*", f"layer{stage}.#.downsample.0.*"),
        (f"patch_embed{stage}.*", f"{downsample}.*"),
        (f"block{stage}.#.mlp.dwconv.dwconv.*", f"stages_{stage - 1}.blocks.#.mlp.dwconv.*"),
        (f"block{stage}.#.*", f"stages_{stage - 1}.blocks.#.*"),
        (f"norm{stage}.*", f"stages_{stage - 1}.norm.*"),
    ]


BACKBONE_RULES: list[Rule] = [
    ("stem.conv1.norm.*", "bn1.*"),
    ("stem.conv1.*", "conv1.*"),
    *(rule for stage in (1, 2, 3, 4) for rule in _stage_rules(stage)),
]
FUSION_RULES: list[Rule] = [
    ("level_embed.*", "level_embed.*"),
    ("audio_pos.*", "audio_pos.*"),
    ("b_attn.attn_list.0.v_proj.*", "v_proj.*"),
    ("b_attn.attn_list.0.a_proj.*", "a_proj.*"),
    ("b_attn.attn_list.0.values_v_proj.*", "values_v_proj.*"),
    ("b_attn.attn_list.0.values_a_proj.*", "values_a_proj.*"),
    ("b_attn.attn_list.0.out_v_proj.*", "out_v_proj.*"),
    ("b_attn.attn_list.0.out_a_proj.*", "out_a_proj.*"),
    ("b_attn.layer_norm_v_list.0.*", "norm_v.*"),
    ("b_attn.layer_norm_a_list.0.*", "norm_a.*"),
    ("b_attn.gamma_v_list.0", "gamma_v"),
    ("b_attn.gamma_a", "gamma_a"),
    ("a2i_attn.attn_list.0.q_proj.*", "query_proj.*"),
    ("a2i_attn.attn_list.0.k_proj.*", "key_proj.*"),
    ("a2i_attn.attn_list.0.v_proj.*", "value_proj.*"),
    ("a2i_attn.attn_list.0.out_proj.*", "out_proj.*"),
    ("a2i_attn.layer_norm_q_1_list.0.*", "query_norm.*"),
    ("a2i_attn.layer_norm_k_1_list.0.*", "key_norm.*"),
    ("a2i_attn.gamma_list.0", "gamma"),
]
DECODER_RULES: list[Rule] = [
    ("transformer_cross_attention_layers.#.multihead_attn.*", "layers.#.cross_attention.*"),
    ("transformer_cross_attention_layers.#.norm.*", "layers.#.cross_norm.*"),
    ("transformer_self_attention_layers.#.self_attn.*", "layers.#.self_attention.*"),
    ("transformer_self_attention_layers.#.norm.*", "layers.#.self_norm.*"),
    ("transformer_ffn_layers.#.norm.*", "layers.#.ffn_norm.*"),
    ("transformer_ffn_layers.#.linear#.*", "layers.#.linear#.*"),
    *((f"mask_embed.layers.{i}.*", f"mask_embed.{2 * i}.*") for i in range(3)),
    *((name, name) for name in ("query_feat.*", "query_embed.*", "level_embed.*")),
    *((name, name) for name in ("decoder_norm.*", "class_embed.*")),
]
RULES: list[Rule] = [
    *under("backbone.", "siam_encoder.image_backbone.", BACKBONE_RULES),
    *under("pre_sam_backbone.", "siam_encoder.maskige_backbone.", BACKBONE_RULES),
    ("scale_factor_module.*", "siam_encoder.gates.*"),
    *under("sem_seg_head.pixel_decoder.", "pixel_decoder.", MASK2FORMER_KEYS),
    *under("sem_seg_head.fusion_module.", "fusion.", FUSION_RULES),
    ("sem_seg_head.audio_transformation.embeddings.*", "audio_mlp.*"),
    *under("sem_seg_head.predictor.", "decoder.", DECODER_RULES),
]
IMAGENET_RULES: list[Rule] = [*BACKBONE_RULES, ("stages.#.*", "stages_#.*"), ("*", "*")]


class Published(NamedTuple):
    """A published checkpoint, taken apart."""

    network: dict[str, Tensor]  # named as in COMBO.state_dict()
    vggish: dict[str, Tensor]  # features.*, embeddings.*; empty if the file holds none
    empty_weight: Tensor | None  # [K + 1], class weights of the loss


def known_keys(state: State, source: str | Path) -> dict[str, Tensor]:
    """The state; without what wrappers of networks put before keys, if only then all are of a published checkpoint."""
    known = first_that_fits(state, source, lambda keys: None if _taken_apart(keys)[1] else keys)
    return dict(state if known is None else known)


def from_published(state: State) -> Published:
    """Rename the keys of a published checkpoint; tensors are passed on as they are.

    Raises `BadInput` listing every key that is not known. A checkpoint that holds trained fusion weights
    but was meant to run without them (the published test settings of R50 on AVSS) loads into
    fusion="bilateral"; for fusion="none" take out the keys of `network` that start with "fusion." except
    level_embed and audio_pos.
    """
    published, unknown = _taken_apart(state)
    if unknown:
        raise BadInput.listing("these keys are not of a published COMBO checkpoint:", unknown)
    return published


def published_config(state: State, source: str = "the checkpoint") -> tuple[ModelConfig, int]:
    """The network that a published checkpoint is of, and its number of classes K, from key names and shapes.

    audio_queries is "published", the layout that such weights were trained in; `queries` is "dim" or else "add",
    whose tensors are shaped as those of "all" and "none". Raises `BadInput` naming `source` and listing every key
    that is unknown, missing, too many, of another shape, or not finite.
    """
    published, unknown = _taken_apart(state)
    config, num_classes = network_config(published.network, source)
    config = config.model_copy(update={"audio_queries": "published"})
    with torch.device("meta"):
        wanted = COMBO(config, num_classes).state_dict()
    problems = [f"unexpected: {key}" for key in unknown]
    problems += differences(to_published(wanted), to_published(published.network))
    if published.empty_weight is not None:
        problems += differences({EMPTY_WEIGHT: torch.empty(num_classes + 1)}, {EMPTY_WEIGHT: published.empty_weight})
    if problems:
        headline = f"{source} is not a published COMBO checkpoint; what differs from the nearest one:"
        raise BadInput.listing(headline, problems)
    return config, num_classes


def _taken_apart(state: State) -> tuple[Published, list[str]]:
    """The known parts, and the keys that are not known."""
    vggish = {key.removeprefix(VGGISH): tensor for key, tensor in state.items() if key.startswith(VGGISH)}
    others = {k: tensor for k, tensor in state.items() if k != EMPTY_WEIGHT and not k.startswith(VGGISH)}
    network, unknown = rename_keys(others, RULES)
    return Published(network, vggish, state.get(EMPTY_WEIGHT)), unknown


def to_published(network: State, vggish: State | None = None, empty_weight: Tensor | None = None) -> dict[str, Tensor]:
    """The inverse of `from_published`. Raises `BadInput` listing every key that no COMBO network has."""
    backwards = [(ours, published) for published, ours in RULES]
    state, unknown = rename_keys(network, backwards)
    if unknown:
        raise BadInput.listing("these keys are not of a COMBO network:", unknown)
    state |= {VGGISH + key: tensor for key, tensor in (vggish or {}).items()}
    return state if empty_weight is None else state | {EMPTY_WEIGHT: empty_weight}


def load_backbone(model: COMBO, state: State, source: str = "the backbone's state dict") -> None:
    """Fill both of the network's backbones from one ImageNet classifier.

    Key names may be torchvision's, timm's or detectron2's for ResNet-50, the official release's or timm's for
    PVT-v2. The classifier (fc, head) and batch counters have no place in the network and are left out. Raises
    `BadInput` listing all other differences.

    The network reads RGB, normalised as torchvision does, and strides in its 3x3 convolutions: ResNets converted
    from MSRA's, which expect BGR and other strides, may load but start from features that mean less.
    """

    def renamed_keys(keys: State) -> dict[str, Tensor]:
        kept = {k: v for k, v in keys.items() if not k.startswith(("fc.", "stem.fc.", "head."))}
        kept = {k: v for k, v in kept.items() if not k.endswith(".num_batches_tracked")}
        return rename_keys(kept, IMAGENET_RULES)[0]

    renamed = fitting(model.siam_encoder.image_backbone.state_dict(), state, source, renamed_keys)
    load_weights(model.siam_encoder.image_backbone, renamed, source)
    if model.siam_encoder.maskige_backbone is not None:
        load_weights(model.siam_encoder.maskige_backbone, renamed, source)

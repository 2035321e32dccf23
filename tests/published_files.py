"""Published files made by rule: weights in the released format, Maskiges as released, and scores computed by hand."""

from pathlib import Path

import numpy as np
import soundfile
import torch
from golden import rule_parameter
from PIL import Image

from combo_avs.data.audio import fit_seconds, log_mel_examples
from combo_avs.data.masks import fold_masks
from combo_avs.data.palette import PALETTE
from combo_avs.data.sources.synthetic.source import SyntheticSource
from combo_avs.model.audio.vggish import VGGish
from combo_avs.model.combo import COMBO
from combo_avs.model.config import ModelConfig
from combo_avs.model.weights.published_keys import to_published

SALT = "b"  # one that gives masks of some size: with others, most pixels are background


def write_maskiges(folder: Path, source: SyntheticSource) -> None:
    """Palette PNGs named as released, of rectangles."""
    for number, clip in enumerate(source.clips):
        rng = np.random.default_rng(number)
        for k in range(1, clip.num_frames + 1):
            masks = np.zeros((6, *source.size), bool)
            for mask, (top, left) in zip(masks, rng.integers(0, 180, (6, 2)), strict=True):
                mask[top : top + rng.integers(10, 120), left : left + rng.integers(10, 120)] = True
            picture = Image.fromarray(fold_masks(masks))
            picture.putpalette(PALETTE[:150].tobytes())
            path = folder / clip.id / f"{clip.id}.mp4_{k}_mask_color.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)


def maskiges_of(tree: Path) -> Path:
    return tree / "AVSBench_object" / "Multi-sources" / "ms3_data" / "pre_SAM_mask"


def ruled(names: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: torch.from_numpy(rule_parameter(k, tuple(v.shape), SALT)) for k, v in names.items()}


def published_state(config: ModelConfig, classes: int = 2) -> dict[str, torch.Tensor]:
    """Rule-made weights of a whole network in the released format, but for VGGish."""
    with torch.device("meta"):
        names = to_published(COMBO(config, classes).state_dict())
    empty_weight = torch.ones(classes + 1)
    empty_weight[-1] = 0.1
    return {**ruled(names), "criterion.empty_weight": empty_weight}


def scored_by_hand(tree: Path, checkpoint: Path, config: ModelConfig) -> tuple[float, float]:
    """M_J and M_F from the files themselves: no store, no cache, the formulas written out again."""
    state = torch.load(checkpoint, weights_only=True)["model"]
    vggish, model = VGGish(), COMBO(config.model_copy(update={"audio_queries": "published"}), 2)
    vggish.load_state_dict({k.removeprefix("audio_backbone."): v for k, v in state.items() if "audio_backbone" in k})
    ours = model.state_dict()
    theirs = to_published(ours)
    back = {id(tensor): key for key, tensor in ours.items()}
    model.load_state_dict({back[id(tensor)]: state[key] for key, tensor in theirs.items()})
    data = tree / "AVSBench_object" / "Multi-sources" / "ms3_data"
    scores = []
    for folder in sorted((data / "gt_masks" / "test").iterdir()):
        name = folder.name
        frames = pictures(data / "visual_frames" / name, f"{name}.mp4_{{}}.png")
        maskiges = pictures(data / "pre_SAM_mask" / name, f"{name}.mp4_{{}}_mask_color.png")
        truth = np.stack([np.asarray(Image.open(folder / f"{name}_{k}.png")) > 127 for k in range(1, 6)])
        sound, _ = soundfile.read(data / "audio_wav" / "test" / f"{name}.wav")
        log_mel, _ = fit_seconds(log_mel_examples(sound.mean(axis=1)), 5, "repeat_last")
        with torch.inference_mode():
            logits, masks = (x[-1] for x in model.eval()(frames, maskiges, vggish.eval()(torch.from_numpy(log_mel))))
            masks = torch.nn.functional.interpolate(masks, scale_factor=4, mode="bilinear").sigmoid()
            mixed = torch.einsum("bqk,bqhw->bkhw", logits.softmax(-1)[..., :2], masks).softmax(1)[:, 1]
        scores.append(binary_scores(mixed.numpy(), truth))
    j, f = np.mean(scores, axis=0)
    return float(j), float(f)


def pictures(folder: Path, name: str) -> torch.Tensor:
    images = [np.asarray(Image.open(folder / name.format(k)).convert("RGB")) for k in range(1, 6)]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def binary_scores(p: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """J and F of one clip; p: probability of object [T, H, W]."""
    js, curves = [], []
    for frame, gt in zip(p, truth, strict=True):
        mask = frame > 0.5
        js.append((mask & gt).sum() / (mask | gt).sum() if gt.any() else (~mask).mean())
        if gt.any():
            hits = np.array([((frame >= t) & gt).sum() for t in np.linspace(0, 1, 255, dtype=np.float32)])
            found = np.array([(frame >= t).sum() for t in np.linspace(0, 1, 255, dtype=np.float32)])
            precision, recall = hits / np.maximum(found, 1), hits / gt.sum()
            curves.append(1.3 * precision * recall / np.maximum(0.3 * precision + recall, 1e-20))
    return float(np.mean(js)), float(np.max(np.mean(curves, axis=0))) if curves else 0.0

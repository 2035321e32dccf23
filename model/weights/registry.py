"""The weight files of others that this package can use, and the folder where it looks for them."""

import os
from dataclasses import dataclass
from pathlib import Path

from ...errors import BadInput


@dataclass(frozen=True)
class WeightFile:
    """One published file, by the name that commands call it."""

    name: str
    file_name: str
    url: str
    licence: str
    use: str
    megabytes: int  # about, for people
    size: int | None = None  # bytes, where known exactly
    sha256: str | None = None  # hex digits, or the first ones of them; None: none published

    @property
    def summary(self) -> str:
        """File, size and address, such as "mobile_sam.pt (41 MB) from https://..."."""
        return f"{self.file_name} ({self.megabytes} MB) from {self.url}"


# Bytes and sha256 where they are published; of vggish-pca only the first digits, in its file name.
_SIZES = {
    "sam-vit-b": 375_042_383,
    "sam-vit-l": 1_249_524_607,
    "sam-vit-h": 2_564_550_879,
    "mobile-sam": 40_728_226,
    "resnet50": 102_530_333,
}
_SHA256 = {
    "sam-vit-b": "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    "sam-vit-l": "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    "sam-vit-h": "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    "mobile-sam": "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
    "vggish": "10086976245803799d9194e9a73d9b6c1549c71d1b80106f5cade5608a561f4b",
    "vggish-pca": "970ea276",
    "resnet50": "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
}


_USES = {
    "vggish": "audio",
    "vggish-pca": "audio of AudioSet's release; COMBO leaves it out",
    "ast": "audio",
    "resnet50": "backbone r50 (torchvision, ImageNet)",
    "resnet50-detectron2": "backbone r50 (torchvision's in detectron2's format)",
    "pvt-v2-b5": "backbone pvt-v2-b5 (ImageNet)",
}


def _file(name: str, url: str, megabytes: int, licence: str = "Apache-2.0", file_name: str | None = None) -> WeightFile:
    file_name = file_name or url.rpartition("/")[2]
    use = _USES.get(name, "proposals")
    return WeightFile(name, file_name, url, licence, use, megabytes, _SIZES.get(name), _SHA256.get(name))


_META = "https://dl.fbaipublicfiles.com/"
_SEMANTIC_SAM = "https://github.com/UX-Decoder/Semantic-SAM/releases/download/checkpoint/"
_VGGISH = "https://github.com/harritaylor/torchvggish/releases/download/v0.1/"
_HUB = "https://huggingface.co/{}/resolve/main/model.safetensors"
_FILES = (
    _file("sam-vit-b", _META + "segment_anything/sam_vit_b_01ec64.pth", 375),
    _file("sam-vit-l", _META + "segment_anything/sam_vit_l_0b3195.pth", 1250),
    _file("sam-vit-h", _META + "segment_anything/sam_vit_h_4b8939.pth", 2565),
    _file("mobile-sam", "https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt", 41),
    _file("semantic-sam-t", _SEMANTIC_SAM + "swint_only_sam_many2many.pth", 212, "none stated"),
    _file("semantic-sam-l", _SEMANTIC_SAM + "swinl_only_sam_many2many.pth", 892, "none stated"),
    _file("vggish", _VGGISH + "vggish-10086976.pth", 289),
    _file("vggish-pca", _VGGISH + "vggish_pca_params-970ea276.pth", 1),
    _file("resnet50", "https://download.pytorch.org/models/resnet50-0676ba61.pth", 103, "BSD-3-Clause"),
    _file("resnet50-detectron2", _META + "detectron2/ImageNetPretrained/torchvision/R-50.pkl", 102, "BSD-3-Clause"),
    _file("pvt-v2-b5", "https://github.com/whai362/PVT/releases/download/v2/pvt_v2_b5.pth", 328),
    *(
        _file(name, _HUB.format(f"facebook/{name}"), megabytes, file_name=f"{name}.safetensors")
        for size, megabytes in (("tiny", 156), ("small", 184), ("base-plus", 323), ("large", 898))
        for name in (f"sam2.1-hiera-{size}",)
    ),
    _file(
        "ast", _HUB.format("MIT/ast-finetuned-audioset-10-10-0.4593"), 346, "BSD-3-Clause", "ast-audioset.safetensors"
    ),
)
WEIGHT_FILES: dict[str, WeightFile] = {file.name: file for file in _FILES}


def weights_folder() -> Path:
    """Where weight files lie: `COMBO_WEIGHTS`, or ~/.cache/combo-avs/weights. It need not exist."""
    return Path(os.environ.get("COMBO_WEIGHTS") or "~/.cache/combo-avs/weights").expanduser()


def split_entry(path: Path) -> tuple[Path, str | None]:
    """FILE and ENTRY of a path FILE#ENTRY; None where no entry is named, or a file is really called so."""
    name, sign, entry = path.name.rpartition("#")
    return (path, None) if not sign or path.is_file() else (path.with_name(name), entry)


def find_weights(name: str, weights: str | Path | None) -> Path:
    """The file that holds the weights of `name`: `weights` if that is named, else the published one in the folder.

    Raises `BadInput` if it is not there, saying what it is, where it comes from, and the command that fetches it.
    """
    file = WEIGHT_FILES[name]
    path = weights_folder() / file.file_name if weights is None else Path(weights).expanduser()
    if not split_entry(path)[0].is_file():
        raise BadInput(
            f"{name} needs its weights, and there is no file {path}. Run 'combo weights fetch {name}', which fetches "
            f"{file.summary}, or name your own file with the parameter weights=FILE"
        )
    return path

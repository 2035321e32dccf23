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


_SAM = "https://dl.fbaipublicfiles.com/segment_anything/"
_SEMANTIC_SAM = "https://github.com/UX-Decoder/Semantic-SAM/releases/download/checkpoint/"
_HUB = "https://huggingface.co/{}/resolve/main/model.safetensors"
_VGGISH = "https://github.com/harritaylor/torchvggish/releases/download/v0.1/"

# The file names of torchvision and torchvggish end in the first digits of their sha256, those of SAM in the md5's.
WEIGHT_FILES: dict[str, WeightFile] = {
    file.name: file
    for file in (
        WeightFile(
            "sam-vit-b",
            "sam_vit_b_01ec64.pth",
            _SAM + "sam_vit_b_01ec64.pth",
            "Apache-2.0",
            "proposals",
            375,
            375_042_383,
            "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        ),
        WeightFile(
            "sam-vit-l",
            "sam_vit_l_0b3195.pth",
            _SAM + "sam_vit_l_0b3195.pth",
            "Apache-2.0",
            "proposals",
            1250,
            1_249_524_607,
            "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        ),
        WeightFile(
            "sam-vit-h",
            "sam_vit_h_4b8939.pth",
            _SAM + "sam_vit_h_4b8939.pth",
            "Apache-2.0",
            "proposals",
            2565,
            2_564_550_879,
            "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        ),
        WeightFile(
            "mobile-sam",
            "mobile_sam.pt",
            "https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt",
            "Apache-2.0",
            "proposals",
            41,
            40_728_226,
            "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
        ),
        WeightFile(
            "semantic-sam-t",
            "swint_only_sam_many2many.pth",
            _SEMANTIC_SAM + "swint_only_sam_many2many.pth",
            "none stated",
            "proposals",
            212,
        ),
        WeightFile(
            "semantic-sam-l",
            "swinl_only_sam_many2many.pth",
            _SEMANTIC_SAM + "swinl_only_sam_many2many.pth",
            "none stated",
            "proposals",
            892,
        ),
        WeightFile(
            "vggish",
            "vggish-10086976.pth",
            _VGGISH + "vggish-10086976.pth",
            "Apache-2.0",
            "audio",
            289,
            sha256="10086976245803799d9194e9a73d9b6c1549c71d1b80106f5cade5608a561f4b",
        ),
        WeightFile(
            "vggish-pca",
            "vggish_pca_params-970ea276.pth",
            _VGGISH + "vggish_pca_params-970ea276.pth",
            "Apache-2.0",
            "audio of AudioSet's release; COMBO leaves it out",
            1,
            sha256="970ea276",
        ),
        WeightFile(
            "resnet50",
            "resnet50-0676ba61.pth",
            "https://download.pytorch.org/models/resnet50-0676ba61.pth",
            "BSD-3-Clause",
            "backbone r50 (torchvision, ImageNet)",
            103,
            102_530_333,
            "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
        ),
        WeightFile(
            "resnet50-detectron2",
            "R-50.pkl",
            "https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/torchvision/R-50.pkl",
            "BSD-3-Clause",
            "backbone r50 (torchvision's in detectron2's format)",
            102,
        ),
        WeightFile(
            "pvt-v2-b5",
            "pvt_v2_b5.pth",
            "https://github.com/whai362/PVT/releases/download/v2/pvt_v2_b5.pth",
            "Apache-2.0",
            "backbone pvt-v2-b5 (ImageNet)",
            328,
        ),
        WeightFile(
            "sam2.1-hiera-tiny",
            "sam2.1-hiera-tiny.safetensors",
            _HUB.format("facebook/sam2.1-hiera-tiny"),
            "Apache-2.0",
            "proposals",
            156,
        ),
        WeightFile(
            "sam2.1-hiera-small",
            "sam2.1-hiera-small.safetensors",
            _HUB.format("facebook/sam2.1-hiera-small"),
            "Apache-2.0",
            "proposals",
            184,
        ),
        WeightFile(
            "sam2.1-hiera-base-plus",
            "sam2.1-hiera-base-plus.safetensors",
            _HUB.format("facebook/sam2.1-hiera-base-plus"),
            "Apache-2.0",
            "proposals",
            323,
        ),
        WeightFile(
            "sam2.1-hiera-large",
            "sam2.1-hiera-large.safetensors",
            _HUB.format("facebook/sam2.1-hiera-large"),
            "Apache-2.0",
            "proposals",
            898,
        ),
        WeightFile(
            "ast",
            "ast-audioset.safetensors",
            _HUB.format("MIT/ast-finetuned-audioset-10-10-0.4593"),
            "BSD-3-Clause",
            "audio",
            346,
        ),
    )
}


def weights_folder() -> Path:
    """Where weight files lie: `COMBO_WEIGHTS`, or ~/.cache/combo-avs/weights. It need not exist."""
    return Path(os.environ.get("COMBO_WEIGHTS") or "~/.cache/combo-avs/weights").expanduser()


def find_weights(name: str, weights: str | Path | None) -> Path:
    """The file that holds the weights of `name`: `weights` if that is named, else the published one in the folder.

    Raises `BadInput` if it is not there, saying what it is, where it comes from, and the command that fetches it.
    """
    file = WEIGHT_FILES[name]
    path = weights_folder() / file.file_name if weights is None else Path(weights).expanduser()
    if not path.is_file():
        raise BadInput(
            f"{name} needs its weights, and there is no file {path}. Run 'combo weights fetch {name}', which fetches "
            f"{file.summary}, or name your own file with the parameter weights=FILE"
        )
    return path

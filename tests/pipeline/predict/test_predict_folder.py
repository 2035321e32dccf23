"""What several predictions leave in one folder."""

import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from bright_segmenter import SIZE, about_of, call, coco_masks, png_masks
from coded_video import make_video

from combo_avs.errors import BadInput
from combo_avs.pipeline.predict import folder as folder_of


def read(path: Path) -> bytes | dict[str, bytes]:
    return contents(path) if path.is_dir() else path.read_bytes()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


class TestCallsInOneFolder:
    """Nothing that an earlier call wrote is lost, and prediction.json speaks of what lies beside it."""

    @pytest.fixture
    def video(self, tmp_path: Path) -> Path:
        return make_video(tmp_path / "a.mp4", 75)

    def test_formats_lie_side_by_side(self, segmenter, tmp_path, video):
        folder = tmp_path / "out" / "a"
        call(tmp_path / "out", video)
        before = contents(folder / "masks")
        call(tmp_path / "out", video, masks="coco")
        call(tmp_path / "out", video, masks="zarr", mask_size="network")
        assert about_of(tmp_path)["masks"] == {"masks": "video", "masks.json": "video", "masks.zarr": "network"}
        assert contents(folder / "masks") == before
        np.testing.assert_array_equal(coco_masks(folder / "masks.json"), png_masks(folder / "masks") > 0)
        assert zarr.open_group(folder / "masks.zarr", mode="r")["labels"].shape == (3, SIZE, SIZE)
        assert segmenter.calls == [3]  # the others came from the label maps
        for masks, size in (("png", "video"), ("coco", "video"), ("zarr", "network")):
            assert any("done before" in line for line in call(tmp_path / "out", video, masks=masks, mask_size=size))

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"mask_size": "network"}, "a/masks: --mask-size video, not network"),
            ({"every_frame": "interpolate"}, "a/masks: one a second, not --every-frame interpolate"),
            ({"every_frame": "segment", "masks": "coco"}, "a/masks: one a second, not --every-frame segment"),
        ],
    )
    def test_what_cannot_stay_is_replaced_on_request_only(self, segmenter, tmp_path, video, options, words):
        folder = tmp_path / "out" / "a"
        call(tmp_path / "out", video)
        call(tmp_path / "out", video, masks="zarr")
        before = contents(folder)
        with pytest.raises(BadInput, match=words) as caught:
            call(tmp_path / "out", video, **options)
        assert "--replace" in str(caught.value)
        assert contents(folder) == before
        call(tmp_path / "out", video, **options, replace=True)
        about = about_of(tmp_path)
        assert about["every_frame"] == options.get("every_frame")
        if "every_frame" in options:
            (name,) = about["masks"]
            assert {p.name for p in folder.glob("masks*")} == {name}
        else:
            assert about["masks"] == {"masks": "network", "masks.zarr": "video"}
            assert png_masks(folder / "masks").shape == (3, SIZE, SIZE)

    def test_masks_of_other_weights_never_lie_beside(self, segmenter, tmp_path, video):
        folder = tmp_path / "out" / "a"
        call(tmp_path / "out", video)
        segmenter.identity, segmenter.weights = "other", "best of run, step 9"
        before = contents(folder)
        with pytest.raises(BadInput, match=r"a/masks: of none, as prediction\.json says, not of best of run, step 9"):
            call(tmp_path / "out", video, masks="coco")
        assert contents(folder) == before
        lines = call(tmp_path / "out", video)  # the same masks of new weights
        assert any("in place of the prediction of none" in line for line in lines)
        assert (about_of(tmp_path)["weights"], about_of(tmp_path)["masks"]) == (
            "best of run, step 9",
            {"masks": "video"},
        )
        segmenter.identity = "third"
        call(tmp_path / "out", video, masks="coco", replace=True)
        assert {p.name for p in folder.glob("masks*")} == {"masks.json"}
        assert about_of(tmp_path)["masks"] == {"masks.json": "video"}

    def test_masks_that_nothing_speaks_of(self, segmenter, tmp_path, video):
        call(tmp_path / "out", video)
        (tmp_path / "out" / "a" / "prediction.json").unlink()
        with pytest.raises(BadInput, match=r"a/masks: no prediction\.json says of what weights"):
            call(tmp_path / "out", video, masks="coco")
        call(tmp_path / "out", video)  # the call that was killed
        assert about_of(tmp_path)["masks"] == {"masks": "video"}

    def test_predictions_of_an_older_version_are_known(self, segmenter, tmp_path, video):
        call(tmp_path / "out", video)
        about = about_of(tmp_path) | {"masks": "png", "mask_size": "video"}
        del about["unreadable"]
        (tmp_path / "out" / "a" / "prediction.json").write_text(json.dumps(about))
        assert any("done before" in line for line in call(tmp_path / "out", video))
        call(tmp_path / "out", video, masks="coco")
        assert about_of(tmp_path)["masks"] == {"masks": "video", "masks.json": "video"}

    @pytest.mark.parametrize("second", [{"masks": "coco"}, {"mask_size": "network", "replace": True}], ids=str)
    def test_killed_between_any_two_changes(self, segmenter, tmp_path, monkeypatch, video, second):
        """After every possible kill what prediction.json names is there and whole, and the same call ends well."""
        whole = tmp_path / "whole" / "a"
        for options in ({}, second):
            call(tmp_path / "whole", video, **options)
        changes = ("_remove", "_write_about")
        for allowed in range(40):
            out, left = tmp_path / f"out{allowed}", [allowed]
            call(out, video)
            first = contents(out / "a" / "masks")
            with monkeypatch.context() as patch:

                def killed(change, left=left):
                    def change_or_die(*arguments):
                        if left[0] == 0:
                            raise KeyboardInterrupt
                        left[0] -= 1
                        return change(*arguments)

                    return change_or_die

                for name in changes:
                    patch.setattr(folder_of, name, killed(getattr(folder_of, name)))
                patch.setattr(Path, "replace", killed(Path.replace))
                try:
                    call(out, video, **second)
                except KeyboardInterrupt:
                    about = folder_of.read_about(out / "a") or {"masks": {}}
                    for name, size in about["masks"].items():
                        wanted = first if (name, size) == ("masks", "video") else read(whole / name)
                        assert read(out / "a" / name) == wanted
                else:
                    break
            call(out, video, **second)
            found, expected = (folder_of.read_about(f) or {} for f in (out / "a", whole))
            assert found["masks"] == expected["masks"]
            assert all(read(out / "a" / name) == read(whole / name) for name in found["masks"])
        else:
            raise AssertionError("it is never done")

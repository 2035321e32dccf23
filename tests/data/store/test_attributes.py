"""What identifies a store: its JSON form is part of the format, and fingerprints follow from it."""

import pytest

from combo_avs.data.store.attributes import AudioAttributes, Folding, ProposalAttributes, Provenance, parse_attributes
from combo_avs.data.store.metadata import identity
from combo_avs.data.store.root import cache_name

SAM = Provenance("sam", "3", {"points_per_side": 32}, "ab", Folding(max_masks=255, temporal=False))
PROPOSALS = ProposalAttributes(35, 10, SAM, clips_fingerprint="0" * 64, size=(4, 6))
STORED = {
    "schema": 2,
    "kind": "proposals",
    "maker": {
        "name": "sam",
        "version": "3",
        "parameters": {"points_per_side": 32},
        "weights_sha256": "ab",
        "maskige": {"max_masks": 255, "temporal": False},
    },
    "clips_fingerprint": "0" * 64,
    "frames": 35,
    "shard_frames": 10,
    "size": [4, 6],
}


def test_json_is_as_stored() -> None:
    assert PROPOSALS.to_json() == STORED
    assert parse_attributes(STORED) == PROPOSALS


def test_fingerprints_are_those_of_stores_that_exist() -> None:
    assert cache_name(PROPOSALS) == "sam-1d0d61b8e96f"
    assert identity(PROPOSALS) == "3581e05bfb54b1a2"
    logmel = AudioAttributes(35, 10, Provenance("logmel", "1", {}), clips_fingerprint="0" * 64, dim=3, probes={})
    assert cache_name(logmel) == "logmel-c1affb6e078d"


def test_provenance_without_folding_has_no_key_for_it() -> None:
    imported = Provenance("official-maskiges", "1", {"resize": "none"})
    assert imported.to_json().keys() == {"name", "version", "parameters", "weights_sha256"}
    assert Provenance.from_json(imported.to_json()) == imported


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "pictures"},
        {"schema": 3},
        {"colour": "red"},
        {"size": "46"},
        {"frames": 0},
        {"shard_frames": 7},
        {"shard_frames": 15},
        {"maker": {"name": "sam"}},
        {"maker": {**STORED["maker"], "maskige": {"max_masks": 3}}},
        {"maker": {**STORED["maker"], "author": "me"}},
    ],
)
def test_attributes_of_no_store(change: dict) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        parse_attributes({**STORED, **change})


def test_what_differs_is_named() -> None:
    assert SAM.differing(SAM) == []
    assert SAM.differing(Provenance("sam", "4", {}, "ab", SAM.maskige)) == ["version", "parameters"]

"""Which shards a run takes on: --limit, --clips, --shard, alone and together."""

from pathlib import Path

import pytest
from fakes import NoiseSource

from combo_avs.data.store.store import ClipStore
from combo_avs.errors import BadInput
from combo_avs.pipeline.config.precompute import PrecomputeConfig
from combo_avs.pipeline.imports.clips import import_clips
from combo_avs.pipeline.precompute.driver import plan_caches
from combo_avs.pipeline.precompute.selection import ALL, Selection, parse_clip_ids, parse_share, wanted_shards


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> ClipStore:
    """Six clips of 10 frames fill shards 0 to 5, six of 5 frames shards 6 to 8."""
    root = tmp_path_factory.mktemp("selection")
    import_clips(NoiseSource(clips=12), root, shard_frames=10)
    return ClipStore(root)


def test_everything_by_default(clips: ClipStore) -> None:
    assert wanted_shards(clips, ALL) == list(range(9))


@pytest.mark.parametrize("n", [1, 2, 4, 20])
def test_shares_are_disjoint_and_leave_nothing_out(clips: ClipStore, n: int) -> None:
    shares = [wanted_shards(clips, Selection(share=(i, n))) for i in range(1, n + 1)]
    assert sorted(shard for share in shares for shard in share) == list(range(9))


def test_clips_name_their_shards(clips: ClipStore) -> None:
    last_of_10, last = clips.table[5].id, clips.table[11].id
    assert wanted_shards(clips, Selection(clip_ids=(last, last_of_10))) == [5, 8]


def test_limit_counts_clips(clips: ClipStore) -> None:
    assert wanted_shards(clips, Selection(limit=2)) == [0, 1]
    assert wanted_shards(clips, Selection(limit=7)) == [0, 1, 2, 3, 4, 5, 6]
    assert wanted_shards(clips, Selection(limit=1000)) == list(range(9))


def test_limit_within_a_split(clips: ClipStore) -> None:
    first_of_test = int(clips.table.rows("test")[0])
    assert wanted_shards(clips, Selection("test", limit=1)) == [clips.span(first_of_test)[0] // 10]


def test_a_plan_says_how_many_were_asked_for(clips: ClipStore) -> None:
    root = clips.path.parent
    plan = plan_caches(root, PrecomputeConfig(), "none", None, Selection(limit=4, share=(1, 2)))[0]
    assert plan.todo == (0, 2)
    assert str(plan).endswith("2 of 2 shards to do")


def test_unknown_clips_are_refused(clips: ClipStore) -> None:
    with pytest.raises(BadInput, match="no clip nonsense"):
        wanted_shards(clips, Selection(clip_ids=("nonsense", clips.table[0].id)))


def test_clips_of_another_split_are_refused(clips: ClipStore) -> None:
    train = clips.table[int(clips.table.rows("train")[0])].id
    with pytest.raises(BadInput, match="'test'"):
        wanted_shards(clips, Selection("test", clip_ids=(train,)))


def test_share_from_text() -> None:
    assert [parse_share(text) for text in ("1/1", "2/8", "8/8")] == [(1, 1), (2, 8), (8, 8)]


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/4", "1/4/2", ""])
def test_bad_shares(text: str) -> None:
    with pytest.raises(BadInput, match="i/n"):
        parse_share(text)


def test_clip_ids_from_text_and_file(tmp_path: Path) -> None:
    assert parse_clip_ids("a, b,a") == ("a", "b")
    (tmp_path / "ids.txt").write_text("a\n\n b\nc,d\n")
    assert parse_clip_ids(str(tmp_path / "ids.txt")) == ("a", "b", "c,d")
    with pytest.raises(BadInput, match="no clip ids"):
        parse_clip_ids(" , ")

"""Wrong edits of what makes batches of clips: augmentation, order, resizing."""

from .table import Mutant, edits

AUGMENT = "tests/data/test_augment.py"
DATASET = "tests/data/test_dataset.py"
RESIZE = "tests/data/test_resize.py"

MUTANTS: list[Mutant] = [
    *edits(
        "data/augment.py",
        AUGMENT,
        (
            "the last offset from above is never drawn",
            "rng.integers(resized[0] - height + 1)",
            "rng.integers(max(1, resized[0] - height))",
        ),
        (
            "the last offset from the left is never drawn",
            "rng.integers(resized[1] - width + 1)",
            "rng.integers(max(1, resized[1] - width))",
        ),
        ("the last hue is never drawn", "rng.integers(-18, 18, endpoint=True)", "rng.integers(-18, 18)"),
        ("short sides are rounded", "max(1, int(round(min(size) * factor, 6)))", "max(1, round(min(size) * factor))"),
        ("all images take the first one's jitter", "jitters[i]", "jitters[0]"),
        ("Maskiges take the frames' jitters", "geometry, drawn.maskiges", "geometry, drawn.frames"),
        (
            "jitters of frames and Maskiges exchanged",
            "jitters[:num_frames], jitters[num_frames:]",
            "jitters[num_frames:], jitters[:num_frames]",
        ),
        ("padding is background", "nearest=True, fill=IGNORE_LABEL", "nearest=True, fill=0"),
        ("Maskiges are not blended", "drawn.maskiges, nearest=False", "drawn.maskiges, nearest=True"),
        (
            "jitter rounds instead of truncating",
            "np.float32(shift), 0, 255).astype",
            "np.float32(shift), 0, 255).round().astype",
        ),
    ),
    *edits(
        "data/dataset.py",
        DATASET,
        ("augmentation does not depend on the step", "default_rng([seed, step, place])", "default_rng([seed, place])"),
        ("augmentation does not depend on the place", "default_rng([seed, step, place])", "default_rng([seed, step])"),
        ("augmentation does not depend on the seed", "default_rng([seed, step, place])", "default_rng([step, place])"),
        (
            "places are counted within a share",
            "range(clips_per_batch)[share]",
            "range(len(range(clips_per_batch)[share]))",
        ),
        ("every epoch has the same order", "default_rng([seed, e])", "default_rng([seed])"),
        (
            "features of another clip",
            'self.audio.read("features", *span)',
            'self.audio.read("features", *self.clips.span(index))',
        ),
        (
            "rows are not those of usable clips",
            "span = self.clips.span(int(self.rows[index]))",
            "span = self.clips.span(index)",
        ),
        (
            "parts of a batch begin a clip late",
            "ends = [0, *accumulate(self.frames_per_clip)]",
            "ends = list(accumulate(self.frames_per_clip))",
        ),
        (
            "a cache with other shards covers a split",
            "needed - cache.receipts().keys()",
            "cache.receipts().keys() - needed",
        ),
    ),
    *edits(
        "data/resize.py",
        (RESIZE, AUGMENT),
        (
            "long sides are rounded",
            "(height * size // short, width * size // short)",
            "(round(height * size / short), round(width * size / short))",
        ),
        (
            "windows begin at the left edge",
            "image.shape[1], size[1], left, width)",
            "image.shape[1], size[1], 0, width)",
        ),
        ("blends are truncated", "total += 1 << (FRACTION_BITS - 1)", "total += 0"),
        ("the offset of a cut is truncated", "round((n - size) / 2)", "(n - size) // 2"),
    ),
]

"""Wrong edits of what reads and stores clips."""

from .table import Mutant, edits

AUGMENT = "tests/data/test_augment.py"
DATASET = "tests/data/test_dataset.py"
RESIZE = "tests/data/test_resize.py"

MUTANTS: list[Mutant] = [
    *edits(
        "data/audio.py",
        "tests/data/test_audio.py",
        ("a window of the FFT's own length", "WINDOW, HOP, FFT = 400, 160, 512", "WINDOW, HOP, FFT = 512, 160, 512"),
        ("a symmetric Hann window", "2 * np.pi / WINDOW *", "2 * np.pi / (WINDOW - 1) *"),
        ("powers for magnitudes", "np.abs(spectrum) @", "np.abs(spectrum) ** 2 @"),
        ("another upper edge of the mel scale", "MEL_RANGE = (125.0, 7500.0)", "MEL_RANGE = (125.0, 7600.0)"),
        ("a step of the filter table is rounded", "step = int(scale * _STEPS)", "step = round(scale * _STEPS)"),
        ("a resampled signal is not scaled", "taps = scale * (", "taps = ("),
        (
            "the resampled length is rounded up",
            "length = len(x) * SAMPLE_RATE // rate",
            "length = -(-len(x) * SAMPLE_RATE // rate)",
        ),
        ("short sound repeats its first example", "filling = examples[-1]", "filling = examples[0]"),
        ("missing sound counts as sound", "np.arange(seconds) < len(examples)", "np.arange(seconds) <= len(examples)"),
        ("samples of 16 bits are over 32767", "np.rint(x * 32768.0)", "np.rint(x * 32767.0)"),
        (
            "long recordings end after a thousand frames",
            "start in range(0, len(frames), 1024)",
            "start in range(0, min(len(frames), 1024), 1024)",
        ),
    ),
    *edits(
        "data/wav.py",
        "tests/data/test_wav.py",
        ("the first channel stands for all", "samples.mean(axis=1)", "samples[:, 0]"),
        ("other rates are not resampled", "else resample(waveform, rate)", "else waveform"),
        ("a counted header is a cut file", "promised <= there", "promised < there"),
        ("the longest length is a cut file", "(0, 0xFFFFFFFF)", "(0,)"),
    ),
    *edits(
        "data/masks.py",
        "tests/data/test_masks.py",
        ("ranks begin at 0", "np.arange(1, len(masks) + 1)", "np.arange(len(masks))"),
        ("large masks hide small ones", "for mask in on_top[::-1]", "for mask in on_top"),
        ("areas are of 16 bits", '("area", "<u4")', '("area", "<u2")'),
        ("packed masks share bytes", "row = -(-height * width // 8)", "row = height * width // 8"),
    ),
    *edits(
        "data/palette.py",
        "tests/data/test_masks.py",
        ("two colours of ADE20K are exchanged", "787878b4787806e6e6", "787878b4787806e6e7"),
        (
            "one colour less of ADE20K",
            "table[:150] = np.frombuffer(_ADE20K, np.uint8).reshape(150, 3)",
            "table[:149] = np.frombuffer(_ADE20K, np.uint8).reshape(150, 3)[:149]",
        ),
    ),
    *edits(
        "data/store/receipts.py",
        "tests/data/store/test_store_damage.py",
        (
            "the receipt of another shard is valid",
            "return receipt if receipt.shard == shard else None",
            "return receipt",
        ),
        (
            "receipts may name files above the store",
            'if path.is_absolute() or ".." in path.parts:',
            "if path.is_absolute():",
        ),
        (
            "receipts may name any file of the machine",
            'if path.is_absolute() or ".." in path.parts:',
            'if ".." in path.parts:',
        ),
        ("a removed receipt is not flushed", "        sync(folder)", "        pass"),
    ),
    *edits(
        "data/store/commit.py",
        "tests/data/store/test_store_damage.py",
        ("what was written is not read back", "        if path.read_bytes() != content:", "        if False:"),
        ("the old receipt stays while files are replaced", "    invalidate_shard(store.path, shard)\n", "    pass\n"),
        ("folders are not flushed before the receipt", "            sync(folder)", "            pass"),
    ),
    *edits(
        "data/store/verify.py",
        "tests/data/store/test_store_damage.py",
        (
            "the store that a receipt belongs to is not checked",
            "    if invalid := store.check_receipt(receipt):\n        return invalid\n",
            "",
        ),
        ("contents are not verified", "if what := check_file(store.path, name, expected):", "if False:"),
        (
            "metadata are not verified",
            "{**check_metadata(store.path, store.metadata_files), **check_strays(store)}",
            "check_strays(store)",
        ),
        ("stray receipts are not found", '("_done", *store.specs)', "(*store.specs,)"),
        ("files of writers at work are strays", " and not is_temporary(file)", ""),
        ("repair leaves receipts of damaged shards", "    store.invalidate(bad)\n", ""),
    ),
    *edits(
        "data/store/locks.py",
        "tests/data/store/test_locks.py",
        ("a late heartbeat is a death", "EXPIRY = 300.0", "EXPIRY = 30.0"),
        ("no owner ever dies", "EXPIRY = 300.0", "EXPIRY = 3e9"),
        ("shards collide only when all do", "self.shards & other.shards", "self.shards == other.shards"),
        (
            "a dead process of another host frees its lock",
            "isinstance(error, ProcessLookupError) and self.host",
            "self.host and self.host",
        ),
        (
            "a process of another user is dead",
            "isinstance(error, ProcessLookupError) and self.host == socket.gethostname()",
            "self.host == socket.gethostname()",
        ),
        ("leftovers of live writers are removed", "            if not others:\n", "            if True:\n"),
    ),
    *edits(
        "data/store/clip_table.py",
        "tests/data/store/test_format.py",
        (
            "text of neighbours runs together in a digest",
            '                sha.update(len(part).to_bytes(8, "little"))\n',
            "",
        ),
        ("splits are in the order of their names", "SPLITS.index(c.split), c.id)", "c.split, c.id)"),
        ("short clips come first", "(-c.num_frames, SPLITS", "(c.num_frames, SPLITS"),
        ("clips begin where they end", "[[0], np.cumsum(self.num_frames)[:-1]]", "[np.cumsum(self.num_frames)]"),
        ("splits are not checked", "if unknown := set(", "if unknown := set() and set("),
        (
            "flags are not checked",
            "        if not pc.all(pc.equal(lengths, pc.list_value_length(table[flags]))).as_py():",
            "        if False:",
        ),
    ),
    *edits(
        "data/store/schema.py",
        "tests/data/store/test_format.py",
        ("chunks of ten frames", "CHUNK_FRAMES = 5", "CHUNK_FRAMES = 10"),
        ("labels that are missing are background", "compress=True, fill=IGNORE_LABEL)", "compress=True)"),
        ("missing masks are no masks", "fill=65535)", "fill=0)"),
        ("chunks have no checksum", ", Crc32cCodec()]", "]"),
    ),
    *edits(
        "data/store/checksummed_json.py",
        "tests/data/store/test_format.py",
        ("JSON has its keys as they come", "sort_keys=True, indent=1", "indent=1"),
    ),
    *edits(
        "data/store/attributes.py",
        "tests/data/store/test_attributes.py",
        ("clips of ten frames cross shards", "shard_frames % max(CLIP_LENGTHS)", "shard_frames % min(CLIP_LENGTHS)"),
    ),
]

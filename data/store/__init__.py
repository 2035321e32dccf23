"""The Zarr store: where it lies, what it holds, how shards are committed, read and verified."""

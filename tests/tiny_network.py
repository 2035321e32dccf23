"""Settings for the tiny preset, tinier: two steps take a second."""

TINY = [
    "model.width=32",
    "model.heads=2",
    "model.num_queries=4",
    "model.encoder_layers=1",
    "model.decoder_layers=1",
    "model.audio_hidden=16",
    "loss.num_points=64",
    "train.clips_per_batch=2",
]

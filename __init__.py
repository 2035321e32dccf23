"""COMBO for audio-visual segmentation: cached foundation-model proposals in, sounding-object masks out."""

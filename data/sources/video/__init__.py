"""The user's own videos: decoding, sound, writing."""

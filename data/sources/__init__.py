"""Readers: everything that implements `ClipSource`, and masks made elsewhere."""

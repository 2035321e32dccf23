"""JSON that carries its own checksum, so that any changed byte is noticed."""

import hashlib
import json
import re
from typing import Any

_SEAL = re.compile(rb'"seal": "([0-9a-f]*)"')


def dump_checksummed(document: dict[str, Any]) -> bytes:
    """JSON text of a document that has "seal": "" somewhere; the sha256 of the rest of the text is put there.

    Equal documents give equal bytes.
    """
    text = json.dumps(document, sort_keys=True, indent=1).encode() + b"\n"
    return _SEAL.sub(b'"seal": "%s"' % _sha256(text), text, count=1)


def load_checksummed(content: bytes) -> dict[str, Any]:
    """The inverse of `dump_checksummed`. Raises `ValueError` when any byte has changed."""
    found = _SEAL.search(content)
    if found is None:
        raise ValueError("it has no checksum")
    if _sha256(content[: found.start(1)] + content[found.end(1) :]) != found[1]:
        raise ValueError("its contents have changed (sha256 differs)")
    return json.loads(content)


def digest(value: Any) -> str:
    """sha256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()

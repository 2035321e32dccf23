"""Results of an evaluation, for people."""

from ..common.text import columns
from ..runs.open import Weights
from .results import About, Result


def show_results(results: list[Result]) -> str:
    """What was scored, and M_J and M_F by protocol. results: of one pass; at least one."""
    blocks = [f"{one.protocol}\nM_J {one.M_J:.2f} %\nM_F {one.M_F:.2f} %\n{_counts(one)}" for one in results]
    return "\n\n".join([_head(results[0]), *blocks])


def show_weights(which: About | Weights, converted_from: str | None) -> str:
    """Such as "best, step 120 of 150 (unfinished)". converted_from: of the run, sha256 of a published checkpoint."""
    name = which.which if isinstance(which, Weights) else which.weights
    if converted_from is not None and which.step == 0:
        return f"converted from published weights {converted_from[:12]}"
    if which.step is None:
        return name
    return f"{name}, step {which.step} of {which.steps}{'' if which.finished else ' (unfinished)'}"


def _head(about: About) -> str:
    left_out = f" without {about.clips_left_out} quarantined" if about.clips_left_out else ""
    caches = [
        f"{name}{' (UNTRAINED)' if name in about.untrained else ''}, contents {contents[:12]}"
        for name, contents in (
            (about.proposals, about.proposals_fingerprint),
            (about.audio, about.audio_fingerprint),
        )
    ]
    rows = [
        ("run", about.run),
        ("weights", f"{show_weights(about, about.converted_from)}, sha256 {about.weights_sha256[:12]}"),
        ("clips", f"{about.split} of {about.dataset}{left_out}, contents {about.clips_fingerprint[:12]}"),
        ("sound", about.sound),
        ("proposals", caches[0]),
        ("audio", caches[1]),
    ]
    return "\n".join(columns(rows))


def _counts(result: Result) -> str:
    """The numbers that belong beside the scores, and classes that are absent."""
    parts = []
    for key, value in result.details.items():
        if isinstance(value, int):
            parts.append(f"{key.replace('_', ' ')} {value}")
        elif key == "absent" and value:
            parts.append(f"absent classes: {', '.join(value)}")
    return ", ".join(parts)

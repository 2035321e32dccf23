"""Frozen models of the optional package transformers: made without network access, their weights checked by key.

transformers knows older key names of the published files and renames them; nothing but tensors is read from a file.
"""

from types import ModuleType
from typing import Any

import torch
from torch import nn

from ..errors import BadInput
from .weights.frozen import WeightsConfig, fixed_initialisation, read_frozen
from .weights.state import State, first_that_fits


def transformers_package(name: str) -> ModuleType:
    """The package, for the model called `name`. Raises BadInput if it is not installed."""
    try:
        import transformers
    except ImportError as error:
        raise BadInput(f"{name} needs the package transformers: pip install 'combo-avs[transformers]'") from error
    return transformers


def make_model(
    model_class: Any, model_config: Any, name: str, config: WeightsConfig, unused: tuple[str, ...] = ()
) -> tuple[nn.Module, str | None]:
    """A model of transformers in float32 on the CPU, frozen, and the sha256 of its weights; None if untrained.

    unused: prefixes of keys that the file holds and the model does not need, besides those that transformers leaves
    out itself. Raises `BadInput` as `read_frozen`, or listing all keys that do not fit.
    """
    read = read_frozen(name, config)
    if read is None:
        with fixed_initialisation():
            return model_class(model_config).eval().requires_grad_(False), None
    state, sha256, path = read
    problems = [f"{key} has values that are not finite" for key, tensor in state.items() if not tensor.isfinite().all()]
    loaded: list[tuple[nn.Module, dict[str, Any]]] = []

    def attempt(keys: State) -> tuple[nn.Module, dict[str, Any]] | None:
        loaded.append(_load(model_class, model_config, keys, unused))
        report = loaded[-1][1]
        return None if report["missing_keys"] or report["unexpected_keys"] else loaded[-1]

    model, report = first_that_fits(state, path, attempt) or loaded[0]
    problems += [f"missing: {key}" for key in report["missing_keys"]]
    problems += [f"unexpected: {key}" for key in report["unexpected_keys"]]
    problems += [f"{key} has shape {list(is_)}, not {list(wanted)}" for key, is_, wanted in report["mismatched_keys"]]
    if problems:
        raise BadInput.listing(f"{path} does not fit {name}:", sorted(problems), "Is it of another model or size?")
    return model.eval().requires_grad_(False), sha256


def _load(
    model_class: Any, model_config: Any, state: State, unused: tuple[str, ...]
) -> tuple[nn.Module, dict[str, Any]]:
    """The model, and what did not fit. Silences the progress bar and the table that transformers would print."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return model_class.from_pretrained(
            None,
            config=model_config,
            state_dict={key: tensor for key, tensor in state.items() if not key.startswith(unused)},
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # they are reported; without it only the first would be
            output_loading_info=True,
        )
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()

"""Frozen models of the optional package transformers: made without network access, their weights checked by key.

transformers knows older key names of the published files and renames them; nothing but tensors is read from a file.
"""

from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from ..errors import BadInput
from .weights.registry import find_weights
from .weights.state import read_state_dict, sha256_of_weights


def transformers_package(name: str) -> ModuleType:
    """The package, for the model called `name`. Raises BadInput if it is not installed."""
    try:
        import transformers
    except ImportError as error:
        raise BadInput(f"{name} needs the package transformers: pip install 'combo-avs[transformers]'") from error
    return transformers


def make_model(
    model_class: Any, config: Any, name: str, weights: str | Path | None, untrained: bool, unused: tuple[str, ...] = ()
) -> tuple[nn.Module, str | None]:
    """A model of transformers in float32 on the CPU, frozen, and the sha256 of its weights; None without weights.

    name: in `WEIGHT_FILES`. weights: a file (.safetensors); None: the published one in the weights folder.
    untrained: the same random numbers each time instead. unused: how keys begin that the file holds and the model has
    no use for, beside those that transformers itself leaves out.
    Raises `BadInput` if there is no such file, if it is damaged, or listing all keys that do not fit; also if `weights`
    and `untrained` come together.
    """
    if untrained:
        if weights is not None:
            raise BadInput(f"{name}: untrained and weights={weights} contradict each other; leave one of them out")
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            return model_class(config).eval().requires_grad_(False), None
    path = find_weights(name, weights)
    sha256 = sha256_of_weights(name, weights, path)
    state = {key: tensor for key, tensor in read_state_dict(path).items() if not key.startswith(unused)}
    problems = [f"{key} has values that are not finite" for key, tensor in state.items() if not tensor.isfinite().all()]
    model, report = _load(model_class, config, state)
    problems += [f"missing: {key}" for key in report["missing_keys"]]
    problems += [f"unexpected: {key}" for key in report["unexpected_keys"]]
    problems += [f"{key} has shape {list(is_)}, not {list(wanted)}" for key, is_, wanted in report["mismatched_keys"]]
    if problems:
        raise BadInput.listing(f"{path} does not fit {name}:", sorted(problems), "Is it of another model or size?")
    return model.eval().requires_grad_(False), sha256


def _load(model_class: Any, config: Any, state: dict[str, torch.Tensor]) -> tuple[nn.Module, dict[str, Any]]:
    """The model, and what did not fit. transformers would print a bar and a table of its own."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return model_class.from_pretrained(
            None,
            config=config,
            state_dict=state,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # they are reported; without it only the first would be
            output_loading_info=True,
        )
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()

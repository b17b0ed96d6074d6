"""What timm is not asked for, and what its errors mean: one line each."""

from __future__ import annotations

from pickle import UnpicklingError
from typing import Any

import timm
from safetensors import SafetensorError

from faithfulness.core.checks import check_count
from faithfulness.core.errors import InputError, unknown_name

OF_ARGUMENTS = (ArithmeticError, AttributeError, LookupError, RuntimeError)
"""What building a network raises, besides the usual, for arguments that are no network's."""
_OF_FILES = (UnpicklingError, SafetensorError, EOFError, RuntimeError, LookupError)
"""What reading a file of weights raises where the file is at fault; where it can't be had, other errors come."""


def check_model_name(name: str) -> None:
    """Raise InputError, with near matches, unless timm knows the model."""
    if not timm.is_model(name.split(".")[0]):
        raise unknown_name("timm model", name, timm.list_models())


def check_arguments(name: object, num_classes: object, input_size: object, in_chans: object) -> None:
    """Raise InputError for what is no name, or no count of anything."""
    if not isinstance(name, str):
        raise InputError(f"expected the name of a timm model, got {name!r}")
    for what, value in {"num_classes": num_classes, "input_size": input_size, "in_chans": in_chans}.items():
        if value is not None:
            check_count(what, value, 1_000_000, least=0 if what == "num_classes" else 1)  # 0: features without a head


def not_built(name: str, arguments: dict[str, Any], error: Exception) -> InputError:
    """What timm could not build, with which arguments, and why."""
    given = ", ".join(f"{key}={value!r}" for key, value in arguments.items() if not key.startswith("pretrained_cfg"))
    return InputError(f"timm could not build {name} with {given[:200]}: {type(error).__name__}: {_reason(error)}")


def no_weights(name: str, source: str, error: Exception) -> InputError:
    """Which of three it was: a folder on this machine, a file that was found and is no good, or none to be had."""
    if source == "local-dir" or isinstance(error, _OF_FILES):
        return InputError(f"can't load the weights of {name}: {type(error).__name__}: {_reason(error)}")
    hint = f"is there a network? A downloaded file can be given as --model FILE --arch {name}"
    return InputError(f"no pretrained weights for {name} ({type(error).__name__}); {hint}")


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["without a word"])[0][:200]

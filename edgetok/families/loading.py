"""Loading a checked checkpoint into its Hugging Face class, in float32.

Weights are read tensor by tensor and stay in files: those in float32 are mapped from the checkpoint
itself, others are converted into scratch space. A model needs no more memory than what runs of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgetok.errors import InputError, ResourceError
from edgetok.families.checkpoint import Checkpoint, list_weight_files
from edgetok.scratch import Scratch

if TYPE_CHECKING:
    from torch import Tensor


def load_checkpoint(model_class: Any, checkpoint: Checkpoint, **options: Any) -> Any:
    """Load safetensors weights into `model_class`, in float32 and with eager attention.

    `options` go to the class, such as which parts it shall have.

    Raises:
        InputError: if transformers cannot load it, weights are missing, or values are not finite.
    """
    import torch
    from transformers import GenerationConfig
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what its report says is raised below, as an error
    logging.disable_progress_bar()
    try:
        config = model_class.config_class.from_pretrained(
            str(checkpoint.path), local_files_only=True
        )
        _require_as_large(model_class, config, checkpoint, options)
        model, info = model_class.from_pretrained(
            None,
            config=config,
            state_dict=dict(_read_wide(checkpoint)),
            dtype=torch.float32,
            attn_implementation="eager",
            output_loading_info=True,
            **options,
        )
        if (checkpoint.path / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(
                str(checkpoint.path), local_files_only=True
            )
    except (InputError, ResourceError):
        raise
    except Exception as error:  # transformers raises whatever its dependencies do
        raise InputError(f"{checkpoint.path} cannot be loaded: {_first_line(error)}") from error
    finally:
        logging.set_verbosity(verbosity)
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise InputError(
            f"{checkpoint.path}: {len(missing)} weights are missing, first {missing[0]!r}"
        )
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise InputError(f"{checkpoint.path}: weight {name!r} holds NaN or infinity")
    return model.eval().requires_grad_(False)


def _require_as_large(
    model_class: Any, config: Any, checkpoint: Checkpoint, options: dict[str, Any]
) -> None:
    """Refuse weights far too few for the configuration, before anything of its sizes is allocated.

    More of them are no fault here: heads and towers that the class does not have.
    """
    import torch

    with torch.device("meta"):
        wanted = sum(w.numel() for w in model_class(deepcopy(config), **options).parameters())
    held = sum(_count_values(path) for path in list_weight_files(checkpoint.path))
    if 2 * held < wanted:  # of a few missing weights, names are told once it is loaded
        raise InputError(
            f"{checkpoint.path}: config.json describes {wanted:,} weights and the safetensors "
            f"files hold {held:,}; they do not belong together, so download the model again"
        )


def _count_values(path: Path) -> int:
    """Values in a safetensors file, by its header."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as shard:
        return sum(math.prod(shard.get_slice(name).get_shape()) for name in shard.keys())  # noqa: SIM118


def _read_wide(checkpoint: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    """Names and weights of all shards in float32; weights are maps of files."""
    from safetensors import safe_open

    for path in list_weight_files(checkpoint.path):
        with safe_open(path, framework="pt") as shard:
            for name in shard.keys():  # noqa: SIM118  # a file, not a dict
                yield name, _widen(shard.get_tensor(name), checkpoint.scratch)


def _widen(weight: Tensor, scratch: Scratch) -> Tensor:
    """A weight in float32, in scratch space unless it is so in the checkpoint."""
    import torch

    if not weight.is_floating_point() or weight.dtype == torch.float32:
        return weight
    wide = torch.from_numpy(scratch.allocate(tuple(weight.shape), "float32"))
    return wide.copy_(weight)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__

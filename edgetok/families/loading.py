"""Loading a checked checkpoint into its Hugging Face class, in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgetok.errors import InputError

if TYPE_CHECKING:
    from edgetok.families.checkpoint import Checkpoint


def load_checkpoint(model_class: Any, checkpoint: Checkpoint, **options: Any) -> Any:
    """Load safetensors weights into `model_class`, in float32 and with eager attention.

    `options` go to the class, such as which parts it shall have.

    Raises:
        InputError: if transformers cannot load it, weights are missing, or values are not finite.
    """
    import torch
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what its report says is raised below, as an error
    logging.disable_progress_bar()
    try:
        model, info = model_class.from_pretrained(
            str(checkpoint.path),
            dtype=torch.float32,
            attn_implementation="eager",
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
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


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__

"""The base as transformers runs it: loaded frozen, and cut down to its head where only the head shall run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from balcony_edge.errors import ModelError
from balcony_export.model.config.completed import FIRST_NAMES, read_config
from balcony_export.model.config.refused import no_head
from balcony_export.model.gguf.folder import linked_files
from balcony_export.model.model_files import first_line
from balcony_export.model.packed.scheme import read_scheme
from balcony_export.model.tensor_source import open_checkpoint


class PassThrough(nn.Module):
    """Takes the place of a model's decoder and returns what it is given, so that only the family's own head runs."""

    def forward(self, inputs_embeds: Tensor | None = None, **_: Any) -> Any:
        """The given hidden states [rows, length, hidden] as a decoder's output."""
        from transformers.modeling_outputs import BaseModelOutputWithPast

        return BaseModelOutputWithPast(last_hidden_state=inputs_embeds)


def read_their_config(folder: Path) -> Any:
    """transformers' own config of a model folder. Raises what transformers raises, and ModelError.

    The first Phi-3 checkpoints call longrope ``su`` or ``yarn``. transformers 5 knows these names, but refuses them
    because it looks for the original context too early. So it gets the new name.
    """
    from transformers import AutoConfig

    raw = read_config(folder)
    scaling = raw.get("rope_scaling") if raw.get("model_type") == "phi3" else None
    if isinstance(scaling, dict) and scaling.get("rope_type", scaling.get("type")) in FIRST_NAMES:
        return AutoConfig.for_model(**{**raw, "rope_scaling": {**scaling, "rope_type": "longrope"}})
    return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def load_frozen(folder: Path, dtype: torch.dtype = torch.float32, eager: bool = True) -> Any:
    """The causal language model in ``folder``: on the CPU, without gradients, in evaluation mode.

    Only safetensors and GGUF are read, quantised ones dequantised. No code of the folder runs. ``eager``: use the plain
    attention, the only one that has every family's quirks (sdpa knows no softcap); otherwise transformers picks the
    fastest for the family. Raises ModelError if transformers cannot load the folder or the weights are not whole.
    """
    from transformers import AutoModelForCausalLM

    if linked_files(folder) or read_scheme(folder) is not None:
        return _load_dequantised(folder, dtype, eager).requires_grad_(False).eval()
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=read_their_config(folder),
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation="eager" if eager else None,
            output_loading_info=True,
        )
        model, report = loaded
    except ModelError:
        raise
    except Exception as error:  # transformers raises many kinds: no weights, broken weights, no memory
        raise ModelError(
            f"cannot load the model in {folder}: {first_line(error)}",
            "give a folder with config.json and whole model.safetensors",
        ) from error
    if "lm_head.weight" in report["missing_keys"]:
        raise no_head(folder)
    if report["missing_keys"]:
        raise ModelError(f"the weights in {folder} lack {min(report['missing_keys'])}", "download the model again")
    return model.requires_grad_(False).eval()


def _load_dequantised(folder: Path, dtype: torch.dtype, eager: bool) -> Any:
    """The model of an unpacked GGUF file or a quantised checkpoint. It is filled one tensor at a time, so that it is in
    memory once.

    transformers has loaders of its own. That of GGUF leaves out what a file says of windows, caps and scaled positions;
    those of AWQ and GPTQ need packages that need a GPU.
    """
    from transformers import AutoModelForCausalLM

    source = open_checkpoint(folder)
    try:
        config = read_their_config(folder)
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        model: Any = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=dtype, trust_remote_code=False, attn_implementation="eager" if eager else None
        )
    except Exception as error:  # transformers raises many kinds
        raise ModelError(f"cannot load the model in {folder}: {first_line(error)}", "upgrade transformers") from error
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # a tied head is not named again
            parameter.copy_(torch.from_numpy(source.tensor(name, tuple(parameter.shape))))
    return model


def quiet() -> None:
    """Switch off transformers' progress bars and warnings, which would come between the lines of a report."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]

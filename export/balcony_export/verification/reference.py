"""The reference that every stage of a bundle must equal: its model, run by transformers in fp32.

Exits run as torch modules: one more layer like the base's last one, called with the same arguments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from balcony_edge.bundle.folder import Bundle
from balcony_edge.errors import ModelError, VerifyError
from balcony_export.exits.balcony import narrow
from balcony_export.exits.gate import Gate
from balcony_export.exits.store import Exits
from balcony_export.model import architectures
from balcony_export.model.gguf.folder import linked_files
from balcony_export.model.packed.scheme import read_scheme
from balcony_export.model.tensor_source import open_checkpoint
from balcony_export.model.transformers_model import PassThrough, load_frozen
from balcony_export.verification.measures import Values

# What to compare a bundle's exits with: trained ones, copies of the base's last layer, or None if there is nothing.
ExitSource = Exits | Literal["init"] | None


class MemoryShortError(VerifyError):
    """This machine cannot hold the fp32 reference and the bundle at once."""


@dataclass(frozen=True)
class ReferenceStates:
    """The hidden states of one pass over a sequence of T tokens, each fp32 [T, hidden]."""

    hidden: dict[int, Values]
    """After k layers, for each split k."""
    final: Values
    """After the last layer and the final norm, as the head reads them."""
    exits: dict[int, Values]
    """What each exit hands to the head, by split; empty if there is nothing to compare exits with."""


class Reference:
    """The frozen model in fp32 on the CPU, with its states at ``splits`` and its ``exits``.

    Raises ModelError if transformers cannot load it.
    """

    def __init__(self, folder: Path, splits: Sequence[int], exits: ExitSource = None) -> None:
        model = load_frozen(folder)
        prefix = str(model.base_model_prefix)
        self._body = getattr(model, prefix)
        setattr(model, prefix, PassThrough())
        self._model = model
        self._layers = _layers(self._body, int(model.config.num_hidden_layers), folder)
        self._splits = tuple(splits)
        # An exit ends in a copy of the final norm. Exits of a family that has none at this place cannot be made here.
        self._exits = exits if isinstance(getattr(self._body, "norm", None), nn.Module) else None
        self._exit_layer = self._layers[-1]
        if isinstance(exits, Exits):
            self._exit_layer = narrow(self._exit_layer, architectures.read(folder), exits.width)

    @property
    def compares_exits(self) -> bool:
        """Whether ``states`` returns those of exits."""
        return self._exits is not None

    @torch.inference_mode()
    def states(self, ids: Sequence[int]) -> ReferenceStates:
        """The hidden states of ``ids`` as one causal sequence from position 0."""
        hidden_at: dict[int, Tensor] = {}
        calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

        with ExitStack() as hooks:
            for split in self._splits:

                def read_states(_: nn.Module, __: Any, output: Any, split: int = split) -> None:
                    hidden_at[split] = output[0] if isinstance(output, tuple) else output

                hooks.callback(self._layers[split - 1].register_forward_hook(read_states).remove)

            def read_arguments(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
                calls.append((arguments[1:], {key: value for key, value in named.items() if key != "hidden_states"}))

            hooks.callback(self._layers[-1].register_forward_pre_hook(read_arguments, with_kwargs=True).remove)
            final = self._body(input_ids=torch.tensor([list(ids)]), use_cache=False).last_hidden_state
        exits = {}
        if self._exits is not None:
            arguments, named = calls[0]
            exits = {split: _values(self._exit(split, hidden_at[split], arguments, named)) for split in self._splits}
        return ReferenceStates({split: _values(hidden) for split, hidden in hidden_at.items()}, _values(final), exits)

    @torch.inference_mode()
    def logits(self, normed: Values) -> Values:
        """Logits [positions, V] of normed hidden states [positions, hidden], by the model's own head."""
        logits = self._model(inputs_embeds=torch.from_numpy(normed)[None], use_cache=False).logits
        return _values(logits)

    @property
    def has_gates(self) -> bool:
        """Whether the exits have gates, which trained ones have."""
        return isinstance(self._exits, Exits)

    @torch.inference_mode()
    def gate(self, split: int, normed: Values) -> Values:
        """The logits [positions] of a split's gate on its exit's normed hidden states [positions, hidden]."""
        assert isinstance(self._exits, Exits)
        gate_rows = torch.from_numpy(self.logits(normed)[:, list(self._exits.frequent_tokens)]).double()
        first, second = gate_rows.log_softmax(-1).topk(2, dim=-1).values.unbind(-1)
        logits = Gate.of(self._exits.gate(split)).logits(first.numpy(), (first - second).numpy())
        return logits.astype(np.float32)

    @torch.inference_mode()
    def greedy(self, ids: Sequence[int], count: int) -> list[int]:
        """Decode ``count`` tokens after ``ids`` greedily; end tokens do not stop it.

        transformers' ``generate`` would apply the settings in generation_config.json, such as repetition penalties.
        """
        found: list[int] = []
        step, cache = torch.tensor([list(ids)]), None
        for _ in range(count):
            out = self._body(input_ids=step, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            found.append(int(self.logits(_values(out.last_hidden_state[:, -1:])).argmax()))
            step = torch.tensor([found[-1:]])
        return found

    def _exit(self, split: int, hidden: Tensor, arguments: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
        call = torch.func.functional_call
        # Called without weights, layer and norm use their own: those of the base, which untrained exits are copies of.
        layers: list[dict[str, Tensor]] = [{}]
        norm: dict[str, Tensor] = {}
        if isinstance(self._exits, Exits):
            layers = [
                {name: torch.from_numpy(value) for name, value in self._exits.layer(split, layer).items()}
                for layer in self._exits.layers
            ]
            norm = {"weight": torch.from_numpy(self._exits.norm(split))}
        for layer in layers:
            out = call(self._exit_layer, layer, (hidden, *arguments), named)
            hidden = out[0] if isinstance(out, tuple) else out
        normed: Tensor = call(self._body.norm, norm, (hidden,))
        return normed


def check_memory(bundle: Bundle, folder: Path) -> None:
    """Raise MemoryShortError unless the fp32 reference and the bundle's weights fit into the free memory."""
    import psutil

    needed = 4 * count_parameters(folder) + sum(entry.bytes for entry in bundle.manifest.files.values())
    available = int(psutil.virtual_memory().available)
    if needed > available:
        raise MemoryShortError(
            f"the fp32 reference beside the bundle needs {needed / 1e9:.1f} GB of memory; "
            f"{available / 1e9:.1f} GB are free",
            "run balcony-edge verify on a bigger machine",
        )


def count_parameters(folder: Path) -> int:
    """How many elements all tensors of a model folder have, from the headers alone."""
    if linked_files(folder) or read_scheme(folder) is not None:
        source = open_checkpoint(folder)
        return sum(math.prod(source.shape(name)) for name in source.names())
    # model*: some folders hold the same weights a second time, under the vendor's names (consolidated.safetensors).
    paths = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("*.safetensors"))
    count = 0
    for path in paths:
        try:
            with safe_open(path, "pt") as handle:
                count += sum(math.prod(handle.get_slice(name).get_shape()) for name in handle.keys())  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise ModelError(f"cannot read {path}: {error}", "download the model again") from error
    return count


def _layers(body: nn.Module, count: int, folder: Path) -> nn.ModuleList:
    """The list of the decoder's layers, whatever the family calls it."""
    for module in body.children():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ModelError(f"{folder}: transformers shows no list of {count} decoder layers", "upgrade transformers")


def _values(tensor: Tensor) -> Values:
    """The only sequence of a batch [1, …], as an fp32 array."""
    values: Values = tensor[0].float().numpy()
    return values

"""Which types a checkpoint holds its matrices in: what is kept of them, and what another precision rounds again."""

from __future__ import annotations

from collections import Counter
from math import prod

from balcony_edge.bundle.manifest import Activations, Formats, Precision
from balcony_edge.errors import ModelError
from balcony_export.model.blueprint import Blueprint
from balcony_export.model.packed.numbers import Form
from balcony_export.model.tensor_source import BaseTensors

HEAD = ("lm_head.weight", "model.embed_tokens.weight")
FLOATS: dict[Activations, str] = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}
Held = Form | Activations


def forms(base: BaseTensors, blueprint: Blueprint, formats: Formats, precision: Precision) -> list[Held]:
    """How the matrices are held that a bundle stores at ``precision``; those of most weights first.

    Reads no weights. Raises ModelError for types whose numbers cannot be given.
    """
    counts: Counter[Held] = Counter()
    for name, shape in blueprint.base_shapes().items():
        if len(shape) == 2 and (formats.head if name in HEAD else formats.base) == precision:
            counts[base.form(name)] += prod(shape)
    return [form for form, _ in counts.most_common()]


def names(held: list[Held]) -> tuple[str, ...]:
    """What the types are called, each once."""
    return tuple(dict.fromkeys(FLOATS[form] if isinstance(form, str) else form.kind for form in held))


def loss(base: BaseTensors, blueprint: Blueprint, formats: Formats) -> str | None:
    """A sentence on what a bundle loses of a checkpoint that is quantised already; None if it loses nothing so.

    fp32 holds every quantised weight exactly. Narrower types round it a second time.
    """
    lossy: list[Precision] = [one for one in ("int8", "int4", "fp16", "bf16") if one in (formats.base, formats.head)]
    said = []
    for precision in lossy:
        try:
            held = [form for form in forms(base, blueprint, formats, precision) if not isinstance(form, str)]
        except ModelError:  # of a type that cannot be kept
            return f"{base.folder.name} is quantised already; {precision} rounds its weights a second time"
        if held:
            said.append(f"{precision} rounds {', '.join(names(list(held)))} a second time")
    if not said:
        return None
    return f"{base.folder.name} is quantised already: {'; '.join(said)}. --precision keep holds its weights exactly"

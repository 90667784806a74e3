"""An export's plan with calibrated weights: the text, what matters, bits for the bytes, and all matrices rounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from balcony_edge.bundle.folder import Bundle
from balcony_edge.errors import ModelError
from balcony_export.bundling.writer import Plan, export_bundle, small_files_bytes
from balcony_export.graphs.formats import ExportOptions
from balcony_export.graphs.layers import EMBEDDING
from balcony_export.model.blueprint import Blueprint
from balcony_export.model.checkpoint import Array, TensorSource
from balcony_export.progress import Progress
from balcony_export.quantising import calibration_text, sensitivity
from balcony_export.quantising.allocation import Offer, allocate
from balcony_export.quantising.balance import balance
from balcony_export.quantising.calibrated import Calibrated
from balcony_export.quantising.calibration_text import Sequences
from balcony_export.quantising.forms import offered, stored_bytes, usual
from balcony_export.quantising.sensitivity import Sensitivity
from balcony_export.quantising.size import Size
from balcony_export.quantising.streamed_head import StreamedHead
from balcony_export.quantising.walk import round_layers

# So many tokens say which matrices matter; each layer runs on them once for each layer before it. And so many sequences
# say what the inputs are like.
SENSITIVITY_TOKENS, SENSITIVITY_SEQUENCES = 256, 5
# What manifest and card may take; they are written last.
MARGIN_BYTES = 1 << 16


@dataclass(frozen=True)
class Calibration:
    """What the user asks of a calibrated export."""

    size: Size | None = None
    """The most that the bundle may take; None: the usual size of the precision."""
    text: Path | None = None
    """None: the base's own samples."""


@contextmanager
def calibrated(plan: Plan, wanted: Calibration, say: Callable[[str], None]) -> Iterator[Plan]:
    """The plan with its base's matrices rounded for a text. What it needs on disk is there inside the ``with``.

    ``say`` gets a line about each step. Raises ModelError for a size that is too small, DataError for a text that
    cannot be used.
    """
    blueprint, base = plan.blueprint, plan.parts.base
    shapes = matrix_shapes(blueprint)
    budget = _budget(plan, shapes, wanted.size)
    with TemporaryDirectory(prefix="balcony-calibration-") as temporary:
        folder = Path(temporary)
        sequences = _text(plan, wanted.text, folder / "draft", say)
        embedded = _embedded(blueprint, base, sequences)
        say("measuring what each matrix matters")
        first, *others = embedded[:: max(1, len(embedded) // SENSITIVITY_SEQUENCES)]
        first = first[:, -SENSITIVITY_TOKENS:]
        choice = partial(offered, formats=plan.formats, exactness=plan.options.attention())
        with Progress("sensitivity, layers", blueprint.arch.layers) as progress:
            head = StreamedHead(blueprint, base)
            found = sensitivity.measure(blueprint, base, first, others, choice, head, progress.reach)
        if plan.formats.base == "int8":
            # At 8 bits, rounded activations cost more than rounded weights. At 4 bits it is the other way round.
            base = balance(blueprint, base, {name: one.importance for name, one in found.items()})
        chosen = allocate(_offers(found), budget)
        forms = {name: offer.blocks for name, offer in chosen.items()}
        rounded = Calibrated(forms, folder, plan.parts.quantiser)
        say(f"rounding for {calibration_text.tokens(sequences):,} tokens: {mixture(rounded, shapes)}")
        with Progress("rounding, layers", blueprint.arch.layers) as progress:
            round_layers(blueprint, base, embedded, rounded.forms, rounded.keep, progress.reach)
        yield replace(plan, parts=replace(plan.parts, base=base, quantiser=rounded))


def expected(plan: Plan, size: Size | None) -> Plan:
    """The plan for a dry run: as large as the calibrated one will be, each matrix equally important."""
    shapes = matrix_shapes(plan.blueprint)
    budget = _budget(plan, shapes, size)
    arch = plan.blueprint.arch
    offers = {
        name: [
            # Noise halves its square for each half a bit more in this estimate.
            Offer(
                one, stored_bytes(shape, one), shape[0] * shape[1] * 4.0**-one.bits * (1 + one.size / 64) / arch.hidden
            )
            for one in offered(shape[1], plan.formats, plan.options.attention())
        ]
        for name, shape in shapes.items()
    }
    chosen = allocate(offers, budget)
    return replace(plan, parts=replace(plan.parts, quantiser=Calibrated({n: o.blocks for n, o in chosen.items()})))


def mixture(quantiser: Calibrated, shapes: Mapping[str, tuple[int, int]]) -> str:
    """What the matrices of the layers take, in words: bits a weight, and the share of each kind of blocks."""
    weights, bits = 0, 0.0
    kinds: dict[str, int] = {}
    for name, blocks in quantiser.forms.items():
        count = shapes[name][0] * shapes[name][1]
        weights += count
        bits += 8 * stored_bytes(shapes[name], blocks)
        kind = f"{blocks.bits} bits in {blocks.size}s{'' if blocks.symmetric else ' with zero points'}"
        kinds[kind] = kinds.get(kind, 0) + count
    shares = ", ".join(f"{kind} {count / weights:.0%}" for kind, count in sorted(kinds.items()))
    return f"{bits / weights:.2f} bits a weight ({shares})"


def matrix_shapes(blueprint: Blueprint) -> dict[str, tuple[int, int]]:
    """The matrices of the base's layers by their names in the graphs, with their shapes [out, in]."""
    arch, query = blueprint.arch, blueprint.query_width
    one = {
        "attn.qkv_proj": (query + 2 * blueprint.key_width, arch.hidden),
        "attn.o_proj": (arch.hidden, query),
        "mlp.gate_proj": (arch.intermediate, arch.hidden),
        "mlp.up_proj": (arch.intermediate, arch.hidden),
        "mlp.down_proj": (arch.hidden, arch.intermediate),
    }
    return {f"model.layers.{index}.{name}": shape for index in range(arch.layers) for name, shape in one.items()}


def _budget(plan: Plan, shapes: Mapping[str, tuple[int, int]], size: Size | None) -> int:
    """The most bytes of the layers' matrices. Raises ModelError if the bundle cannot be as small as ``size``."""
    exactness = plan.options.attention()
    forms = {name: usual(shape[1], plan.formats, exactness) for name, shape in shapes.items()}
    standard = sum(stored_bytes(shapes[name], blocks) for name, blocks in forms.items())
    if size is None:
        return standard
    with_usual = replace(plan, parts=replace(plan.parts, quantiser=Calibrated(forms, others=plan.parts.quantiser)))
    rest = whole_bytes(with_usual) - standard
    fp32 = 4 * sum(int(np.prod(shape)) for shape in plan.blueprint.base_shapes().values())
    limit = size.limit(fp32)
    least = sum(
        min(stored_bytes(shape, one) for one in offered(shape[1], plan.formats, exactness)) for shape in shapes.values()
    )
    if limit < rest + least:
        raise ModelError(
            f"the bundle cannot be as small as {limit / 1e6:.1f} MB: the smallest has {(rest + least) / 1e6:.1f} MB, "
            f"{rest / 1e6:.1f} MB of it beside the layers' matrices",
            f"ask for --size {int(np.ceil((rest + least) / 1e6))}MB, or less with --head int4 or a shorter --context",
        )
    return limit - rest


def whole_bytes(plan: Plan) -> int:
    """How large the bundle of a plan will be, at most."""
    written = plan.dry_run()
    graphs = sum(item.graph_bytes for item in written.graphs)
    return graphs + written.full_bytes + written.weight_bytes + small_files_bytes(plan.folder) + MARGIN_BYTES


def _offers(found: Mapping[str, Sensitivity]) -> dict[str, list[Offer]]:
    return {
        name: [Offer(blocks, stored_bytes(one.shape, blocks), one.loss(blocks)) for blocks in one.noises]
        for name, one in found.items()
    }


def _text(plan: Plan, text: Path | None, draft: Path, say: Callable[[str], None]) -> Sequences:
    """The calibration text, from a draft of the bundle: the base at 8 bits, without exits."""
    context = min(calibration_text.LENGTH, plan.blueprint.arch.context)
    options = ExportOptions(precision="int8", block_size=plan.options.block_size)
    bundle: Bundle = export_bundle(plan.folder, draft, model="draft", splits=[], options=options, context=context)
    if text is not None:
        return calibration_text.from_file(bundle, text)
    say("sampling text from the base (kept for its next export)")
    with Progress("samples, positions", context) as progress:
        return calibration_text.own_samples(bundle, progress.reach)


def _embedded(blueprint: Blueprint, base: TensorSource, sequences: Sequence[Sequence[int]]) -> list[Array]:
    """The embeddings of each sequence, fp32 [1, positions, hidden]."""
    used = sorted({token for ids in sequences for token in ids})
    rows = np.concatenate([base.rows(f"{EMBEDDING}.weight", token, token + 1) for token in used])
    rows *= np.float32(blueprint.embedding_scale)
    places = {token: place for place, token in enumerate(used)}
    return [rows[[places[token] for token in ids]][None] for ids in sequences]

"""Find the exits of a bundle: trained ones from a folder, copies of the base's last layer, or none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from balcony_edge.bundle.manifest import ExitQuality
from balcony_edge.errors import ExitsError, ModelError
from balcony_edge.files import values
from balcony_export.exits.store import MANIFEST, READER, RETRAIN, load
from balcony_export.model.architectures import check_splits
from balcony_export.model.blueprint import Blueprint
from balcony_export.model.checkpoint import Array, Tensors, TensorSource


class Renamed:
    """The tensors of another source under new names. ``names``: the source's name of each new name."""

    def __init__(self, source: TensorSource, names: Mapping[str, str]) -> None:
        self._source = source
        self._names = names

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading its values."""
        return self._source.shape(self._names[name])

    def expect(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise ModelError unless the tensor is there with this shape."""
        self._source.expect(self._names[name], shape)

    def tensor(self, name: str, shape: tuple[int, ...] | None = None) -> Array:
        """The values as float32."""
        return self._source.tensor(self._names[name], shape)

    def rows(self, name: str, start: int, stop: int) -> Array:
        """Rows [start, stop) of the leading dimension as float32."""
        return self._source.rows(self._names[name], start, stop)


def initial_exits(base: TensorSource, blueprint: Blueprint, splits: list[int]) -> Renamed:
    """Untrained exits: copies of the base's last layer and final norm (arXiv 2503.05005, section 3: initialisation)."""
    last = f"model.layers.{blueprint.arch.layers - 1}."
    names: dict[str, str] = {}
    for split in splits:
        names |= {f"exits.{split}.layer.{name}": last + name for name in blueprint.layer_shapes()}
        names[f"exits.{split}.norm.weight"] = "model.norm.weight"
    return Renamed(base, names)


class ChosenExits(NamedTuple):
    """The exits that an export puts into its bundle."""

    source: TensorSource | None
    """Their tensors; None: the bundle gets no exits."""
    quality: dict[int, ExitQuality]
    """What was measured in training, by split; empty for untrained exits."""
    splits: list[int]
    training: Mapping[str, Any] | None = None
    """The settings of their training, see Exits; None for untrained exits."""
    frequent_tokens: tuple[int, ...] = ()
    """The tokens whose rows of the head their gates read; untrained exits have no gates."""
    guesses: tuple[float, ...] = ()
    """How often the draft stage's guesses in a row are right; () without a draft stage."""


def find_exits(
    exits: Path | str | None, splits: list[int] | None, base: TensorSource, blueprint: Blueprint, folder: Path
) -> ChosenExits:
    """The exits that a caller of ``export_bundle`` asks for by ``exits`` and ``splits``.

    Raises ExitsError for trained exits that cannot be read or belong to another base, ModelError for splits that do not
    fit.
    """
    layers = blueprint.arch.layers
    if isinstance(exits, Path):
        trained = load(exits)
        trained.check_base(folder)
        if splits is not None and not set(splits) <= set(trained.splits):
            raise ModelError(
                f"the exits in {exits} were trained at {list(trained.splits)}, not at {splits}",
                "leave --splits out, or name some of those",
            )
        if trained.frequent_tokens[-1] >= blueprint.arch.vocabulary:
            raise ExitsError(f"{exits} names frequent_tokens outside the vocabulary", RETRAIN)
        chosen = check_splits(list(splits or trained.splits), layers)
        measured = trained.quality["exits"]
        with READER.explained(exits / MANIFEST):
            quality = {split: ExitQuality.model_validate(_only(measured[str(split)], chosen)) for split in chosen}
            guesses = (
                [
                    values.number(share, "quality.draft.accepted", 0.0, 1.0)
                    for share in values.listed(trained.quality["draft"]["accepted"], "quality.draft.accepted")
                ]
                if trained.has_draft
                else []
            )
        return ChosenExits(
            Tensors(trained.tensors), quality, chosen, trained.training, trained.frequent_tokens, tuple(guesses)
        )
    if splits is None:
        splits = sorted({max(1, layers * part // 4) for part in (1, 2, 3)} - {layers})
    # Without exits there may be no split at all: the uncut model is a baseline for measurements.
    chosen = [] if not splits and exits is None else check_splits(splits, layers)
    return ChosenExits(initial_exits(base, blueprint, chosen) if exits == "init" else None, {}, chosen)


def _only(quality: dict[str, object], splits: list[int]) -> dict[str, object]:
    """The measured quality of an exit, without what its tables say of exits that are not exported."""
    bins = json.loads(json.dumps(quality["bins"]))
    for name in ("agreement", "following"):
        bins[name] = {depth: rows for depth, rows in bins.get(name, {}).items() if int(depth) in splits}
    return {**quality, "bins": bins}

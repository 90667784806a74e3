"""The folder of trained exits: what is saved is loaded, and what is broken is refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from balcony_edge.errors import ExitsError
from balcony_export.exits import store
from balcony_export.exits.store import GATE_SHAPES, Exits

LAYER_TENSORS = ("input_layernorm.weight", "self_attn.o_proj.weight", "mlp.up_proj.weight")
HIDDEN = 6


def sample() -> Exits:
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {}
    for split in (1, 2):
        shapes |= {f"exits.{split}.layer.{name}": (HIDDEN, HIDDEN) for name in LAYER_TENSORS}
        shapes[f"exits.{split}.norm.weight"] = (HIDDEN,)
        shapes |= {f"gates.{split}.{name}": shape for name, shape in GATE_SHAPES.items()}
    return Exits(
        splits=(1, 2),
        base_model="toy",
        base_sha256="ab" * 32,
        training={"steps": 3},
        quality={"heldout_tokens": 10, "full_loss_nats": 1.0, "exits": {"1": {}, "2": {}}},
        frequent_tokens=(0, 3, 4),
        tensors={name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()},
    )


def test_saved_exits_load_as_they_were(tmp_path: Path) -> None:
    saved = sample()
    store.save(tmp_path / "exits", saved)
    loaded = store.load(tmp_path / "exits")
    assert replace(loaded, tensors={}) == replace(saved, tensors={})
    assert loaded.tensors.keys() == saved.tensors.keys()
    assert all(np.array_equal(loaded.tensors[name], value) for name, value in saved.tensors.items())
    assert sorted(path.name for path in (tmp_path / "exits").iterdir()) == ["exits.json", "exits.safetensors"]
    assert set(loaded.layer(2)) == set(LAYER_TENSORS)
    assert loaded.gate(2)["weight"].shape == GATE_SHAPES["weight"]
    assert loaded.norm(1).shape == (HIDDEN,)


def drafting() -> Exits:
    """Exits with a draft stage."""
    plain = sample()
    rng = np.random.default_rng(1)
    shapes = {f"layer.{name}": (HIDDEN, HIDDEN) for name in LAYER_TENSORS}
    shapes |= {f"{name}.weight": (HIDDEN,) for name in ("norm", "state_norm", "token_norm")}  # type: ignore[dict-item]
    shapes["join.weight"] = (HIDDEN, 2 * HIDDEN)
    stage = {f"exits.draft.{name}": rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return replace(plain, tensors={**plain.tensors, **stage})


def test_a_draft_stage_is_kept_beside_them(tmp_path: Path) -> None:
    store.save(tmp_path, drafting())
    assert store.load(tmp_path).has_draft
    assert not sample().has_draft


@pytest.mark.parametrize("name", ["norm.weight", "state_norm.weight", "layer.mlp.up_proj.weight"])
def test_a_draft_stage_that_is_not_whole(tmp_path: Path, name: str) -> None:
    exits = drafting()
    lacking = {key: value for key, value in exits.tensors.items() if key != f"exits.draft.{name}"}
    store.save(tmp_path / "lacking", replace(exits, tensors=lacking))
    with pytest.raises(ExitsError, match=f"has no exits.draft.{name}"):
        store.load(tmp_path / "lacking")
    broken = {**exits.tensors, f"exits.draft.{name}": exits.tensors[f"exits.draft.{name}"] * np.float32("nan")}
    store.save(tmp_path / "broken", replace(exits, tensors=broken))
    with pytest.raises(ExitsError, match="NaN or infinite"):
        store.load(tmp_path / "broken")


def test_gates_of_four_weights_say_what_they_said(tmp_path: Path) -> None:
    saved = sample()
    store.save(tmp_path, saved)
    tensors = load_file(tmp_path / "exits.safetensors")
    for split in saved.splits:
        tensors[f"gates.{split}.weight"] = tensors[f"gates.{split}.weight"][:4]
    save_file(tensors, tmp_path / "exits.safetensors")
    edit(tmp_path, schema=2, weights_sha256=None)
    for split in saved.splits:
        assert store.load(tmp_path).gate(split)["weight"].tolist() == [*saved.gate(split)["weight"][:4].tolist(), 0.0]


def truncate(folder: Path) -> None:
    path = folder / "exits.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def drop_tensor(folder: Path) -> None:
    tensors = load_file(folder / "exits.safetensors")
    del tensors["exits.2.layer.mlp.up_proj.weight"]
    rewrite(folder, tensors)


def narrow(folder: Path) -> None:
    tensors = load_file(folder / "exits.safetensors")
    tensors["exits.1.norm.weight"] = tensors["exits.1.norm.weight"].astype(np.float16)
    rewrite(folder, tensors)


def misshape(folder: Path) -> None:
    tensors = load_file(folder / "exits.safetensors")
    tensors["gates.1.weight"] = np.zeros((3,), np.float32)
    rewrite(folder, tensors)


def edit(folder: Path, **changes: object) -> None:
    """Change exits.json, with a digest that fits."""
    path = folder / "exits.json"
    changed = {**json.loads(path.read_text()), **changes}
    manifest = {name: value for name, value in changed.items() if value is not None}
    path.write_text(json.dumps({**manifest, "sha256": store._digest(manifest)}))


def as_earlier(folder: Path) -> None:
    """As a version without digests would have written it."""
    path = folder / "exits.json"
    manifest = {**json.loads(path.read_text()), "schema": 3}
    del manifest["sha256"], manifest["weights_sha256"]
    path.write_text(json.dumps(manifest))


def rewrite(folder: Path, tensors: dict[str, np.ndarray]) -> None:  # type: ignore[type-arg]
    """Other weights in the folder, under a description that has no digest of them."""
    save_file(tensors, folder / "exits.safetensors")
    as_earlier(folder)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "exits.json").unlink(), r"no exits\.json; found \['exits\.safetensors'\]"),
        (lambda folder: (folder / "exits.json").write_text("{"), r"cannot read .*exits\.json"),
        (lambda folder: (folder / "exits.json").write_text("[]"), r"exits\.json: it holds no JSON object"),
        (lambda folder: edit(folder, schema=1), r"exits\.json has schema 1"),
        (lambda folder: edit(folder, base=None), r"cannot read .*exits\.json"),
        (lambda folder: edit(folder, splits=[1, 3]), r"exits\.json names splits \[1, 3\]"),
        (lambda folder: (folder / "exits.safetensors").unlink(), r"has no exits\.safetensors"),
        (truncate, r"cannot read .*exits\.safetensors"),
        (drop_tensor, r"exits\.safetensors has no exits\.2\.layer\.mlp\.up_proj\.weight"),
        (narrow, r"exits\.1\.norm\.weight is float16"),
        (lambda folder: edit(folder, training={"width": "mlp"}), r"holds exits of width layer; exits\.json says mlp"),
        (misshape, r"gates\.1\.weight has shape \[3\]"),
        (lambda folder: edit(folder, frequent_tokens=None), r"exits\.json: it lacks 'frequent_tokens'"),
        (lambda folder: edit(folder, frequent_tokens=[4, 3]), r"frequent_tokens that are no ascending token ids"),
        (lambda folder: edit(folder, frequent_tokens=[-1, 3]), r"one of frequent_tokens is -1"),
        (lambda folder: edit(folder, frequent_tokens=[1]), r"frequent_tokens that are no ascending token ids"),
    ],
)
def test_a_broken_folder_is_refused_by_name(tmp_path: Path, damage: Callable[[Path], object], words: str) -> None:
    store.save(tmp_path, sample())
    damage(tmp_path)
    with pytest.raises(ExitsError, match=words) as caught:
        store.load(tmp_path)
    assert caught.value.hint


def test_a_changed_byte_is_found_in_both_files(tmp_path: Path) -> None:
    """It would be other exits, or other probabilities of their gates and judges."""
    store.save(tmp_path, sample())
    for name, step in (("exits.json", 7), ("exits.safetensors", 1999)):
        path = tmp_path / name
        whole = path.read_bytes()
        for at in range(9, len(whole), step):
            if not whole[at : at + 1].isspace():
                path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
                with pytest.raises(ExitsError) as caught:
                    store.load(tmp_path)
                assert caught.value.hint
        path.write_bytes(whole)
    store.load(tmp_path)


def test_weights_of_other_exits_are_refused(tmp_path: Path) -> None:
    store.save(tmp_path / "one", sample())
    other = sample()
    other.tensors["exits.1.norm.weight"][0] += 1  # type: ignore[index]
    store.save(tmp_path / "two", other)
    (tmp_path / "two" / "exits.safetensors").replace(tmp_path / "one" / "exits.safetensors")
    with pytest.raises(ExitsError, match=r"does not belong to this exits\.json"):
        store.load(tmp_path / "one")


def test_exits_of_versions_without_digests_are_read(tmp_path: Path) -> None:
    store.save(tmp_path, sample())
    as_earlier(tmp_path)
    assert store.load(tmp_path).training == {"steps": 3}


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExitsError, match="found nothing"):
        store.load(tmp_path / "nowhere")


def test_the_base_is_known_by_its_weights_and_config(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_bytes(b"weights")
    (base / "README.md").write_text("a")
    trained = replace(sample(), base_sha256=store.base_digest(base))
    (base / "README.md").write_text("b")
    trained.check_base(base)
    (base / "model.safetensors").write_bytes(b"other")
    with pytest.raises(ExitsError, match="trained on toy"):
        trained.check_base(base)


def test_reading_exits_needs_no_torch() -> None:
    code = "import sys, balcony_export.exits.store, balcony_export.cli.train; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

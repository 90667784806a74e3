"""Thin bundles: completed they are the whole ones, file by file; a wrong base, lies and failures leave nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from balcony_edge import Bundle, open_bundle
from balcony_edge.bundle import completing
from balcony_edge.bundle.folder import ThinBundle
from balcony_edge.bundle.hub import pull, push
from balcony_edge.bundle.manifest import CARRIED_NAME
from balcony_edge.errors import BalconyError, BundleError, ModelError
from balcony_export.bundling import thin as thin_bundles
from balcony_export.bundling.thin import make_thin
from balcony_export.bundling.writer import export_bundle
from balcony_export.graphs.formats import ExportOptions
from balcony_export.graphs.weights import WeightFile
from balcony_export.model.download import resolve
from helpers.command import fails, here
from helpers.families import ROWS, make_model
from helpers.gguf_files import Kind, write
from helpers.packed_checkpoints import write_packed
from helpers.places import DEMO_BASE, DEMO_EXITS
from helpers.stub_hub import TOKEN, StubHub, stub_hub


class Case(NamedTuple):
    """An export."""

    base: str
    """ "tied", "untied", "gguf", "Q4_1" or "gptq" (of the tied one), or "demo"."""
    exits: str
    options: ExportOptions


CASES = {
    "fp32, as checkpoints are": Case("tied", "init", ExportOptions()),
    "fp16, head apart": Case("untied", "none", ExportOptions(precision="fp16")),
    "int8 with an int8 cache": Case("gguf", "init", ExportOptions(precision="int8", cache="int8")),
    "int8 with zero points": Case("untied", "init", ExportOptions(precision="int8", symmetric=False)),
    "int4, head apart": Case("untied", "init", ExportOptions(precision="int4")),
    "int4 of a GGUF file": Case("gguf", "none", ExportOptions(precision="int4", head="int8")),
    "kept, with offsets": Case("Q4_1", "init", ExportOptions(precision="keep")),
    "kept, with inputs in another order": Case("gptq", "none", ExportOptions(precision="keep")),
    "trained exits": Case("demo", "trained", ExportOptions(precision="int4", exits="int8", cache="int8")),
    "trained exits, fp32": Case("demo", "trained", ExportOptions()),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small random models by name, as their user has them."""
    folder = tmp_path_factory.mktemp("bases")
    tied = make_model(folder / "tied", *ROWS["SmolLM2, tied"])
    make_model(folder / "untied", *ROWS["Llama 3.x, rope llama3, sharded"])
    file = write(folder / "tiny.Q8_0.gguf", tied, Kind.Q8_0)
    minimums = write(folder / "tiny.Q4_1.gguf", tied, Kind.Q4_1)
    write_packed(folder / "tied", folder / "gptq", "gptq", act_order=True)
    more = {"Q4_1": minimums, "gptq": folder / "gptq"}
    return more | {"tied": folder / "tied", "untied": folder / "untied", "gguf": file, "demo": DEMO_BASE}


def made(case: Case, bases: dict[str, Path], out: Path) -> Bundle:
    exits: Any = DEMO_EXITS if case.exits == "trained" else None if case.exits == "none" else case.exits
    base = bases[case.base]
    return export_bundle(resolve(str(base)), out, model=str(base), exits=exits, options=case.options)


@pytest.fixture(scope="module")
def whole(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of the GGUF file."""
    return made(CASES["int8 with an int8 cache"], bases, tmp_path_factory.mktemp("whole") / "b")


@pytest.fixture
def thin(whole: Bundle, tmp_path: Path) -> Path:
    """Its thin form, which a test may damage."""
    return make_thin(whole, tmp_path / "thin").path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def change(thin: Path, **changes: Any) -> None:
    """Change entries of the manifest."""
    path = thin / "balcony.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def completes(thin: Path, base: Path, out: Path) -> None:
    pull(str(thin), out, base=str(base))


def leaves_nothing(thin: Path, base: Path, *words: str) -> None:
    """Completing fails with these words, and nothing is different then."""
    place = thin.parent
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    with pytest.raises(BalconyError) as caught:
        completes(thin, base, place / "out")
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before
    for word in words:
        assert word in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_completed_it_is_the_whole_bundle_file_by_file(case: Case, bases: dict[str, Path], tmp_path: Path) -> None:
    whole = made(case, bases, tmp_path / "whole")
    thin = make_thin(whole, tmp_path / "thin")
    assert not (thin.path / "weights.bin").exists()
    # A release of balcony-edge that wrote tensors in another order completes it all the same.
    completes(thin.path, bases[case.base], tmp_path / "out")
    assert contents(tmp_path / "out") == contents(whole.path)


@pytest.mark.long
@pytest.mark.parametrize("name", ROWS)
def test_every_family(name: str, tmp_path: Path) -> None:
    make_model(tmp_path / "model", *ROWS[name])
    whole = export_bundle(tmp_path / "model", tmp_path / "whole", model="m", exits="init")
    thin = make_thin(whole, tmp_path / "thin")
    completes(thin.path, tmp_path / "model", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(whole.path)


def test_nothing_of_the_base_is_in_it(bases: dict[str, Path], tmp_path: Path) -> None:
    """Neither its matrices nor the exits that are copies of its last layer: rotary tables alone."""
    whole = made(CASES["fp32, as checkpoints are"], bases, tmp_path / "whole")
    thin = make_thin(whole, tmp_path / "thin")
    arch = whole.manifest.architecture
    assert thin.recipe.carried.bytes == 2 * 4 * (arch.context + 1) * arch.head_dim // 2


def test_the_demos_weights_come_out_as_shipped(tmp_path: Path) -> None:
    """If other bytes come out of the same options, the recipe needs a new version."""
    options = ExportOptions(precision="int8")
    bundle = export_bundle(DEMO_BASE, tmp_path / "b", model="demo", exits=DEMO_EXITS, options=options)
    assert bundle.manifest.files["weights.bin"] == Bundle.demo().manifest.files["weights.bin"]
    assert thin_bundles.VERSION == 1


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_wrong_base_is_refused_by_name_before_anything_is_written(
    thin: Path, bases: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = hashlib.sha256(bases["gguf"].read_bytes()).hexdigest()
    # Not even the place for what is not complete yet.
    monkeypatch.setattr("balcony_edge.bundle.hub.whole_folder", None)
    for base in (bases["tied"], bases["untied"], DEMO_BASE):
        leaves_nothing(thin, base, str(base), "Tiny Test (tiny.Q8_0.gguf)", digest)
    monkeypatch.setattr(completing, "whole_folder", None)
    with pytest.raises(ModelError, match="is not the base"):
        open_bundle(thin, base=DEMO_BASE)
    leaves_nothing(thin, thin.parent / "nowhere", "nowhere")
    leaves_nothing(thin, thin, "config.json")


def test_a_thin_bundle_that_was_changed_is_refused(thin: Path, bases: dict[str, Path]) -> None:
    path = thin / CARRIED_NAME
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    leaves_nothing(thin, bases["gguf"], CARRIED_NAME, "sha256")
    # With a manifest that lies along: the weights' own digest tells.
    recipe = json.loads((thin / "balcony.json").read_text())["recipe"]
    lie = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    change(thin, recipe=recipe | {"carried": lie})
    leaves_nothing(thin, bases["gguf"], "weights.bin came out other", "onnxruntime")
    path.write_bytes(content[:-4])
    lie = {"bytes": len(content) - 4, "sha256": hashlib.sha256(content[:-4]).hexdigest()}
    change(thin, recipe=recipe | {"carried": lie})
    leaves_nothing(thin, bases["gguf"], "end too early")


def test_recipes_that_cannot_be_followed(thin: Path, bases: dict[str, Path]) -> None:
    manifest = json.loads((thin / "balcony.json").read_text())
    change(thin, recipe=manifest["recipe"] | {"version": 99})
    leaves_nothing(thin, bases["gguf"], "version 99", manifest["recipe"]["made_with"])
    change(thin, recipe=manifest["recipe"] | {"rounding": "by moonlight"})
    leaves_nothing(thin, bases["gguf"], "by moonlight", "--precision")
    change(thin, recipe=manifest["recipe"] | {"exits": "none"})
    leaves_nothing(thin, bases["gguf"], "exits.")
    change(thin, recipe=manifest["recipe"], formats=manifest["formats"] | {"base": "fp32"})
    leaves_nothing(thin, bases["gguf"], "does not go with its base")
    change(thin, recipe=manifest["recipe"], formats=manifest["formats"] | {"block_size": 0})
    leaves_nothing(thin, bases["gguf"], "block_size")


def test_which_bundles_cannot_be_thin(whole: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="export it again"):
        make_thin(Bundle.demo(), tmp_path / "thin")
    shutil.copytree(whole.path, tmp_path / "calibrated")
    recipe = json.loads((whole.path / "balcony.json").read_text())["recipe"]
    change(tmp_path / "calibrated", recipe=recipe | {"rounding": "calibrated"})
    with pytest.raises(BundleError, match="calibrated"):
        make_thin(Bundle(tmp_path / "calibrated"), tmp_path / "thin")
    assert [path.name for path in tmp_path.iterdir()] == ["calibrated"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_completion_that_fails_leaves_nothing(
    thin: Path, bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(WeightFile, "copy", fail)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((KeyboardInterrupt, BalconyError)):
        completes(thin, bases["gguf"], tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before


def test_links_and_missing_packages(
    thin: Path, bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completing.metadata, "entry_points", lambda group: [])
    leaves_nothing(thin, bases["gguf"], "balcony-edge[export]")
    monkeypatch.undo()
    outside = tmp_path / "outside"
    (thin / CARRIED_NAME).rename(outside)
    (thin / CARRIED_NAME).symlink_to(outside)
    leaves_nothing(thin, bases["gguf"], "leads outside")


# --- how it is used ---------------------------------------------------------------------------------------------------


def test_without_its_base_it_says_what_to_do(thin: Path, tmp_path: Path) -> None:
    words = ("thin bundle", "Tiny Test (tiny.Q8_0.gguf)", f"balcony-edge pull {thin} --base MODEL")
    with pytest.raises(BundleError) as caught:
        Bundle(thin)
    assert all(word in str(caught.value) for word in words)
    for arguments in (("run", str(thin), "-p", "ab"), ("bench", str(thin))):
        fails(here(*arguments), *words)
    shown = here("inspect", str(thin))
    assert shown.returncode == 0
    assert "thin: without the base's weights" in shown.stdout
    assert CARRIED_NAME in shown.stdout
    pulled = here("pull", str(thin), "-o", str(tmp_path / "still-thin"))
    assert pulled.returncode == 0
    assert "balcony-edge pull" in pulled.stderr
    assert contents(tmp_path / "still-thin") == contents(thin)
    whole = Bundle.demo().path
    fails(here("pull", str(whole), "-o", str(tmp_path / "o"), "--base", str(DEMO_BASE)), "no thin bundle")
    fails(here("run", str(whole), "-p", "ab", "--base", str(DEMO_BASE)), "no thin bundle", "--base")


def test_a_hub_base_is_named_in_the_command(thin: Path) -> None:
    sha = json.loads((thin / "balcony.json").read_text())["base"]["sha256"]
    for name, said in (("owner/m:a.gguf", "owner/m:a.gguf"), ("owner/m", "owner/m"), ("owner/m; rm -r", "MODEL")):
        change(thin, base={"model": name, "sha256": sha})
        with pytest.raises(BundleError) as caught:
            Bundle(thin)
        assert f"--base {said} " in caught.value.hint


def test_the_verb_says_the_sizes(whole: Bundle, tmp_path: Path) -> None:
    result = here("thin", str(whole.path), "-o", str(tmp_path / "thin"))
    assert result.returncode == 0, result.stderr
    assert "MB of" in result.stderr
    assert "Tiny Test" in result.stderr


@pytest.fixture
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BALCONY_CACHE_DIR", str(tmp_path / "cache"))


@pytest.mark.usefixtures("_own_cache")
def test_a_second_run_finds_it_completed(
    thin: Path, whole: Bundle, bases: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("run", str(thin), "-p", "ab", "-n", "2", "--no-audit")
    first = here(*arguments, "--base", str(bases["gguf"]))
    assert first.returncode == 0, first.stderr
    monkeypatch.setattr(completing, "find_base", None)
    for more in ((), ("--base", str(bases["gguf"]))):
        again = here(*arguments, *more)
        assert again.returncode == 0, again.stderr
        assert again.stdout == first.stdout
    assert contents(open_bundle(thin).path) == contents(whole.path)
    # A manifest that says anything else is another bundle.
    change(thin, quality={})
    (thin / "balcony.json").write_text((thin / "balcony.json").read_text() + "\n")
    with pytest.raises(BundleError, match="thin bundle"):
        open_bundle(thin)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StubHub]:
    """A Hub on loopback; the client reads its environment at import only."""
    constants = pytest.importorskip("huggingface_hub").constants
    with stub_hub() as running:
        place = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", place)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield running


@pytest.mark.usefixtures("_own_cache")
def test_it_is_shared_through_the_hub(
    hub: StubHub, thin: Path, whole: Bundle, bases: dict[str, Path], tmp_path: Path
) -> None:
    hub.commits["owner/b"] = [contents(whole.path)]
    push(ThinBundle(thin), "owner/b")
    # What was whole before is thin now, weights and all.
    assert set(hub.commits["owner/b"][-1]) == set(contents(thin))
    pull("owner/b", tmp_path / "out", base=str(bases["gguf"]))
    assert contents(tmp_path / "out") == contents(whole.path)
    with pytest.raises(ModelError, match="is not the base"):
        pull("owner/b", tmp_path / "out", base=str(DEMO_BASE))
    with pytest.raises(BundleError, match="balcony-edge pull owner/b --base MODEL"):
        open_bundle("owner/b")
    assert contents(open_bundle("owner/b", base=bases["gguf"]).path) == contents(whole.path)
    # And the other way round.
    push(whole, "owner/b")
    assert set(hub.commits["owner/b"][-1]) == set(contents(whole.path))


def test_a_folder_home_gives_back_the_thin_bundle(thin: Path, tmp_path: Path) -> None:
    push(ThinBundle(thin), str(tmp_path / "mirror"))
    pull(str(tmp_path / "mirror"), tmp_path / "back")
    assert contents(tmp_path / "back") == contents(thin)

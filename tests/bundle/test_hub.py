"""Bundles that are shared: through a folder, and through a stand-in for the Hub."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from balcony_edge import Bundle, BundleError, HubError
from balcony_edge.bundle.card import split_card
from balcony_edge.bundle.hub import FolderHome, home, pull, push
from balcony_edge.bundle.hub_errors import require_client
from balcony_edge.bundle.open import open_bundle
from helpers.command import cli, fails, here
from helpers.stub_hub import TOKEN, StubHub, stub_hub

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the demo bundle that a test may damage."""
    return Path(shutil.copytree(Bundle.demo().path, tmp_path / "bundle"))


@pytest.fixture
def hub() -> Iterator[StubHub]:
    """An empty Hub on loopback."""
    pytest.importorskip("huggingface_hub")
    with stub_hub() as running:
        yield running


@pytest.fixture
def at(hub: StubHub, tmp_path: Path) -> Cli:
    """The command line, logged in at the stub, with caches of its own."""

    def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        settings = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "BALCONY_CACHE_DIR": str(tmp_path / "cache"),
            "NO_PROXY": "127.0.0.1",
        }
        return cli(*arguments, **(settings | environment))

    return call


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- a folder ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_folder_gives_back_what_it_got(bundle: Path, tmp_path: Path, form: str) -> None:
    (bundle / "notes.txt").write_text("not the bundle's")
    (bundle / "README.md").write_text("# A card without front matter\n")
    address = form.format(tmp_path / "mirror" / "b")
    assert push(Bundle(bundle), address) == str(tmp_path / "mirror" / "b")
    (tmp_path / "mirror" / "b" / "stray.py").write_text("raise SystemExit")
    pulled = pull(address, tmp_path / "out")
    assert pulled == Bundle(tmp_path / "out").manifest == Bundle(bundle).manifest
    expected = contents(bundle)
    del expected["notes.txt"]
    card = contents(tmp_path / "out").pop("README.md").decode()
    head, rest = split_card(card)
    assert "library_name" in head
    assert rest.strip() == expected["README.md"].decode().strip()
    assert contents(tmp_path / "out") == expected | {"README.md": card.encode()}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "mirror", "out"]


@pytest.mark.parametrize("name", ["README.md", "balcony.json"])
def test_what_a_link_leads_to_outside_is_not_published(name: str, bundle: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes((bundle / name).read_bytes() if name == "balcony.json" else b"a secret of the user's")
    (bundle / name).unlink(missing_ok=True)
    (bundle / name).symlink_to(secret)
    with pytest.raises(BundleError, match="link"):
        push(Bundle(bundle), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_a_card_that_is_no_file_is_refused(make: Any, bundle: Path, tmp_path: Path) -> None:
    (bundle / "README.md").unlink(missing_ok=True)
    make(bundle / "README.md")
    with pytest.raises(BundleError, match="model card"):
        push(Bundle(bundle), str(tmp_path / "out"))


def test_a_link_inside_the_bundle_is_published(bundle: Path, tmp_path: Path) -> None:
    (bundle / "CARD.md").write_text("# Mine\n")
    (bundle / "README.md").unlink(missing_ok=True)
    (bundle / "README.md").symlink_to("CARD.md")
    push(Bundle(bundle), str(tmp_path / "out"))
    assert (tmp_path / "out" / "README.md").read_text().endswith("# Mine\n")


def test_a_card_with_front_matter_stays_as_it_is(bundle: Path, tmp_path: Path) -> None:
    (bundle / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    push(Bundle(bundle), str(tmp_path / "m"))
    assert (tmp_path / "m" / "README.md").read_text() == "---\nlicense: mit\n---\n# Mine\n"


def test_an_edited_or_missing_card_does_not_break_a_bundle(bundle: Path, tmp_path: Path) -> None:
    (bundle / "README.md").write_text("edited on the Hub")
    assert Bundle(bundle).depths
    (bundle / "README.md").unlink()
    push(Bundle(bundle), str(tmp_path / "m"))
    assert "balcony-stories" in (tmp_path / "m" / "README.md").read_text()


def test_a_broken_bundle_is_neither_sent_nor_taken(bundle: Path, tmp_path: Path) -> None:
    push(Bundle(bundle), str(tmp_path / "m"))
    for folder in (bundle, tmp_path / "m"):
        (folder / "head.onnx").write_bytes(b"x")
    fails(here("push", str(bundle), str(tmp_path / "n")), "head.onnx")
    fails(here("pull", str(tmp_path / "m"), "-o", str(tmp_path / "out")), "head.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "m"]


def test_a_link_out_of_a_shared_folder_is_not_followed(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (bundle / "README.md").unlink()
    (bundle / "README.md").symlink_to(tmp_path / "secret")
    pull(str(bundle), tmp_path / "out")
    assert not (tmp_path / "out" / "README.md").exists()
    (bundle / "head.onnx").unlink()
    (bundle / "head.onnx").symlink_to(tmp_path / "secret")
    with pytest.raises(BundleError, match="outside"):
        pull(str(bundle), tmp_path / "other")


def test_only_bundles_and_empty_folders_are_replaced(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    pull(str(bundle), out)
    (out / "weights.bin").write_bytes(b"")
    pull(str(bundle), out)
    assert Bundle(out).depths
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years")
    for attempt in (lambda: pull(str(bundle), precious), lambda: push(Bundle(bundle), str(precious))):
        with pytest.raises(BundleError, match="no bundle"):
            attempt()
    assert contents(precious) == {"thesis.txt": b"years"}


def test_names_that_no_home_has(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(HubError, match="neither"):
        home("no such thing")
    with pytest.raises(HubError, match="another machine"):
        home("file://elsewhere/b")
    with pytest.raises(HubError, match="no revisions"):
        pull(str(bundle), tmp_path / "out", revision="v1")
    with pytest.raises(BundleError, match="no revisions"):
        open_bundle(bundle, revision="v1")
    assert isinstance(home("./mirror"), FolderHome)


def test_without_the_hub_client_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(HubError, match=r"balcony-edge\[hub\]"):
        require_client()
    with pytest.raises(HubError, match=r"balcony-edge\[hub\]"):
        open_bundle("owner/no-such-folder")


# --- the Hub ----------------------------------------------------------------------------------------------------------


def test_the_hub_gives_back_what_it_got(hub: StubHub, at: Cli, bundle: Path, tmp_path: Path) -> None:
    sent = at("push", str(bundle), "owner/b", "--private")
    assert sent.returncode == 0, sent.stderr
    assert sent.stdout == f"{hub.url}/owner/b\n"
    assert hub.private == {"owner/b"}
    hub.commits["owner/b"][-1] |= {"evil.pkl": b"pickle", "old.onnx": b"", "README.md": b"edited on the Hub"}
    came = at("pull", "owner/b", "-o", str(tmp_path / "out"))
    assert came.returncode == 0, came.stderr
    expected = contents(bundle) | {"README.md": b"edited on the Hub"}
    assert contents(tmp_path / "out") == expected
    assert Bundle(tmp_path / "out").manifest == Bundle(bundle).manifest
    # A second push removes stale graphs and nothing else; the first one stays under its revision.
    assert at("push", str(bundle), "owner/b").returncode == 0
    last = hub.commits["owner/b"][-1]
    assert {"evil.pkl", ".gitattributes"} <= set(last)
    assert "old.onnx" not in last
    del last["balcony.json"]
    fails(at("pull", "owner/b", "-o", str(tmp_path / "n")), "holds no bundle", "balcony.json")
    assert at("pull", "owner/b", "--revision", "v1", "-o", str(tmp_path / "n")).returncode == 0


def test_a_bundle_runs_by_its_hub_id_also_offline(hub: StubHub, at: Cli, bundle: Path, tmp_path: Path) -> None:
    hub.commits["owner/b"] = [contents(bundle)]
    arguments = ("run", "owner/b", "-p", "Once", "-n", "3")
    fails(at(*arguments, "--offline"), "owner/b", "cache")
    online = at(*arguments)
    assert online.returncode == 0, online.stderr
    hub.commits.clear()
    offline = at(*arguments, "--offline")
    assert offline.returncode == 0, offline.stderr
    assert offline.stdout == online.stdout
    folders = [path for path in (tmp_path / "cache" / "bundles").glob("*/*") if path.is_dir()]
    assert len(folders) == 1
    assert not any(path.is_symlink() for path in folders[0].iterdir())


def test_what_the_hub_refuses_is_explained(hub: StubHub, at: Cli, bundle: Path, tmp_path: Path) -> None:
    out = ("-o", str(tmp_path / "out"))
    hub.commits |= {"owner/b": [contents(bundle)], "owner/gated": [contents(bundle)]}
    hub.gated.add("owner/gated")
    fails(at("pull", "owner/nothing", *out), "owner/nothing", "no such repository")
    fails(at("pull", "owner/gated", *out), "gated", "terms")
    fails(at("pull", "owner/b", "--revision", "v9", *out), "revision")
    fails(at("push", str(bundle), "owner/b", HF_TOKEN=""), "login", "HF_TOKEN")
    fails(at("push", str(bundle), "owner/b", HF_TOKEN="hf_other"), "HF_TOKEN")
    fails(at("pull", "owner/b", *out, HF_HUB_OFFLINE="1"), "cannot be reached", "network")
    assert not (tmp_path / "out").exists()


def test_a_broken_bundle_on_the_hub_leaves_nothing(hub: StubHub, at: Cli, bundle: Path, tmp_path: Path) -> None:
    files = contents(bundle)
    hub.commits["owner/b"] = [files | {"head.onnx": b"x"}]
    fails(at("pull", "owner/b", "-o", str(tmp_path / "out")), "owner/b", "head.onnx", "pull it again")
    manifest = json.loads(files["balcony.json"])
    manifest["files"]["../escape"] = {"bytes": 1, "sha256": "0" * 64}
    hub.commits["owner/b"].append(files | {"balcony.json": json.dumps(manifest).encode()})
    fails(at("pull", "owner/b", "-o", str(tmp_path / "out")), "outside the bundle")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith((".out", "out", "escape"))]

"""A calibrated export: as large as was asked and no larger, the same each time, head and embedding protected."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import onnx
import pytest
from typer.testing import CliRunner

from balcony_edge.bundle.folder import Bundle
from balcony_edge.errors import DataError, ModelError
from balcony_export.bundling.dry_run import describe
from balcony_export.bundling.writer import plan_export, write_bundle
from balcony_export.graphs.formats import ExportOptions
from balcony_export.quantising import calibration_text
from balcony_export.quantising.prepare import Calibration, calibrated, expected
from balcony_export.quantising.size import Size

INT4 = ExportOptions(precision="int4", rounding="calibrated")


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(calibration_text, "LENGTH", 24)
    monkeypatch.setattr(calibration_text, "SEQUENCES", 10)
    monkeypatch.setenv("BALCONY_CACHE_DIR", str(tmp_path / "cache"))


def export(model: Path, out: Path, options: ExportOptions = INT4, wanted: Calibration | None = None) -> Bundle:
    plan = plan_export(model, splits=[2], options=options)
    with calibrated(plan, wanted or Calibration(), lambda line: None) as ready:
        return write_bundle(ready, out, model="toy")


def forms(bundle: Bundle) -> Counter[tuple[int, int, int]]:
    """How many matrices have (bits, block size, tensors)."""
    found: Counter[tuple[int, int, int]] = Counter()
    for path in sorted(bundle.path.glob("*.onnx")):
        if path.name != "full.onnx":
            for node in onnx.load(str(path), load_external_data=False).graph.node:
                if node.op_type == "MatMulNBits":
                    values = {item.name: item.i for item in node.attribute}
                    found[values["bits"], values["block_size"], len(node.input) - 1] += 1
    return found


def size_of(bundle: Bundle) -> int:
    return sum(path.stat().st_size for path in bundle.path.iterdir())


def test_the_same_bundle_each_time_with_its_head_at_8_bits(toy: Path, tmp_path: Path) -> None:
    one, two = export(toy, tmp_path / "one"), export(toy, tmp_path / "two")
    assert one.manifest.files == two.manifest.files
    assert one.manifest.formats.head == "int8"
    # Four layers of five matrices, and the head.
    assert sum(forms(one).values()) == 21
    assert forms(one)[8, 32, 2] >= 1


@pytest.mark.parametrize("precision", ["int4", "int8"])
def test_a_size_is_kept(toy: Path, tmp_path: Path, precision: str) -> None:
    options = ExportOptions(precision=precision, rounding="calibrated")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="cannot be as small") as caught:
        export(toy, tmp_path / "no", options, Calibration(Size(bytes=1000)))
    assert not (tmp_path / "no").exists()
    least = float(re.findall(r"smallest has ([0-9.]+) MB", caught.value.message)[0])
    limit = int(least * 1e6) + 50_000
    bundle = export(toy, tmp_path / "yes", options, Calibration(Size(bytes=limit)))
    assert size_of(bundle) <= limit


def test_more_bytes_buy_more_bits(toy: Path, tmp_path: Path) -> None:
    bundle = export(toy, tmp_path / "large", wanted=Calibration(Size(bytes=10_000_000)))
    assert set(forms(bundle)) == {(8, 32, 2)}


def test_bit_exact_blocks_where_they_are_asked_for(toy: Path, tmp_path: Path) -> None:
    options = ExportOptions(precision="int4", rounding="calibrated", exactness="bit")
    bundle = export(toy, tmp_path / "bit", options)
    assert bundle.manifest.exactness == "bit"
    assert all(size <= (32 if bits == 4 else 64) for bits, size, _ in forms(bundle))


def test_a_text_of_ones_own(toy: Path, text: Path, tmp_path: Path) -> None:
    bundle = export(toy, tmp_path / "own", wanted=Calibration(text=text))
    assert bundle.manifest.files != export(toy, tmp_path / "samples").manifest.files
    empty = tmp_path / "empty.txt"
    empty.write_text("a\n")
    with pytest.raises(DataError, match="too few words"):
        export(toy, tmp_path / "none", wanted=Calibration(text=empty))


def test_samples_are_kept_for_the_next_export(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = export(toy, tmp_path / "one")
    monkeypatch.setattr(calibration_text, "continue_texts", None)
    assert export(toy, tmp_path / "two").manifest.files == one.manifest.files


def test_kept_samples_that_a_disk_has_changed_are_made_again(toy: Path, tmp_path: Path) -> None:
    """Other samples would be other weights."""
    one = export(toy, tmp_path / "one")
    (kept,) = (tmp_path / "cache" / "samples").iterdir()
    content = kept.read_bytes()
    digit = next(at for at in range(len(content) // 2, len(content)) if content[at : at + 1].isdigit())
    for broken in (b"[]", b"[" * 9000, content[:digit] + bytes([content[digit] ^ 1]) + content[digit + 1 :]):
        kept.write_bytes(broken)
        assert calibration_text._read(kept, 10, 64) is None
    assert export(toy, tmp_path / "two").manifest.files == one.manifest.files
    assert kept.read_bytes() == content


def test_a_dry_run_says_the_mixture(toy: Path) -> None:
    plan = plan_export(toy, splits=[2], options=INT4)
    assert re.search(r"layers: [0-9.]+ bits a weight", describe(expected(plan, None)))
    assert "bits a weight" not in describe(plan_export(toy, splits=[2]))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--precision", "fp32", "--size", "95MB"],
        ["--precision", "int4", "--size", "95MB", "--rounding", "nearest"],
        ["--precision", "int4", "--size", "95MB", "--block-size", "32"],
        ["--precision", "int4", "--size", "plenty"],
    ],
)
def test_options_that_do_not_go_together(toy: Path, tmp_path: Path, arguments: list[str]) -> None:
    from balcony_edge.cli.app import app

    found = CliRunner().invoke(app, ["export", str(toy), "-o", str(tmp_path / "out"), *arguments])
    assert found.exit_code != 0
    assert not (tmp_path / "out").exists()

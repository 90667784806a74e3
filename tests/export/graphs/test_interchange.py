"""A bundle's full depth in onnxruntime-genai: one more graph over the same weights, and the config beside it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from balcony_edge.bundle.folder import Bundle
from balcony_edge.bundle.manifest import Precision
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.runtime import Runtime
from balcony_edge.errors import BundleError
from balcony_export.bundling.writer import export_bundle
from balcony_export.graphs import interchange
from balcony_export.graphs.formats import ExportOptions
from helpers.parity import uncut_logits
from helpers.places import MakeBundle


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_the_uncut_graph_is_the_segments_in_a_row(tiny_bundles: MakeBundle, precision: Precision) -> None:
    bundle = tiny_bundles(precision, "float")
    ids = np.random.default_rng(3).integers(1, 288, 30).tolist()
    ladder = Ladder(bundle, Runtime.start("cpu"))
    ladder.append(ids)
    # One call for all positions on both sides: rounded activations leave no room for another kernel.
    np.testing.assert_allclose(uncut_logits(bundle, ids, len(ids)), ladder.logits(ladder.full), rtol=0, atol=1e-5)


def test_it_costs_no_weights(tiny_bundles: MakeBundle, tiny_model: Path, tmp_path: Path) -> None:
    bundle = tiny_bundles("fp32", "bit")
    uncut = export_bundle(tiny_model, tmp_path / "b", model="tiny", splits=[], options=ExportOptions())
    files = bundle.manifest.files
    assert files[interchange.GRAPH_NAME].bytes < files["weights.bin"].bytes / 10
    assert files[interchange.GRAPH_NAME].sha256 == uncut.manifest.files[interchange.GRAPH_NAME].sha256


def test_the_config_names_what_the_graph_has(tiny_bundles: MakeBundle) -> None:
    bundle = tiny_bundles("int4", "bit")
    config = json.loads((bundle.path / interchange.CONFIG_NAME).read_text())
    decoder = config["model"]["decoder"]
    session = Runtime.start("cpu").session(bundle.path / decoder["filename"])
    layers = range(decoder["num_hidden_layers"])
    named = [name % i if "%d" in name else name for name in decoder["inputs"].values() for i in layers]
    assert {item.name for item in session.get_inputs()} == set(named)
    made = [name % i if "%d" in name else name for name in decoder["outputs"].values() for i in layers]
    assert {item.name for item in session.get_outputs()} == set(made)
    assert config["model"]["eos_token_id"] == bundle.manifest.generation.eos_token_ids


def test_onnxruntime_genai_writes_the_same_tokens(tiny_bundles: MakeBundle) -> None:
    genai = pytest.importorskip("onnxruntime_genai")
    bundle = tiny_bundles("fp32", "bit")
    ids, count = [5, 60, 200, 17, 33], 24
    ladder = Ladder(bundle, Runtime.start("cpu"))
    ladder.append(ids)
    for _ in range(count):
        ladder.append([int(ladder.next_logits(ladder.full).argmax())])
    model = genai.Model(str(bundle.path))
    params = genai.GeneratorParams(model)
    params.set_search_options(do_sample=False, max_length=90, min_length=90)
    generator = genai.Generator(model, params)
    generator.append_tokens(ids)
    for _ in range(count):
        generator.generate_next_token()
    assert [int(token) for token in generator.get_sequence(0)] == list(ladder.tokens)


def test_a_graph_for_others_takes_no_weights_from_outside(tiny_bundles: MakeBundle, tmp_path: Path) -> None:
    import shutil

    import onnx

    from balcony_edge.bundle.manifest import MANIFEST_NAME, file_entry

    folder = tmp_path / "b"
    shutil.copytree(tiny_bundles("fp32", "bit").path, folder)
    graph = onnx.load(folder / interchange.GRAPH_NAME, load_external_data=False)
    next(entry for entry in graph.graph.initializer[0].external_data if entry.key == "location").value = "../stolen"
    (folder / interchange.GRAPH_NAME).write_bytes(graph.SerializeToString())
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    entry = file_entry(folder / interchange.GRAPH_NAME)
    manifest["files"][interchange.GRAPH_NAME] = entry.model_dump()
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"full\.onnx.*\.\./stolen"):
        Bundle(folder)

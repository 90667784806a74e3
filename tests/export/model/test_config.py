"""config.json read here equals transformers' own reading: every family, old and new spellings, every kind of rope."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from balcony_edge.errors import ModelError
from balcony_export.model import architectures
from balcony_export.model.config import rope
from balcony_export.model.config.completed import complete
from balcony_export.model.families import FAMILIES
from balcony_export.verification.config_reading import as_transformers_reads, check_config, compare_config
from helpers.families import ROWS, SIZES

Json = dict[str, Any]

SHORT, LONG = [1.0 + 0.3 * index for index in range(8)], [2.0 + index for index in range(8)]
ROPES: dict[str, Json] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "linear, whole": {"rope_type": "linear", "factor": 8},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256},
    "yarn, no original": {"rope_type": "yarn", "factor": 32.0},
    "yarn, all": {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 128,
        "beta_fast": 24.0,
        "beta_slow": 2.0,
        "truncate": False,
        "mscale": 0.7,
        "mscale_all_dim": 1.1,
    },
    "yarn, scale": {"rope_type": "yarn", "factor": 2.0, "attention_factor": 0.9},
    "longrope": {
        "rope_type": "longrope",
        "short_factor": SHORT,
        "long_factor": LONG,
        "original_max_position_embeddings": 256,
    },
    "longrope, factor": {"rope_type": "longrope", "short_factor": SHORT, "long_factor": LONG, "factor": 32.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 512,
    },
    "proportional": {"rope_type": "proportional", "factor": 2.0},
}
# Each family's config with all keys that differ from its defaults, in sizes that fit SHORT and LONG.
WHOLE: Json = {
    "vocab_size": 97,
    "hidden_size": 96,
    "intermediate_size": 80,
    "num_hidden_layers": 7,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "sliding_window": 100,
    "use_sliding_window": True,
    "max_window_layers": 3,
    "sliding_window_pattern": 3,
    "layer_types": ["full_attention", "sliding_attention"] * 3 + ["full_attention"],
    "no_rope_layer_interval": 3,
    "attention_bias": True,
    "mlp_bias": True,
    "head_dim": 16,
    "query_pre_attn_scalar": 144,
    "attn_logit_softcapping": 7.0,
    "final_logit_softcapping": 3.5,
    "no_rope_layers": [1, 0, 1, 1, 0, 1, 1],
    "embedding_multiplier": 12.0,
    "logits_scaling": 8.0,
    "residual_multiplier": 0.2,
    "attention_multiplier": 0.01,
    "original_max_position_embeddings": 512,
    "partial_rotary_factor": 1.0,
    "rope_local_base_freq": 5000.0,
}
OPTIONAL = [*sorted(WHOLE.keys() - SIZES.keys()), "num_key_value_heads", "tie_word_embeddings"]


def theirs(raw: Json) -> Any:
    """transformers' config object of a config.json."""
    return AutoConfig.for_model(**copy.deepcopy(raw))


def torch_powers(base: float, exponents: np.ndarray) -> np.ndarray:
    return (base ** torch.from_numpy(exponents)).numpy()


def equal(raw: Json, config: Any) -> None:
    """The whole blueprint of ``raw`` is that of transformers' config, its frequencies those of transformers."""
    name = raw["model_type"]
    ours, read = complete(name, raw), as_transformers_reads(config)
    assert {key: read[key] for key in ours if read.get(key) is not None} == {
        key: value for key, value in ours.items() if read.get(key) is not None
    }
    assert ours["head_dim"] == (getattr(config, "head_dim", None) or ours["hidden_size"] // ours["num_attention_heads"])
    tables = rope.read_ropes(ours)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rope, "_powers", torch_powers)
        with_torch = rope.read_ropes(ours)
    assert tables.keys() == with_torch.keys()
    for table, same_powers in zip(tables.items(), with_torch.values(), strict=True):
        kind = table[0].removeprefix("rope.") if table[0] != "rope" else None
        frequencies, factor = transformers_rope(config, kind)
        # With torch's powers every bit; its powers alone are, on this CPU, at most the last bit from the true ones.
        np.testing.assert_array_equal(same_powers.frequencies, frequencies)
        assert table[1].factor == same_powers.factor == factor
        np.testing.assert_array_max_ulp(table[1].frequencies, frequencies, 2)


def transformers_rope(config: Any, kind: str | None) -> tuple[np.ndarray, float]:
    """Frequencies and factor as transformers computes them; of dynamic scaling those before it begins."""
    settings = config.rope_parameters if kind is None else config.rope_parameters[kind]
    if settings["rope_type"] in ("default", "dynamic"):
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        size = int(head * (settings.get("partial_rotary_factor", 1.0) if config.model_type == "phi3" else 1.0))
        return (1.0 / (settings["rope_theta"] ** (torch.arange(0, size, 2).float() / size))).numpy(), 1.0
    named = {} if kind is None else {"layer_type": kind}
    frequencies, factor = ROPE_INIT_FUNCTIONS[settings["rope_type"]](config, torch.device("cpu"), **named)
    return frequencies.numpy(), factor


@pytest.mark.parametrize("family", FAMILIES)
def test_defaults_are_those_of_transformers(family: str) -> None:
    equal({"model_type": family}, theirs({"model_type": family}))


@pytest.mark.parametrize("row", ROWS)
def test_the_rows_of_all_tests(row: str) -> None:
    name, differences = ROWS[row]
    raw = SIZES | differences | {"model_type": name}
    equal(raw, theirs(raw))
    # As transformers itself writes it.
    saved = json.loads(theirs(raw).to_json_string())
    equal(saved, theirs(raw))


@pytest.mark.parametrize("spelling", ["new", "old", "type"])
@pytest.mark.parametrize("kind", ROPES)
@pytest.mark.parametrize("family", ["llama", "qwen2", "phi3", "gemma3_text"])  # the others read ropes as llama does
def test_every_kind_of_rope(family: str, kind: str, spelling: str) -> None:
    settings = copy.deepcopy(ROPES[kind])
    raw = {key: WHOLE[key] for key in SIZES if key in WHOLE} | {"model_type": family}
    if family == "phi3":
        raw |= {"original_max_position_embeddings": 256}
    else:
        raw |= {"head_dim": 16}
    if spelling == "new":
        settings["rope_theta"] = 123456.0
        both = {"full_attention": settings, "sliding_attention": {"rope_type": "default", "rope_theta": 999.0}}
        raw["rope_parameters"] = both if family == "gemma3_text" else settings
    else:
        if spelling == "type":
            settings["type"] = settings.pop("rope_type")
        raw |= {"rope_scaling": settings, "rope_theta": 123456}
    if family == "phi3" and not kind.startswith(("default", "longrope")):
        with pytest.raises((ValueError, KeyError)):
            rope.read_ropes(complete(family, raw))
        return
    equal(raw, theirs(raw))


@given(st.data())
def test_any_keys_may_be_missing(data: st.DataObject) -> None:
    family = data.draw(st.sampled_from(sorted(FAMILIES)))
    left_out = data.draw(st.sets(st.sampled_from(OPTIONAL)))
    raw = {key: value for key, value in WHOLE.items() if key not in left_out} | {"model_type": family}
    for key in data.draw(st.sets(st.sampled_from(["sliding_window", "head_dim", "num_key_value_heads"]))):
        raw[key] = None
    settings = copy.deepcopy(ROPES[data.draw(st.sampled_from(sorted(ROPES)))])
    raw[data.draw(st.sampled_from(["rope_scaling", "rope_parameters"]))] = data.draw(st.sampled_from([settings, None]))
    if data.draw(st.booleans()):
        raw["rope_theta"] = data.draw(st.sampled_from([10000, 5e5, 1e6]))
    try:
        config = theirs(raw)
        for kind in config.rope_parameters if family == "gemma3_text" else [None]:
            transformers_rope(config, kind)
    except Exception:  # what transformers refuses has no reading to compare with
        return
    equal(raw, config)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": "96"}, "hidden_size is '96', not a whole number"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"num_hidden_layers": None}, "num_hidden_layers is null"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan, not a number"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings is 1, not true or false"),
        ({"layer_types": ["full_attention"]}, "layer_types"),
        ({"layer_types": ["chunked_attention"] * 7}, "chunked_attention"),
        ({"hidden_act": "relu"}, "'relu' is not supported"),
        ({"rope_scaling": {"type": "linear"}}, "lacks 'factor'"),
        ({"rope_scaling": {"type": "spiral"}}, "'spiral' is not known"),
        ({"rope_theta": -3.0}, "no number"),
        ({"head_dim": None, "hidden_size": 97}, "no multiple"),
        ({"head_dim": 17}, "heads of 17"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}, "partial_rotary_factor": 0.5}, "turn whole heads"),
        ({"per_layer_config": {"0": {"hidden_size": 4}}}, "per_layer_config"),
    ],
)
def test_what_cannot_be_right_is_said(changes: Json, words: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**WHOLE, "model_type": "qwen3", **changes}))
    with pytest.raises(ModelError, match=words):
        architectures.read(tmp_path)


def test_a_folder_that_transformers_reads_otherwise_is_told(tmp_path: Path) -> None:
    raw = {**SIZES, "model_type": "llama", "rope_theta": 5e5}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    arch = architectures.read(tmp_path).arch
    check_config(tmp_path, arch)
    assert compare_config(tmp_path, arch).passed
    other = arch.model_copy(update={"layers": 5})
    row = compare_config(tmp_path, other)
    assert not row.passed
    assert row.note == "layers 5, optimum reads 6"
    with pytest.raises(ModelError, match="optimum reads 6"):
        check_config(tmp_path, other)

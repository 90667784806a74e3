"""``balcony-edge lm-eval``: the LM-Evaluation-Harness, with the models that installed packages offer it."""

from __future__ import annotations

import sys
from importlib import metadata
from importlib.util import find_spec

import typer

from balcony_edge.errors import BalconyError

GROUP = "lm_eval.models"


def lm_eval(context: typer.Context) -> None:
    """Run the LM-Evaluation-Harness on bundles. Everything that follows is the harness's own command line.

    For example: balcony-edge lm-eval --model balcony --model_args bundle=bundle/,budget=25ms --tasks arc_easy.
    Instead of a budget you can give depth=8, or depth=full (the default).
    """
    if find_spec("lm_eval") is None:
        raise BalconyError("the LM-Evaluation-Harness is not installed", "pip install 'balcony-edge[eval]'")
    register()
    from lm_eval.__main__ import cli_evaluate

    sys.argv = ["balcony-edge lm-eval", *context.args]
    cli_evaluate()


lm_eval.context_settings = {"allow_extra_args": True, "ignore_unknown_options": True}  # type: ignore[attr-defined]


def register() -> None:
    """Make the entry points of the group ``lm_eval.models`` known to the harness.

    Its releases up to 0.4.13 list their own models only (EleutherAI/lm-evaluation-harness, issue 3282).
    """
    from lm_eval.api.registry import model_registry
    from lm_eval.models import MODEL_MAPPING

    for entry in metadata.entry_points(group=GROUP):
        if entry.name not in model_registry and entry.name not in MODEL_MAPPING:
            model_registry.register(entry.name, target=entry)

"""Shared fixtures: a tiny random Llama with exits, its bundles, and the optional shared checkpoints."""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from balcony_edge.bundle.folder import Bundle
from balcony_edge.bundle.manifest import Exactness, Precision
from balcony_edge.engine.runtime import default_threads
from helpers import tiny
from helpers.effort import FEW, LONG, QUICK
from helpers.once import common, once
from helpers.places import SHARED, MakeBundle
from helpers.steady import steady

# "quick" is what tests run with; ``make test-long`` asks for --hypothesis-profile=long, ``make test-arm`` for few. All
# try the same examples each time. Deadlines, and health checks of how long data takes to make, measure the machine and
# not the code.
HEALTH = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
settings.register_profile("quick", deadline=None, suppress_health_check=HEALTH, derandomize=True, max_examples=QUICK)
settings.register_profile("few", settings.get_profile("quick"), max_examples=FEW)
settings.register_profile("long", settings.get_profile("quick"), max_examples=LONG)
settings.load_profile("quick")

# Each process of a run has its share of the cores; more threads would spin against those of the others.
THREADS = max(1, default_threads() // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))


@pytest.fixture(scope="session", autouse=True)
def _steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests decode depends on no clock, and their profiles stay out of the user's cache.

    For the session: also what a module's fixtures do is steady. One cache for all processes, so that each bundle pays
    once.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BALCONY_CACHE_DIR", str(common(tmp_path_factory) / "cache"))
        patch.setattr("balcony_edge.engine.runtime.default_threads", lambda: THREADS)
        patch.setattr("balcony_edge.control.stage_times.LIMIT_S", 0.0)
        # Bundles of tests come from this very process; the trial has tests of its own.
        patch.setattr("balcony_edge.text.trial.is_ours", lambda bundle: True)
        patch.setattr("balcony_edge.control.profile.MOST_DISAGREEMENT", math.inf)
        steady(patch)
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 5 layers, as a model folder."""
    return once(tmp_path_factory, tiny.MODEL, tiny.make_model) / "base"


@pytest.fixture(scope="session")
def tiny_bundles(tmp_path_factory: pytest.TempPathFactory) -> MakeBundle:
    """Bundles of the tiny model with untrained exits at 1, 2 and 4, made once per precision and exactness."""

    @functools.cache
    def made(precision: Precision, exactness: Exactness) -> Bundle:
        def make(folder: Path) -> None:
            model = once(tmp_path_factory, tiny.MODEL, tiny.make_model) / "base"
            tiny.make_bundle(model, precision, exactness, folder)

        return Bundle(once(tmp_path_factory, tiny.name(precision, exactness), make))

    return made


@pytest.fixture(scope="session")
def guessing_bundles(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Precision], Bundle]:
    """Bundles of the tiny model with random exits at 1 and 2 and a random draft stage, made once per precision."""

    @functools.cache
    def made(precision: Precision) -> Bundle:
        def make(folder: Path) -> None:
            model = once(tmp_path_factory, tiny.MODEL, tiny.make_model) / "base"
            tiny.make_guessing(model, precision, folder)

        return Bundle(once(tmp_path_factory, f"{tiny.GUESSING}-{precision}", make))

    return made


@pytest.fixture(scope="session")
def demo_export(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The demo's base and trained exits, exported with nothing chosen: fp32."""
    return Bundle(once(tmp_path_factory, tiny.DEMO, tiny.make_demo))


@pytest.fixture(scope="session")
def stories260k() -> Path:
    """A real small checkpoint beside the project, where there is one."""
    folder = SHARED / "models" / "stories260K"
    if not folder.is_dir():
        pytest.skip("the shared checkpoint stories260K is not here")
    return folder


@pytest.fixture
def untraced() -> Iterator[None]:
    """For long simulations of what shorter tests cover: a tracer makes them take six times as long.

    pytest-cov's own no_cover has no effect in the processes of pytest-xdist.
    """
    tracer = sys.gettrace()
    sys.settrace(None)
    yield
    sys.settrace(tracer)


@pytest.fixture
def rng() -> np.random.Generator:
    """Fixed randomness."""
    return np.random.default_rng(20250305)

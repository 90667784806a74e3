"""AdaptiveSession: prompt in, tokens out, under a budget."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from balcony_controller import Budget, BudgetSyntaxError, CostModel, Governor, LadderShape, Outcome, QualityModel
from balcony_controller.quality import BinTable
from balcony_controller.signals import Signals
from balcony_edge.bundle import Bundle
from balcony_edge.calibrate import load_or_measure
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.runtime import Runtime
from balcony_edge.engine.sampling import Sampler, make_sampler
from balcony_edge.engine.stage import Head
from balcony_edge.errors import BudgetError, PromptError
from balcony_edge.report import Report
from balcony_edge.telemetry import FakeSensors, Snapshot
from balcony_edge.telemetry import Sampler as SensorSampler
from balcony_edge.text import TextCodec


@dataclass(frozen=True)
class Token:
    """One token as it leaves. ``text`` may be empty (half a character); ``depth`` counts the base layers run."""

    text: str
    id: int
    depth: int
    latency_ms: float


@dataclass(frozen=True)
class _Waiting:
    """A token that an exit gave and no deep pass has verified: the position whose logits gave it, the exit, the
    agreement expected of it, and the exit's likeliest token."""

    position: int
    depth: int
    expected: float
    choice: int


@dataclass
class _Figures:
    """What ``report`` tells of the reply in progress."""

    prompt_tokens: int = 0
    tokens: int = 0
    first_ms: float | None = None
    decode_ms: float = 0.0
    depth_counts: Counter[int] = field(default_factory=Counter)
    verified: int = 0
    agreed: int = 0


class AdaptiveSession:
    """A bundle, loaded, with a controller that picks the depth of every token.

    ``bundle``: a path, a Bundle, or None for the embedded demo. ``budget``: "25ms", "40tok/s", "full", a Budget or
    None (full depth, lossless); it can be set again at any time, also while tokens stream. ``provider``: "auto",
    "cpu" or "cuda". ``sensors``: a telemetry sampler (default: this device's own); it is started and stopped with
    the session. Raises BundleError, BudgetError, ProviderError or RuntimeMissingError.

        with AdaptiveSession("bundle/", budget="25ms") as session:
            for token in session.stream("Once upon a time"):
                print(token.text, end="", flush=True)
    """

    def __init__(
        self,
        bundle: str | Path | Bundle | None = None,
        budget: str | Budget | None = None,
        *,
        provider: str = "auto",
        threads: int | None = None,
        max_context: int | None = None,
        sensors: SensorSampler | FakeSensors | None = None,
    ) -> None:
        parsed = parse_budget(budget)
        self.bundle = Bundle.open(bundle)
        manifest = self.bundle.manifest
        runtime = Runtime.start(provider, threads)
        self.codec = TextCodec(self.bundle)
        self.ladder = Ladder(self.bundle, runtime, max_context)
        self.calibration = load_or_measure(self.bundle, runtime, self.ladder)
        self.governor = Governor(
            ladder_shape(self.ladder),
            CostModel(self.calibration.profiles),
            quality_model(self.bundle),
            parsed,
        )
        self.ladder.observer = self.governor.observe
        self._ends = frozenset(manifest.generation.eos_token_ids)
        # An open NVML handle keeps a laptop's GPU awake: only where that GPU decodes.
        self._sensors = sensors or SensorSampler(nvml=runtime.provider == "cuda")
        self._sensors.start()
        self._heard: Snapshot | None = None
        self._reply = 0
        self._figures = _Figures()
        self._waiting: list[_Waiting] = []

    # --- the budget -----------------------------------------------------------------------------------------------

    @property
    def budget(self) -> Budget:
        """The budget in force."""
        return self.governor.budget

    @budget.setter
    def budget(self, budget: str | Budget | None) -> None:
        self.governor.set_budget(parse_budget(budget))

    # --- generation -----------------------------------------------------------------------------------------------

    def stream(
        self,
        prompt: str | Sequence[int],
        max_new_tokens: int = 128,
        temp: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repeat_penalty: float = 1.0,
        seed: int | None = None,
        stop: Sequence[int] = (),
    ) -> Iterator[Token]:
        """Tokens one at a time, until an end token (not yielded), ``max_new_tokens`` or a full context.

        ``prompt``: text or token ids. ``stop``: more ids that end the reply. Raises PromptError at once for a prompt
        or settings that cannot be run.
        """
        sampler = make_sampler(temp, top_k, top_p, min_p, repeat_penalty, seed)
        if max_new_tokens < 1:
            raise PromptError(f"{max_new_tokens} tokens were asked for", "ask for one at the least: -n 1")
        ids = self._prompt_ids(prompt)
        return self._decode(ids, max_new_tokens, sampler, self._ends | set(stop))

    def generate(self, prompt: str | Sequence[int], max_new_tokens: int = 128, **settings: Any) -> str:
        """The whole reply as text; ``settings`` as in ``stream``."""
        return "".join(token.text for token in self.stream(prompt, max_new_tokens, **settings))

    def logits(self, token_ids: Sequence[int], depth: int | str = "full") -> npt.NDArray[np.float32]:
        """Logits fp32 [positions, vocabulary] of ``token_ids`` at one depth, for evaluation. Ends a running reply."""
        wanted = self.ladder.full if depth == "full" else depth
        if wanted not in self.ladder.depths:
            raise PromptError(f"this bundle has no depth {depth!r}", f"choose one of {self.ladder.depths} or 'full'")
        ids = self._prompt_ids(list(token_ids), spare=0)
        self._reply += 1
        self._waiting = []
        observer, self.ladder.observer = self.ladder.observer, None
        try:
            self.ladder.rewind(0)
            self.ladder.append(ids)
            return self.ladder.logits(int(wanted))
        finally:
            self.ladder.observer = observer

    # --- figures --------------------------------------------------------------------------------------------------

    def report(self) -> Report:
        """Figures of the last reply, also while it streams."""
        figures = self._figures
        after_first = figures.tokens - 1
        return Report(
            budget=str(self.budget),
            budget_ms=self.budget.latency_ms,
            prompt_tokens=figures.prompt_tokens,
            tokens=figures.tokens,
            first_token_ms=figures.first_ms,
            mean_ms=figures.decode_ms / after_first if after_first > 0 else None,
            depth_counts=dict(figures.depth_counts),
            shallowest_depth=self.ladder.depths[0],
            full_depth=self.ladder.full,
            verified=figures.verified,
            agreed=figures.agreed,
            bit_exact=self.calibration.bit_exact,
            machine=self._sensors.snapshot.describe(),
        )

    def audit(self) -> Report:
        """Verify the tokens of the last reply that no deep pass has seen, in one batched pass, and report.

        The pass is not charged to the reply; it ends a reply that still streams.
        """
        self._reply += 1
        observer, self.ladder.observer = self.ladder.observer, None
        try:
            self._verify_waiting()
        finally:
            self.ladder.observer = observer
        return self.report()

    # --- life -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop the sensors. The session can no longer be used."""
        self._sensors.stop()

    def __enter__(self) -> AdaptiveSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- inside ---------------------------------------------------------------------------------------------------

    def _prompt_ids(self, prompt: str | Sequence[int], spare: int = 1) -> list[int]:
        ids = self.codec.encode(prompt) if isinstance(prompt, str) else self.codec.check([int(i) for i in prompt])
        if not ids:
            raise PromptError("the prompt has no tokens", "give at least one")
        if len(ids) + spare > self.ladder.context:
            raise PromptError(
                f"the prompt has {len(ids)} tokens; this model's context holds {self.ladder.context}",
                "shorten the prompt, or use a bundle with a longer context",
            )
        return ids

    def _decode(self, ids: list[int], max_new_tokens: int, sampler: Sampler, ends: frozenset[int]) -> Iterator[Token]:
        ladder, governor = self.ladder, self.governor
        self._reply = reply = self._reply + 1
        self._figures = figures = _Figures(prompt_tokens=len(ids))
        self._waiting = []
        begun = time.perf_counter()
        ladder.rewind(0)
        ladder.append(ids)
        limit = min(max_new_tokens, ladder.context - len(ids))
        governor.begin({stage.name: ladder.pending(stage) for stage in ladder.stages}, limit)
        text = self.codec.stream(ids)
        history = list(ids)
        for count in range(limit):
            if count:
                if self._reply != reply:  # another reply has taken the ladder
                    return
                begun = time.perf_counter()
                ladder.append(history[-1:])
            depth, expected = self._choose_depth()
            logits = ladder.next_logits(depth)
            token = sampler(logits, history)
            if token not in ends:
                self._note_agreement(depth, expected, int(logits.argmax()))
            history.append(token)
            piece = "" if token in ends else text.step(token)
            elapsed_ms = (time.perf_counter() - begun) * 1e3
            governor.settle(1, elapsed_ms, charge=count > 0)
            self._listen()
            if token in ends:
                return
            figures.tokens += 1
            figures.depth_counts[depth] += 1
            if count:
                figures.decode_ms += elapsed_ms
            else:
                figures.first_ms = elapsed_ms
            yield Token(piece, token, depth, elapsed_ms)

    def _choose_depth(self) -> tuple[int, float]:
        """(depth, expected agreement) for the next token; the trunk has been advanced as far as was looked at."""
        ladder, governor = self.ladder, self.governor
        split = governor.first_split()
        while split != ladder.full:
            ladder.advance_trunk(split, ladder.length)
            following, expected = governor.stop_at(split, ladder.gate(split))
            if following is None:
                return split, expected
            split = following
        return split, 1.0

    def _note_agreement(self, depth: int, expected: float, choice: int) -> None:
        """Remember what an exit chose; a full-depth token settles all that waits.

        The deep pass that caught up the caches has the hidden states of those positions: only the head is added.
        """
        if depth == self.ladder.full:
            self._verify_waiting()
        else:
            self._waiting.append(_Waiting(self.ladder.length - 1, depth, expected, choice))

    def _verify_waiting(self) -> None:
        """Compare what exits chose with the full model's choices at the same positions."""
        waiting, self._waiting = self._waiting, []
        outcomes: list[Outcome] = []
        for first in range(0, len(waiting), Head.MAX_ROWS):
            group = waiting[first : first + Head.MAX_ROWS]
            rows = self.ladder.logits_view(self.ladder.full, group[0].position, group[-1].position + 1)
            for item, answer in zip(group, rows.argmax(axis=1), strict=True):
                agreed = item.choice == int(answer)
                self._figures.verified += 1
                self._figures.agreed += agreed
                outcomes.append(Outcome(item.depth, item.expected, agreed))
        self.governor.verified(outcomes)

    def _listen(self) -> None:
        """Pass a new look at the machine on to the governor."""
        snapshot = self._sensors.snapshot
        if snapshot is self._heard:
            return
        self._heard = snapshot
        self.governor.hear(
            Signals(
                cpu_load=snapshot.cpu_load.value,
                gpu_load=snapshot.gpu_load.value,
                gpu_clock_hz=snapshot.gpu_clock_hz.value,
                power_w=snapshot.power_w.value,
                temperature_c=snapshot.temperature_c.value,
                battery_level=snapshot.battery_level.value,
            )
        )


def parse_budget(budget: str | Budget | None) -> Budget:
    """A budget from its text. Raises BudgetError pointing at what cannot be read."""
    try:
        return Budget.parse(budget)
    except BudgetSyntaxError as error:
        raise BudgetError(str(error), "for example --budget 25ms") from error


def ladder_shape(ladder: Ladder) -> LadderShape:
    """The ladder as the controller sees it."""
    return LadderShape(
        depths=ladder.depths,
        trunk=tuple((stage.name, stage.graph.stop) for stage in ladder.trunk),
        exits={depth: stage.name for depth, stage in ladder.exits.items()},
    )


def quality_model(bundle: Bundle) -> QualityModel:
    """The measured agreement of a bundle's exits."""
    tables = {
        split: BinTable(quality.bins.edges, quality.bins.share, quality.bins.agreement)
        for split, quality in bundle.manifest.quality.items()
    }
    return QualityModel(tables, bundle.depths)

"""AdaptiveSession: prompt in, tokens out, under a budget."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from balcony_controller import (
    Budget,
    BudgetSyntaxError,
    CostModel,
    Governor,
    Limits,
    PowerModel,
    Signals,
)
from balcony_controller.loads import missing
from balcony_edge.bundle.folder import Bundle
from balcony_edge.bundle.open import open_bundle
from balcony_edge.control.adapter import ladder_shape, quality_model
from balcony_edge.control.decision_log import DecisionLog
from balcony_edge.control.profile import batching_is_bit_exact, load_or_measure
from balcony_edge.control.signals import first_look, require, signals_of
from balcony_edge.decoding.loop import Checked, Decoder
from balcony_edge.decoding.text import TextCodec
from balcony_edge.engine import prompt_cache
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.runtime import Runtime
from balcony_edge.engine.sampling import Sampler
from balcony_edge.errors import BudgetError, BundleError, PromptError
from balcony_edge.report import Report
from balcony_edge.telemetry import Sampler as SensorSampler
from balcony_edge.telemetry import Sensors, Snapshot


class Token(NamedTuple):
    """One token as it leaves. ``text`` may be empty (half a character); ``depth`` counts the base layers run.

    ``latency_ms`` is the wait since the token before it. ``drafted_at``: the exit that drafted a token of the full
    model's, which a deep pass then confirmed; such tokens come several at a time.
    """

    text: str
    id: int
    depth: int
    latency_ms: float
    drafted_at: int | None = None


@dataclass
class _Figures:
    """What ``report`` tells of the reply in progress."""

    prompt_tokens: int = 0
    reused_tokens: int = 0
    tokens: int = 0
    timed_tokens: int = 0
    first_ms: float | None = None
    decode_ms: float = 0.0
    paused_ms: float = 0.0
    depth_counts: Counter[int] = field(default_factory=Counter)


class AdaptiveSession:
    """A bundle, loaded, with a controller that picks the depth of every token.

    ``bundle``: a path, a Bundle, or None for the embedded demo. ``budget``: "25ms", "40tok/s", "full", a Budget or
    None (full depth, lossless); it can be set again at any time, also while tokens stream. ``provider``: "auto",
    "cpu" or "cuda". ``sensors``: a telemetry sampler (default: this device's own); it is started and stopped with
    the session. ``speculate``: whether exits may draft for the full model, which costs no quality; None means where it
    pays and this machine's kernels give batches the bits of single positions; True pads single positions where that
    makes it so. ``min_agreement``: share of the full model's tokens that no budget may push below. ``limits``: of heat
    and battery. ``power_model``: watts to go by where there is no sensor. ``log``: of every decision. Raises
    BundleError, BudgetError, ProviderError or RuntimeMissingError.

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
        sensors: Sensors | None = None,
        speculate: bool | None = None,
        min_agreement: float = 0.0,
        limits: Limits | None = None,
        power_model: PowerModel | None = None,
        log: DecisionLog | None = None,
    ) -> None:
        parsed = parse_budget(budget)
        if not 0.0 <= min_agreement <= 1.0:
            raise BudgetError(f"an agreement of at least {min_agreement} makes no sense", "--min-agreement 0.9")
        self.bundle = open_bundle(bundle)
        manifest = self.bundle.manifest
        self.runtime = runtime = Runtime.start(provider, threads)
        self.codec = TextCodec(self.bundle)
        self.ladder = Ladder(self.bundle, runtime, max_context)
        self.ladder.padded = bool(speculate) and not batching_is_bit_exact(self.ladder)
        self.calibration = load_or_measure(self.bundle, runtime, self.ladder)
        if speculate and not self.calibration.bit_exact:
            raise BundleError(
                "on this machine a batch does not give the bits of single positions: speculation could change tokens",
                "leave speculation out (--no-speculate), or export the bundle again with --exactness bit",
            )
        self.speculates = self.calibration.bit_exact and speculate is not False
        self.governor = Governor(
            ladder_shape(self.ladder),
            CostModel(self.calibration.profiles),
            quality_model(self.bundle),
            parsed,
            rounds=self.speculates,
            min_agreement=min_agreement,
            limits=limits,
            power_model=power_model,
        )
        self._power_model = power_model
        self.ladder.observer = self.governor.observe
        self.ends = frozenset(manifest.generation.eos_token_ids)
        self._heard: Snapshot | None = None
        self._signals = Signals()
        # An open NVML handle keeps a laptop's GPU awake: only where that GPU decodes.
        self._sensors: Sensors = sensors or SensorSampler(nvml=runtime.provider == "cuda")
        self._sensors.start()
        self._log = log
        try:
            self._require(parsed)
        except BudgetError:
            self._sensors.stop()
            raise
        if log is not None:
            log.start(self.governor)
        self._reply = 0
        self._figures = _Figures()
        self._decoder: Decoder | None = None

    @property
    def snapshot(self) -> Snapshot:
        """What the sensors say of this device right now."""
        return self._sensors.snapshot

    # --- the budget -----------------------------------------------------------------------------------------------

    @property
    def budget(self) -> Budget:
        """The budget in force."""
        return self.governor.budget

    @budget.setter
    def budget(self, budget: str | Budget | None) -> None:
        parsed = parse_budget(budget)
        self._require(parsed)
        self.governor.set_budget(parsed)

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
        sampler = Sampler(temp, top_k, top_p, min_p, repeat_penalty, seed)
        if max_new_tokens < 1:
            raise PromptError(f"{max_new_tokens} tokens were asked for", "ask for one at the least: -n 1")
        ids = self._prompt_ids(prompt)
        self.ladder.expect(min(len(ids) + max_new_tokens, self.ladder.context))
        return self.decode(ids, max_new_tokens, sampler, self.ends | set(stop))

    def generate(self, prompt: str | Sequence[int], max_new_tokens: int = 128, **settings: Any) -> str:
        """The whole reply as text; ``settings`` as in ``stream``."""
        return "".join(token.text for token in self.stream(prompt, max_new_tokens, **settings))

    def logits(self, token_ids: Sequence[int], depth: int | str = "full") -> npt.NDArray[np.float32]:
        """Logits fp32 [positions, vocabulary] of ``token_ids`` at one depth, for evaluation. Ends a running reply."""
        wanted = self.ladder.full if depth == "full" else depth
        if wanted not in self.ladder.depths:
            raise PromptError(f"this bundle has no depth {depth!r}", f"choose one of {self.ladder.depths} or 'full'")
        ids = self._prompt_ids(list(token_ids), spare=0)
        self.end_reply()
        with self.unobserved():
            self.ladder.rewind(0)
            self.ladder.append(ids)
            return self.ladder.logits(int(wanted))

    def save_prompt(self, prompt: str | Sequence[int], path: str | Path) -> int:
        """Run ``prompt`` through every depth and keep its caches in ``path`` (safetensors); the number of its tokens.

        Later prompts that begin with it cost only what they add, also in another process: see ``load_prompt``.
        """
        self.end_reply()
        self.ladder.resume(self._prompt_ids(prompt))
        with self.unobserved():
            for depth in self.ladder.depths:
                self.ladder.outputs(depth, self.ladder.length)
        prompt_cache.save(self.ladder, Path(path))
        return self.ladder.length

    def load_prompt(self, path: str | Path) -> int:
        """Take a saved prompt's caches; the number of its tokens. Raises PromptError if they are not this bundle's."""
        self.end_reply()
        return prompt_cache.load(self.ladder, Path(path))

    # --- figures --------------------------------------------------------------------------------------------------

    def report(self) -> Report:
        """Figures of the last reply, also while it streams."""
        figures, decoder = self._figures, self._decoder
        drafted, kept = decoder.drafts if decoder else (0, 0)
        checked = decoder.checked if decoder else Checked()
        return Report(
            budget=str(self.budget),
            budget_ms=self.budget.latency_ms,
            prompt_tokens=figures.prompt_tokens,
            reused_tokens=figures.reused_tokens,
            tokens=figures.tokens,
            first_token_ms=figures.first_ms,
            mean_ms=figures.decode_ms / figures.timed_tokens if figures.timed_tokens else None,
            depth_counts=dict(figures.depth_counts),
            shallowest_depth=self.ladder.depths[0],
            full_depth=self.ladder.full,
            verified=checked.tokens,
            agreed=checked.agreed,
            drafted=drafted,
            kept=kept,
            bit_exact=self.calibration.bit_exact,
            paused_ms=figures.paused_ms,
            floor_wins=self.governor.floor_wins,
            machine=self._sensors.snapshot.describe(),
        )

    def audit(self) -> Report:
        """Verify the tokens of the last reply that no deep pass has seen, in one batched pass, and report.

        The pass is not charged to the reply; it ends a reply that still streams.
        """
        self._reply += 1
        if self._decoder is not None:
            with self.unobserved():
                self._decoder.verify_shown()
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

    def end_reply(self) -> None:
        """What is about to be run takes the ladder; the reply that held it can no longer be audited."""
        self._reply += 1
        self._decoder = None

    @contextmanager
    def unobserved(self) -> Iterator[None]:
        """Graph runs inside are not charged to a token."""
        observer, self.ladder.observer = self.ladder.observer, None
        try:
            yield
        finally:
            self.ladder.observer = observer

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

    def decode(self, ids: list[int], max_new_tokens: int, sampler: Sampler, ends: frozenset[int]) -> Iterator[Token]:
        """``stream`` for checked token ids, with a sampler and end tokens of one's own."""
        ladder, governor = self.ladder, self.governor
        self._reply = reply = self._reply + 1
        self._figures = figures = _Figures(prompt_tokens=len(ids))
        begun = time.perf_counter()
        figures.reused_tokens = ladder.resume(ids)
        self._decoder = decoder = Decoder(ladder, governor, sampler, ids, ends)
        remaining = min(max_new_tokens, ladder.context - len(ids))
        pending = {stage.name: ladder.pending(stage) for stage in ladder.stages}
        governor.begin(pending, remaining, sampler.repeatable, sampler.plain_greedy)
        text = self.codec.stream(ids)
        while remaining and not governor.out_of_time:
            if governor.pause_ms > 0.0:
                time.sleep(governor.pause_ms / 1e3)
                figures.paused_ms += governor.pause_ms
            if figures.tokens:
                begun = time.perf_counter()
            shown = decoder.step(remaining)
            pieces = [text.step(token) if token not in ends else "" for token, *_ in shown]
            elapsed_ms = (time.perf_counter() - begun) * 1e3
            governor.settle(len(shown), elapsed_ms, charge=figures.first_ms is not None)
            self._listen()
            if self._log is not None:
                self._log.step(governor, [item.depth for item in shown], elapsed_ms, self._signals)
            if figures.first_ms is None:
                figures.first_ms = elapsed_ms
            else:
                figures.decode_ms += elapsed_ms
                figures.timed_tokens += len(shown)
            remaining -= len(shown)
            for piece, (token, depth, drafted_at) in zip(pieces, shown, strict=True):
                if token in ends:
                    return
                figures.tokens += 1
                figures.depth_counts[depth] += 1
                yield Token(piece, token, depth, elapsed_ms, drafted_at)
                if self._reply != reply:
                    return  # another reply has taken the ladder
                elapsed_ms = 0.0

    def _listen(self) -> None:
        """Pass a new look at the machine on to the governor."""
        snapshot = self._sensors.snapshot
        if snapshot is self._heard:
            return
        self._heard = snapshot
        self._signals = signals_of(snapshot)
        self.governor.hear(self._signals)

    def _require(self, budget: Budget) -> None:
        """Refuse a budget whose signals this device lacks; the first look then is the governor's too."""
        if missing(budget, Signals()):
            require(budget, first_look(self._sensors), self._power_model)
            self._listen()


def parse_budget(budget: str | Budget | None) -> Budget:
    """A budget from its text. Raises BudgetError pointing at what cannot be read."""
    try:
        return Budget.parse(budget)
    except BudgetSyntaxError as error:
        raise BudgetError(str(error), "for example --budget 25ms") from error

"""AdaptiveSession: prompt in, tokens out, under a budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from balcony_controller import (
    Budget,
    BudgetSyntaxError,
    CostModel,
    Decider,
    Governor,
    Limits,
    PowerModel,
    Signals,
)
from balcony_controller.driver import Step
from balcony_controller.loads import missing
from balcony_edge.bundle.folder import Bundle
from balcony_edge.bundle.open import open_bundle
from balcony_edge.control.adapter import ladder_shape, quality_model
from balcony_edge.control.decision_log import DecisionLog
from balcony_edge.control.profile import batching_is_bit_exact, load_or_measure
from balcony_edge.control.signals import SignalFeed, first_look, require
from balcony_edge.decoding.loop import Checked, Emitted
from balcony_edge.decoding.reply import Figures, Reply, Surroundings, Token
from balcony_edge.decoding.text import TextCodec
from balcony_edge.engine import prompt_cache
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.runtime import Runtime
from balcony_edge.engine.sampling import Sampler
from balcony_edge.errors import BudgetError, BundleError, PromptError
from balcony_edge.report import Report
from balcony_edge.telemetry import Poller, Sensors, Snapshot


class AdaptiveSession:
    """A bundle, loaded, with a controller that picks the depth of every token.

    ``bundle``: a path, a Bundle, or None for the embedded demo. ``budget``: "25ms", "40tok/s", "full", a Budget or
    None (full depth, lossless); it can be set again at any time, also while tokens stream. ``provider``: "auto",
    "cpu" or "cuda". ``sensors``: a telemetry poller (default: this device's own); it is started and stopped with
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
        self.ladder_profile = load_or_measure(self.bundle, runtime, self.ladder)
        if speculate and not self.ladder_profile.bit_exact:
            raise BundleError(
                "on this machine a batch does not give the bits of single positions: speculation could change tokens",
                "leave speculation out (--no-speculate), or export the bundle again with --exactness bit",
            )
        self.speculates = self.ladder_profile.bit_exact and speculate is not False
        self.governor = Governor(
            ladder_shape(self.ladder),
            CostModel(self.ladder_profile.profiles),
            quality_model(self.bundle),
            parsed,
            rounds=self.speculates,
            min_agreement=min_agreement,
            limits=limits,
            power_model=power_model,
        )
        self._power_model = power_model
        self.ends = frozenset(manifest.generation.eos_token_ids)
        # An open NVML handle keeps a laptop's GPU awake: only where that GPU decodes.
        self._sensors: Sensors = sensors or Poller(nvml=runtime.provider == "cuda")
        self._feed = SignalFeed(self._sensors)
        self._sensors.start()
        self._log = log
        try:
            self._require(parsed)
        except BudgetError:
            self._sensors.stop()
            raise
        if log is not None:
            log.start(self.governor)
        self._reply: Reply | None = None

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
        return iter(self.reply(prompt, max_new_tokens, sampler=sampler, ends=self.ends | set(stop)))

    def generate(self, prompt: str | Sequence[int], max_new_tokens: int = 128, **settings: Any) -> str:
        """The whole reply as text; ``settings`` as in ``stream``."""
        return "".join(token.text for token in self.stream(prompt, max_new_tokens, **settings))

    def reply(
        self,
        prompt: str | Sequence[int],
        max_new_tokens: int = 128,
        *,
        decider: Decider | None = None,
        sampler: Sampler | None = None,
        ends: frozenset[int] | None = None,
        fresh: bool = False,
    ) -> Reply:
        """One reply as an object: iterate over it for its tokens, then read its figures.

        ``prompt``: text or token ids. ``decider``: who decides about depth, the governor by default; ``sampler``:
        greedy by default; ``ends``: the ids that end it, the bundle's by default; ``fresh``: nothing in the caches is
        used again. The reply takes the session's ladder when its first token is asked for; one that still runs then
        ends. Raises PromptError at once for a prompt or a length that cannot be run.
        """
        if max_new_tokens < 1:
            raise PromptError(f"{max_new_tokens} tokens were asked for", "ask for one at the least: -n 1")
        ids = self._prompt_ids(prompt)
        self.ladder.expect(min(len(ids) + max_new_tokens, self.ladder.context))
        governed = decider is None or decider is self.governor
        return Reply(
            self.ladder,
            self.governor if decider is None else decider,
            sampler or Sampler(),
            ids,
            self.ends if ends is None else ends,
            max_new_tokens,
            text=self.codec.stream(ids),
            fresh=fresh,
            around=Surroundings(
                self._take,
                # What others have heard, the governor has not.
                self._feed.look if governed else SignalFeed(self._sensors).look,
                self._write_log if governed and self._log is not None else None,
            ),
        )

    def logits(self, token_ids: Sequence[int], depth: int | str = "full") -> npt.NDArray[np.float32]:
        """Logits fp32 [positions, vocabulary] of ``token_ids`` at one depth, for evaluation. Ends a running reply."""
        wanted = self.ladder.full if depth == "full" else depth
        if wanted not in self.ladder.depths:
            raise PromptError(f"this bundle has no depth {depth!r}", f"choose one of {self.ladder.depths} or 'full'")
        ids = self._prompt_ids(list(token_ids), spare=0)
        self.end_reply()
        self.ladder.rewind(0)
        self.ladder.append(ids)
        return self.ladder.logits(int(wanted))

    def save_prompt(self, prompt: str | Sequence[int], path: str | Path) -> int:
        """Run ``prompt`` through every depth and keep its caches in ``path`` (safetensors); the number of its tokens.

        Later prompts that begin with it cost only what they add, also in another process: see ``load_prompt``.
        """
        self.end_reply()
        self.ladder.resume(self._prompt_ids(prompt))
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
        reply = self._reply
        figures, checked = (Figures(), Checked()) if reply is None else (reply.figures, reply.checked)
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
            drafted=0 if reply is None else reply.drafted,
            accepted=0 if reply is None else reply.accepted,
            bit_exact=self.ladder_profile.bit_exact,
            paused_ms=figures.paused_ms,
            floor_wins=self.governor.floor_wins,
            machine=self._sensors.snapshot.describe(),
        )

    def audit(self) -> Report:
        """Verify the tokens of the last reply that no deep pass has seen, in one batched pass, and report.

        The pass is not charged to the reply; it ends a reply that still streams.
        """
        if self._reply is not None:
            self._reply.audit()
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
        if self._reply is not None:
            self._reply.release()

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

    def _take(self, reply: Reply) -> None:
        """A reply begins: it has the ladder now, and reports are about it."""
        self.end_reply()
        self._reply = reply

    def _write_log(self, step: Step[Emitted]) -> None:
        assert self._log is not None
        self._log.step(self.governor, [item.depth for item in step.emitted], step.elapsed_ms, self._feed.signals)

    def _require(self, budget: Budget) -> None:
        """Refuse a budget whose signals this device lacks; the first look then is the governor's too."""
        if missing(budget, Signals()):
            require(budget, first_look(self._sensors), self._power_model)
            if (signals := self._feed.look()) is not None:
                self.governor.observe_signals(signals)


def parse_budget(budget: str | Budget | None) -> Budget:
    """A budget from its text. Raises BudgetError pointing at what cannot be read."""
    try:
        return Budget.parse(budget)
    except BudgetSyntaxError as error:
        raise BudgetError(str(error), "for example --budget 25ms") from error

"""AdaptiveSession: a prompt goes in, tokens come out, under a budget.

It puts the parts together: bundle, engine (the ladder of stages), governor, sensors and the loop of replies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from balcony_controller import Budget, CostModel, Decider, Governor, Limits, PowerModel
from balcony_controller.driver import Step
from balcony_edge.bundle.folder import Bundle
from balcony_edge.control.adapter import ladder_shape, quality_model
from balcony_edge.control.budgets import check_agreement, parse_budget
from balcony_edge.control.decision_log import DecisionLog
from balcony_edge.control.loaded import Loaded
from balcony_edge.control.signals import SignalFeed
from balcony_edge.decoding.loop import Emitted, Verified
from balcony_edge.decoding.reply import Figures, Reply, SessionHooks, TokenStream
from balcony_edge.decoding.report import Report
from balcony_edge.decoding.stops import Stops
from balcony_edge.decoding.turn import Turn
from balcony_edge.engine import prompt_cache
from balcony_edge.engine.sampling import Sampler
from balcony_edge.errors import BudgetError, PromptError
from balcony_edge.telemetry import Sensors, Snapshot


class AdaptiveSession:
    """A loaded bundle and a controller that picks the depth of every token.

        with AdaptiveSession("bundle/", budget="25ms") as session:
            for token in session.stream("Once upon a time"):
                print(token.text, end="", flush=True)

    A session holds one sequence of tokens at a time: a new reply ends the one before. While a reply of another thread
    runs, it is refused, or waits (``wait``); the budget can be set from any thread.

    Args:
        bundle: a folder, a Hub id (owner/name), a Bundle, or None for the built-in demo. Or a Loaded bundle, which
            several sessions share: provider, threads, max_context, sensors and speculate are then those of Loaded.
        budget: "25ms", "40tok/s", "full", a Budget, or None for full depth (lossless). ``session.budget`` can be set
            again at any time, also while tokens stream.
        provider: "auto", "cpu" or "cuda".
        threads: CPU threads of the process; None means one per physical core.
        max_context: largest number of positions; None means the model's own context.
        sensors: where the signals come from; None means this device. They are started and stopped with the session.
        speculate: whether exits may draft tokens for the full model to verify, which costs no quality. None means:
            where it is faster and this machine computes a batch with the bits of single positions. True also pads
            single positions to two where that gives them the bits of a batch.
        min_agreement: share of the full model's tokens (0 to 1) below which no budget may push a reply.
        limits: of temperature and battery level; beyond them only the shallowest exit runs, with pauses.
        power_model: estimated watts, used where no sensor tells the power.
        allow_clocks: let the budget choose the device's clock too. It is put back at the end.
        log: where to write every decision.

    Raises:
        BundleError: the bundle cannot be used, or speculation was asked for and is not bit-exact here.
        HubError: the bundle cannot be fetched from the Hub.
        BudgetError: the budget cannot be read, or this device lacks a signal that it needs.
        ClockError: the device's clock cannot be chosen here.
        ProviderError, RuntimeMissingError: ONNX Runtime or the provider is not available.
    """

    def __init__(
        self,
        bundle: str | Path | Bundle | Loaded | None = None,
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
        allow_clocks: bool = False,
        log: DecisionLog | None = None,
    ) -> None:
        parsed = parse_budget(budget)
        check_agreement(min_agreement)
        self._owns = not isinstance(bundle, Loaded)
        self.loaded = loaded = (
            bundle
            if isinstance(bundle, Loaded)
            else Loaded(
                bundle,
                provider=provider,
                threads=threads,
                max_context=max_context,
                sensors=sensors,
                speculate=speculate,
                allow_clocks=allow_clocks,
            )
        )
        self.bundle, self.runtime, self.codec = loaded.bundle, loaded.runtime, loaded.codec
        self.ladder_profile, self.speculates = loaded.profile, loaded.speculates
        self.ladder = loaded.ladder()
        self.governor = Governor(
            ladder_shape(self.ladder),
            CostModel(self.ladder_profile.profiles),
            quality_model(self.bundle),
            parsed,
            rounds=self.speculates,
            min_agreement=min_agreement,
            limits=limits,
            power_model=power_model,
            clocks=loaded.clock_choice(),
        )
        self._power_model = power_model
        self.ends = frozenset(self.bundle.manifest.generation.eos_token_ids)
        self._feed = SignalFeed(loaded.sensors)
        self._turn = Turn()
        self._log = log
        try:
            self._require(parsed)
        except BudgetError:
            self._let_go()
            raise
        if log is not None:
            log.start(self.governor)
        self._reply: Reply | None = None

    @property
    def snapshot(self) -> Snapshot:
        """The latest reading of every sensor of this device."""
        return self.loaded.sensors.snapshot

    # --- the budget -----------------------------------------------------------------------------------------------

    @property
    def budget(self) -> Budget:
        """The budget in force. Setting it raises BudgetError like the constructor."""
        return self.governor.budget

    @budget.setter
    def budget(self, budget: str | Budget | None) -> None:
        parsed = parse_budget(budget)
        self._require(parsed)
        with self._turn.lock:
            self.governor.set_budget(parsed)

    @property
    def min_agreement(self) -> float:
        """The least agreement in force. Setting it raises BudgetError like the constructor."""
        return self.governor.min_agreement

    @min_agreement.setter
    def min_agreement(self, least: float) -> None:
        check_agreement(least)
        with self._turn.lock:
            self.governor.set_min_agreement(least)

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
        stop: Sequence[int | str] = (),
        wait: bool = False,
    ) -> TokenStream:
        """Tokens one at a time, until an end token (not yielded), ``max_new_tokens`` or a full context.

        The stream's ``ended_by`` then says what ended it.

        Args:
            prompt: text, or token ids.
            max_new_tokens: largest number of new tokens.
            temp, top_k, top_p, min_p, repeat_penalty, seed: how tokens are drawn, see ``Sampler``; ``temp`` 0: greedy.
            stop: texts and token ids that end the reply. They are left out of its text.
            wait: wait for another thread's reply to end, instead of being refused.

        Raises:
            PromptError: for a prompt or settings that cannot be run. It is raised by the call, not by the iterator.
            SessionError: the session is closed; or, raised by the iterator, another thread's reply is running.
            BundleError: raised by the iterator, if the model gives numbers that are not finite.
        """
        sampler = Sampler(temp, top_k, top_p, min_p, repeat_penalty, seed)
        return TokenStream(self.reply(prompt, max_new_tokens, sampler=sampler, stops=Stops(stop), wait=wait))

    def generate(self, prompt: str | Sequence[int], max_new_tokens: int = 128, **settings: Any) -> str:
        """The whole reply as text; ``settings`` are those of ``stream``."""
        return "".join(token.text for token in self.stream(prompt, max_new_tokens, **settings))

    def reply(
        self,
        prompt: str | Sequence[int],
        max_new_tokens: int = 128,
        *,
        decider: Decider | None = None,
        sampler: Sampler | None = None,
        ends: frozenset[int] | None = None,
        stops: Stops | None = None,
        fresh: bool = False,
        wait: bool = False,
    ) -> Reply:
        """One reply as an object: iterate over it for its tokens, then read its figures.

        Nothing runs before the first token is asked for. Then the reply takes over the session's ladder, and a reply
        that still runs ends. A reply is decoded once.

        Args:
            prompt: text, or token ids.
            max_new_tokens: largest number of new tokens.
            decider: what decides about depth; the session's governor by default.
            sampler: how tokens are drawn; greedy by default.
            ends: token ids that end the reply; the bundle's end tokens by default.
            stops: what else ends it.
            fresh: run the whole prompt, even where the caches already hold its beginning.
            wait: as in ``stream``, which raises the same errors.
        """
        self._turn.check_open()
        if max_new_tokens < 1:
            raise PromptError(f"{max_new_tokens} tokens were asked for", "ask for one at the least: -n 1")
        ids = self.prompt_ids(prompt)
        self.ladder.check_memory(min(len(ids) + max_new_tokens, self.ladder.context))
        governed = decider is None or decider is self.governor
        return Reply(
            self.ladder,
            self.governor if decider is None else decider,
            sampler or Sampler(),
            ids,
            self.ends if ends is None else ends,
            max_new_tokens,
            stops=stops,
            text=self.codec.stream(ids),
            fresh=fresh,
            hooks=SessionHooks(
                self._turn,
                wait,
                self._begin_reply,
                # A feed of its own: signals that another decider has seen are still new to the governor.
                self._feed.new_signals if governed else SignalFeed(self.loaded.sensors).new_signals,
                self._write_log if governed and self._log is not None else None,
                partial(self.loaded.set_clock, id(self)),
                self.loaded.device,
            ),
        )

    def logits(self, token_ids: Sequence[int], depth: int | str = "full") -> npt.NDArray[np.float32]:
        """Logits fp32 [positions, vocabulary] of ``token_ids`` at one depth, for evaluation. Ends a running reply.

        ``depth``: one of the bundle's depths, or "full". Raises PromptError for another depth or unusable ids.
        """
        wanted = self.ladder.full if depth == "full" else depth
        if wanted not in self.ladder.depths:
            raise PromptError(f"this bundle has no depth {depth!r}", f"choose one of {self.ladder.depths} or 'full'")
        ids = self.prompt_ids(list(token_ids), spare=0)
        with self._own_turn():
            self.ladder.rewind(0)
            self.ladder.append(ids)
            return self.ladder.logits(int(wanted))

    def save_prompt(self, prompt: str | Sequence[int], path: str | Path) -> int:
        """Run ``prompt`` through every depth and write its caches to ``path`` (safetensors); returns its token count.

        After ``load_prompt(path)``, prompts that begin with this one cost only what they add, also in another process.
        Ends a running reply. Raises PromptError.
        """
        ids = self.prompt_ids(prompt)
        with self._own_turn():
            self.ladder.resume(ids)
            for depth in self.ladder.depths:
                self.ladder.advance(depth, self.ladder.length)
            prompt_cache.save(self.ladder, Path(path))
            return self.ladder.length

    def load_prompt(self, path: str | Path) -> int:
        """Read the caches that ``save_prompt`` wrote; returns the number of tokens. Ends a running reply.

        Raises PromptError if the file is broken or was made with another bundle.
        """
        with self._own_turn():
            return prompt_cache.load(self.ladder, Path(path))

    # --- figures --------------------------------------------------------------------------------------------------

    def report(self) -> Report:
        """Figures of the last reply so far; it may still stream."""
        reply = self._reply
        figures, verified = (Figures(), Verified()) if reply is None else (reply.figures, reply.verified)
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
            verified=verified.tokens,
            agreed=verified.agreed,
            drafted=0 if reply is None else reply.drafted,
            accepted=0 if reply is None else reply.accepted,
            looked_up=0 if reply is None else reply.looked_up,
            guessed=0 if reply is None else reply.guessed,
            bit_exact=self.ladder_profile.bit_exact,
            paused_ms=figures.paused_ms,
            full_ms=self.governor.full_ms,
            floor_wins=self.governor.floor_wins,
            machine=self.loaded.sensors.snapshot.describe(),
            clock=self.loaded.clock_line(self.governor),
            ended_by=None if reply is None else reply.ended_by,
        )

    def audit(self) -> Report:
        """Verify those tokens of the last reply that no deep pass has verified yet, then report.

        That takes one more batched pass, which is not charged to the reply. A reply that still streams ends. Raises
        SessionError if it is another thread's.
        """
        if self._reply is not None:
            self._reply.audit()
        return self.report()

    # --- life -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End a running reply and stop the sensors. The session can no longer decode."""
        self._turn.close()
        self._let_go()

    def __enter__(self) -> AdaptiveSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- inside ---------------------------------------------------------------------------------------------------

    def _let_go(self) -> None:
        """Close what no other session uses."""
        if self._owns:
            self.loaded.close()

    def end_reply(self) -> None:
        """End the reply that holds the ladder, so that the ladder can be used for something else.

        That reply can no longer be audited. Raises SessionError if it is another thread's, or the session is closed.
        """
        with self._own_turn():
            pass

    @contextmanager
    def _own_turn(self) -> Iterator[None]:
        """The ladder for one call, which ends a reply of this thread. Raises SessionError as ``end_reply``."""
        with self._turn.call():
            if self._reply is not None:
                self._reply.release()
            yield

    def prompt_ids(self, prompt: str | Sequence[int], spare: int = 1) -> list[int]:
        """The token ids of a prompt. Raises PromptError if it has none, or leaves no room for ``spare`` tokens."""
        ids = self.codec.encode(prompt) if isinstance(prompt, str) else self.codec.check([int(i) for i in prompt])
        if not ids:
            raise PromptError("the prompt has no tokens", "give at least one")
        if len(ids) + spare > self.ladder.context:
            no_room = ", which leaves no room for a reply" if len(ids) == self.ladder.context else ""
            raise PromptError(
                f"the prompt has {len(ids)} tokens; this model's context holds {self.ladder.context}{no_room}",
                "shorten the prompt, or use a bundle with a longer context",
            )
        return ids

    def _begin_reply(self, reply: Reply) -> None:
        """The reply holds the ladder from now on, and reports are about it."""
        if self._reply is not None:
            self._reply.release()
        self._reply = reply

    def _write_log(self, step: Step[Emitted], texts: Sequence[str]) -> None:
        assert self._log is not None
        drafted = [item.drafted_at for item in step.emitted]
        depths = [item.depth for item in step.emitted]
        self._log.step(self.governor, depths, step.elapsed_ms, self._feed.signals, texts, drafted)

    def _require(self, budget: Budget) -> None:
        """Refuse a budget that needs signals which this device lacks. The governor is told what was found."""
        if self.loaded.require(budget, self._power_model) and (signals := self._feed.new_signals()) is not None:
            self.governor.observe_signals(signals)

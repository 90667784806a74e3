"""The report of a reply: what it cost, and how much quality it gave up for that."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Report:
    """Figures of one reply. Times are in milliseconds; None means that nothing was measured.

    Attributes:
        budget: the budget as text; ``budget_ms`` its milliseconds per token, None for other kinds of budget.
        prompt_tokens: tokens of the prompt; ``reused_tokens`` of them were still in the caches.
        tokens: emitted tokens.
        first_token_ms: from the start of the reply to its first token, the prompt included.
        mean_ms: mean time of a token after the first.
        depth_counts: emitted tokens by depth (base layers run). ``full_depth`` is the whole model's depth.
        verified: tokens emitted at an exit that a deep pass compared later with the full model's answer.
        agreed: how many of ``verified`` were the full model's token.
        drafted: tokens that were held as drafts. ``accepted`` of them were the full model's and were emitted;
            ``looked_up`` of these were found in the text so far, ``guessed`` came from the draft stage, and the others
            from exits.
        bit_exact: whether a deep pass gives the same bits on this machine as token-by-token decoding.
        paused_ms: time waited between tokens, to stay within a limit of power, battery or GPU.
        full_ms: what a token takes here now at full depth.
        floor_wins: whether the least agreement that was asked for made tokens dearer than the budget.
        machine: load, power and heat of the device when the report was made, on one line.
        clock: the device's clock where the budget chooses it, or the one that would suit it better.
        ended_by: why the reply ended ("end token", "stop", "length", "context", "deadline", "interrupted"); None while
            it streams.
    """

    budget: str
    budget_ms: float | None
    prompt_tokens: int
    reused_tokens: int
    tokens: int
    first_token_ms: float | None
    mean_ms: float | None
    depth_counts: dict[int, int]
    shallowest_depth: int
    full_depth: int
    verified: int
    agreed: int
    drafted: int
    accepted: int
    looked_up: int
    guessed: int
    bit_exact: bool
    paused_ms: float
    full_ms: float
    floor_wins: bool
    machine: str
    clock: str = ""
    ended_by: str | None = None

    @property
    def prompt_tok_s(self) -> float | None:
        """Prompt tokens per second up to the first token."""
        return None if not self.first_token_ms else self.prompt_tokens / self.first_token_ms * 1e3

    @property
    def decode_tok_s(self) -> float | None:
        """Tokens per second after the first."""
        return None if not self.mean_ms else 1e3 / self.mean_ms

    @property
    def lossless(self) -> bool:
        """Whether every token is the full model's own: decoded at full depth, or a draft that it accepted."""
        return set(self.depth_counts) <= {self.full_depth}

    @property
    def out_of_reach(self) -> bool:
        """Whether this device cannot keep the budget: it was missed although every token left at the first exit."""
        if self.budget_ms is None or self.mean_ms is None:
            return False
        return self.mean_ms > self.budget_ms and set(self.depth_shares) == {self.shallowest_depth}

    @property
    def depth_shares(self) -> dict[int, float]:
        """Depth → share of the tokens that were emitted at it (0 to 1); depths without tokens are left out."""
        return {depth: count / self.tokens for depth, count in self.depth_counts.items() if count}

    @property
    def known(self) -> int:
        """How many of the tokens are known to be the full model's, or known not to be."""
        return self.depth_counts.get(self.full_depth, 0) + self.verified

    @property
    def agreement(self) -> float | None:
        """Share of the tokens that are the full model's (0 to 1), over those that are known; None if none is.

        Full-depth tokens are the full model's by definition. Tokens of exits count once they have been verified.
        """
        known = self.known
        return None if not known else (known - self.verified + self.agreed) / known

    def depths_line(self) -> str:
        """The share of the tokens at each depth in words: ``94% at exit 3, 6% at full depth``."""
        return ", ".join(
            f"{share:.0%} at {'full depth' if depth == self.full_depth else f'exit {depth}'}"
            for depth, share in sorted(self.depth_shares.items())
        )

    def why(self) -> str:
        """Why depth was what it was, in a sentence; empty without tokens."""
        if not self.tokens:
            return ""
        if self.floor_wins:
            return f"The least agreement that was asked for made tokens cost more than the budget {self.budget}."
        if self.lossless:
            limit = "Nothing was limited" if self.budget == "full" else f"The budget {self.budget} affords it"
            return f"{limit}: every token is the full model's."
        if self.out_of_reach:
            return (
                f"A token of the shallowest exit took {self.mean_ms:.3g} ms, more than the budget {self.budget}: no "
                "token went deeper."
            )
        shallow = 1.0 - self.depth_shares.get(self.full_depth, 0.0)
        return (
            f"A token of full depth takes {self.full_ms:.3g} ms here, more than the budget {self.budget} allows: "
            f"{shallow:.0%} of the tokens left at exits, where these were likeliest to be right."
        )

    def line(self) -> str:
        """The whole report on one line, as ``balcony-edge run`` prints it."""

        def number(value: float | None, form: str) -> str:
            return "unknown" if value is None else format(value, form)

        beyond = ", below what the shallowest depth costs here" if self.out_of_reach else ""
        if self.floor_wins:
            beyond += ", broken by the least agreement"
        if self.paused_ms:
            beyond += f", {self.paused_ms / max(1, self.tokens):.1f} ms/token of pauses"
        found = f", {self.looked_up} of them from the text" if self.looked_up else ""
        found += f", {self.guessed} guessed" if self.guessed else ""
        drafts = f", {self.accepted} of {self.drafted} drafts accepted{found}" if self.drafted else ""
        quality = (
            f"lossless (full depth{drafts})"
            if self.lossless
            else f"agreement with full {number(self.agreement, '.1%')} ({self.known} of {self.tokens} verified)"
        )
        clock = f" | {self.clock}" if self.clock else ""
        ended = f" ({self.ended_by})" if self.ended_by else ""
        reused = f" ({self.reused_tokens} reused)" if self.reused_tokens else ""
        return (
            f"prompt {self.prompt_tokens} tokens{reused} {number(self.prompt_tok_s, '.0f')} tok/s, "
            f"first token {number(self.first_token_ms, '.1f')} ms | "
            f"{self.tokens} tokens{ended} {number(self.decode_tok_s, '.0f')} tok/s, "
            f"{number(self.mean_ms, '.3f')} ms/token (budget {self.budget}{beyond}) | "
            f"{self.depths_line() or 'no tokens'} | {quality} | {self.machine}{clock}"
        )

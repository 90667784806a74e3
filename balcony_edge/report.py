"""What a reply cost and what it gave up."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Report:
    """Figures of one reply. Times in milliseconds; None where nothing was measured.

    ``mean_ms`` is over the tokens after the first, whose time (``first_token_ms``) is the prompt's.
    ``reused_tokens`` of the prompt stood in the caches from before.
    ``verified`` tokens of shallow exits were later compared with the full model's answer; ``agreed`` of them matched.
    ``drafted`` tokens of exits were held back for a deep pass to verify; ``accepted`` of them were the full model's.
    ``paused_ms``: waited between tokens for a limit of power, battery or GPU. ``floor_wins``: the least agreement made
    tokens dearer than the budget.
    ``bit_exact``: on this machine, what a deep pass verifies has the bits of plain decoding.
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
    bit_exact: bool
    paused_ms: float
    floor_wins: bool
    machine: str

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
        """Whether every token is the full model's own: from the full depth, or drafted and confirmed by it."""
        return set(self.depth_counts) <= {self.full_depth}

    @property
    def out_of_reach(self) -> bool:
        """Whether the budget was missed with every token at the shallowest depth: this device cannot keep it."""
        if self.budget_ms is None or self.mean_ms is None:
            return False
        return self.mean_ms > self.budget_ms and set(self.depth_shares) == {self.shallowest_depth}

    @property
    def depth_shares(self) -> dict[int, float]:
        """Share of the tokens per depth."""
        return {depth: count / self.tokens for depth, count in self.depth_counts.items() if count}

    @property
    def agreement(self) -> float | None:
        """Measured share of tokens that are the full model's: full-depth tokens are, exits' as far as verified."""
        full = self.depth_counts.get(self.full_depth, 0)
        known = full + self.verified
        return None if not known else (full + self.agreed) / known

    def line(self) -> str:
        """All of it on one line."""

        def number(value: float | None, form: str) -> str:
            return "unknown" if value is None else format(value, form)

        depths = " ".join(
            f"{'full' if depth == self.full_depth else f'exit {depth}'} {share:.0%}"
            for depth, share in sorted(self.depth_shares.items())
        )
        beyond = ", below what the shallowest depth costs here" if self.out_of_reach else ""
        if self.floor_wins:
            beyond += ", broken by the least agreement"
        if self.paused_ms:
            beyond += f", {self.paused_ms / max(1, self.tokens):.1f} ms/token of pauses"
        known = self.depth_counts.get(self.full_depth, 0) + self.verified
        drafts = f", {self.accepted} of {self.drafted} drafts accepted" if self.drafted else ""
        quality = (
            f"lossless (full depth{drafts})"
            if self.lossless
            else f"agreement with full {number(self.agreement, '.1%')} ({known} of {self.tokens} verified)"
        )
        reused = f" ({self.reused_tokens} reused)" if self.reused_tokens else ""
        return (
            f"prompt {self.prompt_tokens} tokens{reused} {number(self.prompt_tok_s, '.0f')} tok/s, "
            f"first token {number(self.first_token_ms, '.1f')} ms | "
            f"{self.tokens} tokens {number(self.decode_tok_s, '.0f')} tok/s, "
            f"{number(self.mean_ms, '.3f')} ms/token (budget {self.budget}{beyond}) | "
            f"{depths or 'no tokens'} | {quality} | {self.machine}"
        )

"""The same question answered twice by one session: at full depth, then under a budget of a share of what that cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from balcony_edge.decoding.report import Report
from balcony_edge.errors import PromptError
from balcony_edge.session import AdaptiveSession
from balcony_edge.system.terminal import table

# Called with each piece of text and the number of the answer that it belongs to, 0 or 1.
Show = Callable[[int, str], None]


@dataclass(frozen=True)
class TwoAnswers:
    """The reports of both answers, with the agreement measured: every token was compared with the full model's."""

    full: Report
    budgeted: Report

    def table(self) -> str:
        """Both as a table of text: a line each, and a line that names the columns."""
        head = ("", "tokens", "ms a token", "of full depth", "where they left", "the full model's own")
        return table([head, self._row("at full depth", self.full), self._row(self.budgeted.budget, self.budgeted)])

    def _row(self, name: str, report: Report) -> tuple[str, ...]:
        mean_ms, full_ms, agreement = report.mean_ms, self.full.mean_ms, report.agreement
        return (
            name,
            str(report.tokens),
            f"{mean_ms:.2f}" if mean_ms else "unknown",
            f"{mean_ms / full_ms:.0%}" if mean_ms and full_ms else "unknown",
            report.depths_line(),
            f"{agreement:.0%}" if agreement is not None else "unknown",
        )


def answer_twice(
    session: AdaptiveSession, question: str, most: int, share: float, show: Show, begin: Callable[[int], None]
) -> TwoAnswers:
    """Answer ``question`` with at most ``most`` tokens, greedily; chat models by their template.

    ``share``: the budget of the second answer, as a share of the first one's measured milliseconds a token.
    ``begin`` is called with the number of the answer before it starts. Ends with the session's budget being that one.

    Raises PromptError for a question that cannot be run, or whose answer is too short to measure.
    """
    codec = session.codec
    chat = [{"role": "user", "content": question}]
    ids = codec.encode(question) if codec.chat_template is None else codec.encode_chat(chat)
    reports = []
    for number in (0, 1):
        begin(number)
        # Both from an empty cache, so that both run the prompt.
        for token in session.reply(ids, most, fresh=True):
            show(number, token.text)
        reports.append(session.audit())
        if number == 0:
            mean_ms = reports[0].mean_ms
            if not mean_ms:
                raise PromptError("the answer at full depth is too short to measure its cost", "ask something longer")
            session.budget = f"{mean_ms * share:.3g}ms"
    return TwoAnswers(*reports)

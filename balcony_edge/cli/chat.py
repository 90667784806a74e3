"""``balcony-edge chat``: a conversation in the terminal, under a budget that can be changed at any time."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from balcony_edge.cli.options import AllowClocks, BundleName, Provider, Threads, finite
from balcony_edge.errors import BalconyError, PromptError

if TYPE_CHECKING:
    from balcony_edge.decoding.reply import Token
    from balcony_edge.session import AdaptiveSession
    from balcony_edge.text.conversation import Conversation

HELP = """\
/budget 20ms     another budget from the next token on; /budget alone says which is in force
/new             forget the conversation
/again           answer the last question once more
/save FILE       keep the conversation; /load FILE goes on with a kept one
/audit           how many tokens of the last answer are the full model's
/help  /quit     Ctrl-C ends an answer, Ctrl-D ends the chat
A line that ends in \\ goes on in the next one; so does all between two lines of \"\"\"."""
# Colours of a terminal for exits, shallowest first; full depth is not tinted.
TINTS = (173, 179, 107, 140, 168, 74)
BLOCK = '"""'


def chat(
    bundle: BundleName = None,
    budget: Annotated[
        str, typer.Option(envvar="BALCONY_BUDGET", help="What a token may cost, as in balcony-edge run.")
    ] = "full",
    min_agreement: Annotated[
        float,
        typer.Option(callback=finite, min=0.0, max=1.0, help="Least share of tokens that must be the full model's."),
    ] = 0.0,
    system: Annotated[str | None, typer.Option(help="What the model is told before the conversation.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with a conversation that /save has kept.")] = None,
    max_tokens: Annotated[int, typer.Option("-n", "--max-tokens", min=1, help="Longest answer.")] = 512,
    temp: Annotated[float, typer.Option(callback=finite, min=0.0, help="Temperature; 0: the likeliest token.")] = 0.0,
    top_p: Annotated[float, typer.Option(callback=finite, help="Draw from the likeliest tokens of this share.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Of the random numbers.")] = None,
    tint: Annotated[bool, typer.Option("--tint/--no-tint", help="Colour tokens by the exit that gave them.")] = True,
    provider: Provider = "auto",
    threads: Threads = None,
    max_context: Annotated[int | None, typer.Option(min=2, help="Largest number of positions.")] = None,
    allow_clocks: AllowClocks = False,
) -> None:
    """Chat with a model under a budget. /help lists what can be typed."""
    from balcony_edge.control.budgets import parse_budget
    from balcony_edge.session import AdaptiveSession
    from balcony_edge.text.conversation import Conversation

    wanted = parse_budget(budget)
    talk = Conversation.begun(system) if resume is None else Conversation.load(resume)
    with AdaptiveSession(
        bundle,
        wanted,
        provider=provider,
        threads=threads,
        max_context=max_context,
        min_agreement=min_agreement,
        allow_clocks=allow_clocks,
    ) as session:
        if session.codec.chat_template is None:
            raise PromptError("this model does not chat: it has no chat template", "use balcony-edge run")
        settings = {"temp": temp, "top_p": top_p, "seed": seed}
        Chat(session, talk, max_tokens, settings, tint and sys.stdout.isatty()).run()


class Chat:
    """The loop of questions, commands and answers."""

    def __init__(
        self,
        session: AdaptiveSession,
        talk: Conversation,
        most: int,
        settings: dict[str, float | int | None],
        tints: bool,
    ) -> None:
        self._session, self._talk, self._most, self._settings = session, talk, most, settings
        depths = session.ladder.depths[:-1]
        self._tints = {depth: TINTS[place % len(TINTS)] for place, depth in enumerate(depths)} if tints else {}
        self._is_terminal = sys.stdin.isatty()
        if self._is_terminal:
            with contextlib.suppress(ImportError):  # history and editing of lines, where Python has them
                import readline  # noqa: F401

    def run(self) -> None:
        """Until the end of the input or /quit."""
        if self._is_terminal:
            self._say(f"budget {self._session.budget} · /help says what can be typed")
            self._say_shortfall()
        while (said := self._read()) is not None:
            try:
                if said.startswith("/") and not said.startswith("//"):
                    if not self._obey(said):
                        return
                elif said.strip():
                    self._answer(said.removeprefix("/") if said.startswith("//") else said)
            except BalconyError as error:
                if not self._is_terminal:
                    raise
                self._say(str(error))

    def _say_shortfall(self) -> None:
        from balcony_edge.control.keepable import shortfall

        if (short := shortfall(self._session.governor)) is not None:
            self._say(short)

    # --- what is typed ---

    def _read(self) -> str | None:
        """The next message or command, of one line or several; None at the end."""
        lines: list[str] = []
        in_block = False
        while True:
            try:
                prompt = f"[{self._session.budget}] > " if not lines else "... "
                line = input(prompt if self._is_terminal else "")
            except EOFError:
                return "\n".join(lines) if lines else None
            except KeyboardInterrupt:
                self._say("")
                lines, in_block = [], False
                continue
            except UnicodeDecodeError as error:
                raise PromptError(f"the input is no UTF-8: {error}", "give text") from error
            if line.strip() == BLOCK:
                if in_block:
                    return "\n".join(lines)
                in_block = True
                continue
            goes_on = line.endswith("\\") and not in_block
            lines.append(line[:-1] if goes_on else line)
            if not in_block and not goes_on:
                return "\n".join(lines)

    def _obey(self, command: str) -> bool:
        """Do what a command says. Returns whether the chat goes on."""
        from balcony_edge.text.conversation import Conversation

        verb, _, rest = command.partition(" ")
        rest = rest.strip()
        if verb in ("/quit", "/exit", "/bye"):
            return False
        if verb == "/help":
            self._say(HELP)
        elif verb == "/budget":
            if rest:
                self._session.budget = rest
            self._say(f"budget {self._session.budget}")
            self._say_shortfall()
        elif verb == "/new":
            kept = [message for message in self._talk.messages[:1] if message["role"] == "system"]
            self._talk = Conversation(kept)
        elif verb == "/again":
            if (asked := self._talk.take_back()) is None:
                raise PromptError("nothing was asked yet", "ask something")
            self._answer(asked)
        elif verb in ("/save", "/load"):
            if not rest:
                raise PromptError(f"{verb} needs a file", f"{verb} talk.json")
            if verb == "/save":
                self._talk.save(Path(rest).expanduser())
            else:
                self._talk = Conversation.load(Path(rest).expanduser())
                self._say(f"{len(self._talk.messages)} messages")
        elif verb == "/audit":
            self._say(self._session.audit().line())
        else:
            raise PromptError(f"there is no command {verb}", "/help lists them; //text is a message that begins with /")
        return True

    # --- what is answered ---

    def _answer(self, asked: str) -> None:
        from balcony_edge.system.terminal import cell
        from balcony_edge.text.conversation import fitting

        session, talk = self._session, self._talk
        messages, context = [*talk.messages, {"role": "user", "content": asked}], session.ladder.context
        # An answer has a quarter of the context at least.
        room = context - min(self._most, context // 4)
        ids, left_out = fitting(messages, session.codec.encode_chat, room)
        if left_out:
            self._say(f"{left_out} old messages are left out: the context holds {context} tokens")
        tokens = session.stream(ids, self._most, **self._settings)  # type: ignore[arg-type]
        answer = ""
        try:
            for token in tokens:
                answer += token.text
                sys.stdout.write(self._tinted(token))
                sys.stdout.flush()
        except KeyboardInterrupt:
            tokens.close()
        sys.stdout.write("\n")
        sys.stdout.flush()
        talk.add("user", asked)
        talk.add("assistant", answer)
        report = session.report()
        self._say(cell(report.line()))
        self._say(cell(report.why()))

    def _tinted(self, token: Token) -> str:
        from balcony_edge.system.terminal import shown

        text = shown(token.text, sys.stdout)
        colour = self._tints.get(token.depth)
        return f"\x1b[38;5;{colour}m{text}\x1b[0m" if colour is not None and text else text

    @staticmethod
    def _say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

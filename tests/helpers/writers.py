"""Every verb that writes a file or folder: how it is called, and when what it has written is whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from balcony_edge import Bundle
from balcony_edge.bundle.folder import open_folder
from balcony_edge.files.tensors import check_seal
from balcony_edge.measure import records
from balcony_edge.telemetry import Player
from balcony_edge.telemetry.device_profile import read_profile

TEXT = "Once upon a time there was a little girl who loved to swim. " * 80


@dataclass(frozen=True)
class Writer:
    """One verb with an option that writes. In ``arguments`` and ``output``, {out} is a folder that may be written to.

    Other names in braces: {bundle} of the demo, {base} of it, {small} a small bundle, {model} a small base, {log} a
    decision log, {text} a text.
    """

    name: str
    arguments: str
    output: str
    whole: Callable[[Path], object]
    """Raises unless what was written is whole."""
    lines: bool = False
    """Written line by line: what was killed is good up to a line that was cut."""
    goes_on: bool = False
    """It leaves on purpose what the next run goes on from."""
    needs: tuple[str, ...] = ()
    """Packages that it cannot do without."""
    seconds: bool = False
    """Whether it takes so long that only the long run tries it."""

    def command(self, names: Mapping[str, object]) -> list[str]:
        """The arguments for the command line."""
        return [part.format(**names) for part in self.arguments.split()]

    def place(self, out: Path) -> Path:
        """Where the output will be."""
        return Path(self.output.format(out=out))


def _picture(path: Path) -> None:
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG"), content[:8]
    assert content.endswith(b"IEND\xaeB`\x82"), content[-8:]


def _log(path: Path) -> None:
    lines = path.read_text().split("\n")
    assert [json.loads(line) for line in lines[:-1]]


def _exits(path: Path) -> None:
    from balcony_export.exits import store

    store.load(path)


RUN = "run -p Once -n 40"
WRITERS = [
    Writer("run --log", f"{RUN} --log {{out}}/log", "{out}/log", _log, lines=True),
    Writer("run --prompt-cache", f"{RUN} --prompt-cache {{out}}/cache", "{out}/cache", check_seal),
    Writer(
        "replay --record",
        "replay --record demo --replies 1 -o {out}/records.json",
        "{out}/records.json",
        records.load,
    ),
    Writer(
        "replay --plot",
        "replay steady --tokens 200 --budgets 1 --plot {out}/a.png",
        "{out}/a.png",
        _picture,
        needs=("matplotlib",),
        seconds=True,
    ),
    Writer("explain --plot", "explain {log} --plot {out}/a.png", "{out}/a.png", _picture, needs=("matplotlib",)),
    Writer(
        "eval --plot",
        "eval {bundle} --data {text} --documents 1 --plot {out}/a.png",
        "{out}/a.png",
        _picture,
        needs=("matplotlib", "onnx"),
        seconds=True,
    ),
    Writer("watch --record", "watch -n 3 --interval 0.05 --record {out}/day", "{out}/day", Player, lines=True),
    Writer("profile -o", "profile -o {out}/me.toml", "{out}/me.toml", read_profile, needs=("tomli_w",), seconds=True),
    Writer("pull -o", "pull {bundle} -o {out}/bundle", "{out}/bundle", Bundle),
    Writer("push FOLDER", "push {bundle} file://{out}/shared", "{out}/shared", Bundle),
    Writer("thin -o", "thin {small} -o {out}/thin", "{out}/thin", open_folder, needs=("onnx",)),
    Writer(
        "export -o",
        "export {model} --exits init --splits 2 --no-verify -o {out}/bundle",
        "{out}/bundle",
        Bundle,
        needs=("onnx",),
    ),
    Writer(
        "train -o",
        "train {model} --data {text} --splits 2 --max-steps 2 --length 16 --save-every 1 -o {out}/exits",
        "{out}/exits",
        _exits,
        goes_on=True,
        needs=("torch", "onnx"),
        seconds=True,
    ),
]

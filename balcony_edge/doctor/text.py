"""A diagnosis as text for people."""

from __future__ import annotations

from collections.abc import Iterator

from balcony_edge import __version__
from balcony_edge.doctor.diagnosis import Diagnosis
from balcony_edge.system.terminal import table
from balcony_edge.telemetry.presentation import rows

Line = tuple[str, str]
"""A line, and its style in a terminal (rich's words; empty for plain)."""

_STYLES = {"info": "cyan", "warning": "yellow", "error": "bold red"}
_WORKS = {True: "works", False: "fails", None: "unknown"}
_TITLES = {
    "model": "model",
    "cpu": "processor",
    "cores": "cores",
    "ram_gb": "memory GB",
    "jetpack": "JetPack",
    "l4t": "L4T",
    "system": "system",
    "kernel": "kernel",
}


def lines(diagnosis: Diagnosis) -> Iterator[Line]:
    """The report line by line: device, runtime, signals, then problems, the worst first."""
    yield f"balcony-edge {__version__}", "bold"
    device = [[title, str(diagnosis.device[key])] for key, title in _TITLES.items() if diagnosis.device.get(key)]
    profile = diagnosis.profile.profile
    found = "none" if profile is None else f"{profile.name}: {profile.title}, {profile.tag}"
    yield from _section("Device", [*device, ["profile", f"{found} ({diagnosis.profile.by})"]])
    yield from _section("ONNX Runtime", _runtime(diagnosis))
    known = [[name, value, source] for name, value, source in rows(diagnosis.snapshot) if value != "unknown"]
    unknown = [[name, reason] for name, value, reason in rows(diagnosis.snapshot) if value == "unknown"]
    yield from _section("Signals", known or [["none"]])
    if unknown:
        yield from _section("Unknown here", unknown)
    yield "", ""
    yield "Problems", "bold"
    if not diagnosis.problems:
        yield "  none", "green"
    for problem in diagnosis.problems:
        yield f"  {problem.severity.word}: {problem.what}", _STYLES[problem.severity.word]
        yield f"    → {problem.next}", ""


def _runtime(diagnosis: Diagnosis) -> list[list[str]]:
    runtime = diagnosis.runtime
    if runtime is None:
        return [["not examined: these are another device's files"]]
    if runtime.version is None:
        return [["installed", ", ".join(runtime.distributions) or "no ONNX Runtime"], ["Python", runtime.python]]
    return [
        ["version", f"{runtime.version} ({', '.join(runtime.distributions) or 'not from pip'})"],
        *(
            [
                probed.provider.removesuffix("ExecutionProvider"),
                f"{_WORKS[probed.works]}, {probed.detail}",
            ]
            for probed in runtime.providers
        ),
        ["threads", str(runtime.threads)],
        ["Python", runtime.python],
    ]


def _section(title: str, content: list[list[str]]) -> Iterator[Line]:
    yield "", ""
    yield title, "bold"
    for line in table(content).splitlines():
        yield f"  {line}", ""

"""Builds a measured device profile: what was known about the device, and what was measured on this machine."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from balcony_edge import __version__
from balcony_edge.bundle.folder import Bundle
from balcony_edge.bundle.open import open_bundle
from balcony_edge.control.stage_times import measure
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.runtime import Runtime, onnxruntime
from balcony_edge.errors import DeviceProfileError
from balcony_edge.files.writing import write_whole
from balcony_edge.profiling.bandwidth import measure_bandwidth
from balcony_edge.profiling.clocks import knob_to_measure, measure_clocks
from balcony_edge.profiling.energy import WINDOW_S, PowerDraw, measure_power, rounded
from balcony_edge.telemetry import Poller, Sensors
from balcony_edge.telemetry.device import describe_device, identify
from balcony_edge.telemetry.device_profile import FoundProfile, find_profile
from balcony_profiles import Cpu, Defaults, DeviceProfile, Identity, Matching, Measured, ModelledPower

_TOKENS = 24
_MODULE = re.compile(r"p[0-9]{4}-[0-9]{4}(?:-super)?")
_Say = Callable[[str], None]


def measure_device(
    bundle: str | Path | Bundle | None,
    *,
    provider: str = "auto",
    threads: int | None = None,
    profile: str | None = None,
    sensors: Sensors | None = None,
    say: _Say = lambda _: None,
    power_window_s: float = WINDOW_S,
    allow_clocks: bool = False,
) -> DeviceProfile:
    """Measure memory bandwidth, every stage of a bundle and, if there is a sensor, power. It takes half a minute.

    Args:
        bundle: whose stages to time; None means the built-in demo.
        provider, threads: as for a session.
        profile: name or file of the device profile to start from; None means the one that fits.
        sensors: where power and memory are read; None means this device.
        say: told what is being measured.
        power_window_s: seconds of rest and of work over which power is averaged.
        allow_clocks: also set the device's clock to each of its settings, and measure what each is worth.

    Raises:
        ClockError: clocks are allowed, and cannot be set or judged here.
        BundleError, ProviderError, RuntimeMissingError: as for a session.
        DeviceProfileError: the device profile to start from is missing or malformed.
    """
    opened = open_bundle(bundle)
    runtime = Runtime.start(provider, threads, opened.manifest.formats)
    ladder = Ladder(opened, runtime)
    identity = identify(nvml=runtime.provider == "cuda")
    found = find_profile(identity, profile)
    # Before half a minute of measuring, in case there is none.
    settable = knob_to_measure(gpu=runtime.provider == "cuda") if allow_clocks else None
    own = sensors or Poller(nvml=runtime.provider == "cuda")
    own.start()
    try:
        say("memory bandwidth")
        available = _wait(own)
        bandwidth = measure_bandwidth(runtime, available)
        say("stages")
        stages = measure(ladder).profiles
        say("tokens")
        token_ms = {depth: _token_ms(ladder, depth) for depth in ladder.depths}
        metered = own.snapshot.energy_j.known
        say("power, first at rest" if metered else "no power: nothing here tells the energy")
        full = ladder.full

        def power() -> PowerDraw | None:
            if not own.snapshot.energy_j.known:
                return None
            return measure_power(own, lambda: _tokens(ladder, full), window_s=power_window_s)

        drawn = power()
        clocks = None if settable is None else measure_clocks(*settable, lambda: _token_ms(ladder, full), power, say)
        mode = own.snapshot.power_mode.text or None
    finally:
        own.stop()
    measured = Measured(
        date=time.strftime("%Y-%m-%d", time.gmtime()),
        balcony_edge=__version__,
        onnxruntime=onnxruntime().__version__,
        provider=runtime.provider,
        threads=runtime.threads,
        power_mode=mode,
        bundle=opened.manifest.digest,
        token_ms={str(depth): rounded(ms) for depth, ms in token_ms.items()},
        token_mj=rounded((drawn.busy_w - drawn.idle_w) * token_ms[full]) if drawn else None,
        power_source=drawn.source if drawn else None,
        stages={
            name: {str(count): rounded(ms) for count, ms in stages[name].points}
            for name in [stage.name for stage in ladder.stages] + [name for name in stages if name == "head"]
        },
    )
    measured_profile = _profile(found, identity, measured, bandwidth, drawn)
    return measured_profile if clocks is None else measured_profile.model_copy(update={"clocks": clocks})


def install(text: str, path: Path) -> None:
    """Write a device profile's text to a file, whole or not at all.

    Raises:
        DeviceProfileError: if it cannot be written.
    """
    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise DeviceProfileError(f"cannot write {path}: {error.strerror}", "give -o another place") from error


def _profile(
    found: FoundProfile,
    identity: Identity,
    measured: Measured,
    bandwidth_gb_s: float | None,
    drawn: PowerDraw | None,
) -> DeviceProfile:
    known = found.profile
    base = known if known is not None and known.tag != "generic" else None
    device = describe_device()
    title = base.title if base else device["model"] or device["cpu"] or "a machine without a name"
    facts = {
        "name": re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "measured",
        "title": title,
        "tag": "measured",
        "source": f"balcony-edge profile {__version__} on the device itself",
        "match": _matching(identity),
        "cpu": (base.cpu if base else None) or Cpu(name=device["cpu"], cores=device["cores"]),
        "memory_bandwidth_gb_s": rounded(bandwidth_gb_s)
        if bandwidth_gb_s
        else (base.memory_bandwidth_gb_s if base else None),
        "runtime": Defaults(provider="cuda" if measured.provider == "cuda" else "cpu", threads=measured.threads),
        "measured": measured,
    }
    if base is None and device["ram_gb"]:
        facts["ram_gb"] = (max(1, round(device["ram_gb"])),)
    if drawn is not None:
        facts["power_model"] = ModelledPower(
            idle_w=rounded(drawn.idle_w),
            busy_w=rounded(drawn.busy_w),
            source=f"{drawn.source}, measured on the device",
        )
    return DeviceProfile(**{**(dict(base) if base else {}), **facts})


def _matching(identity: Identity) -> Matching:
    """How to recognise this machine: by its module's or board's id, else its vendor and product, else its processor."""
    modules = _MODULE.findall(identity.compatible)
    if modules:
        return Matching(device_tree=(max(modules, key=len),))
    if identity.compatible:
        return Matching(device_tree=(re.split(r"[\0 ]+", identity.compatible.strip("\0 "))[0],))
    if identity.dmi:
        return Matching(dmi=(identity.dmi,))
    return Matching(cpu=(identity.cpu,)) if identity.cpu else Matching()


def _wait(sensors: Sensors, limit_s: float = 3.0) -> float | None:
    """Wait until each sensor was read twice; returns the bytes of memory that are available."""
    begun = time.monotonic()
    while time.monotonic() - begun < limit_s:
        time.sleep(0.1)
        if sensors.snapshot.memory_available_bytes.known and time.monotonic() - begun > limit_s / 3:
            break
    return sensors.snapshot.memory_available_bytes.value


def _token_ms(ladder: Ladder, depth: int) -> float:
    times: list[float] = []
    _tokens(ladder, depth, times)
    return statistics.median(times[1:])


def _tokens(ladder: Ladder, depth: int, times: list[float] | None = None) -> None:
    """Decode a few tokens greedily at one depth, from an empty context. ``times`` gets the milliseconds of each."""
    ladder.rewind(0)
    token = 1
    for _ in range(min(_TOKENS, ladder.context)):
        begun = time.perf_counter()
        ladder.append([token])
        token = int(ladder.next_logits(depth).argmax())
        if times is not None:
            times.append((time.perf_counter() - begun) * 1e3)

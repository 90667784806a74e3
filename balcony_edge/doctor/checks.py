"""Checks of the device itself: power mode, throttling, capped clocks, a container's quota, permissions."""

from __future__ import annotations

import math
import re

from balcony_edge.clocks.switch import left_over
from balcony_edge.doctor.problem import Problem, Severity
from balcony_edge.system import control_group
from balcony_edge.telemetry.device_profile import FoundProfile
from balcony_edge.telemetry.presentation import SIGNALS
from balcony_edge.telemetry.readers.jetson import DEVFREQ, JetsonReader
from balcony_edge.telemetry.readers.nvml import REASONS
from balcony_edge.telemetry.readers.power_mode import mode_names
from balcony_edge.telemetry.readers.sysfs import Sysfs
from balcony_edge.telemetry.reading import Snapshot
from balcony_profiles import DeviceProfile

# A power mode with at most this share of the best mode's watts is a warning.
_HALF = 0.5
# A GPU whose highest clock is below this share of the published one is capped.
_CAPPED = 0.8
# So near to its limit (°C) a chip is called hot.
_NEAR_C = 5.0
_WATTS = re.compile(r"([0-9]+)W\b")
_DENIED = re.compile(r"(/\S+): EACCES")
_CPUFREQ = "sys/devices/system/cpu/cpufreq"
# With these drivers "powersave" is the normal governor and does not cap the clock.
_OWN_GOVERNORS = ("intel_pstate", "amd-pstate-epp", "amd-pstate")


def device_problems(sysfs: Sysfs, snapshot: Snapshot, found: FoundProfile) -> list[Problem]:
    """The problems of the device itself, in the order in which they matter.

    ``sysfs``: its files. ``snapshot``: its signals. ``found``: its device profile.
    """
    profile = found.profile
    return [
        *_driver(snapshot),
        *_power_mode(sysfs, snapshot, profile),
        *_gpu_cap(sysfs, profile),
        *_throttling(snapshot, profile),
        *_processor(sysfs),
        *_left_clocks(),
        *_quota(sysfs),
        *_permissions(snapshot),
        *_profile(found),
    ]


def _driver(snapshot: Snapshot) -> list[Problem]:
    mismatch, lost = REASONS[18], (REASONS[15], REASONS[16])
    said = " ".join(reading.reason for _, reading in snapshot)
    if mismatch in said:
        return [Problem(Severity.ERROR, "the NVIDIA library and driver differ in version", "sudo reboot")]
    if any(reason in said for reason in lost):
        what = "the GPU has fallen off the bus or needs a reset"
        return [Problem(Severity.ERROR, what, "sudo dmesg | grep -i xid   (why), then: sudo reboot")]
    return []


def _power_mode(sysfs: Sysfs, snapshot: Snapshot, profile: DeviceProfile | None) -> list[Problem]:
    """A Jetson that is not in its fastest mode: the most common reason for half the speed that others report."""
    mode = snapshot.power_mode
    if mode.value is None:
        return []
    modes = mode_names(sysfs)
    current = modes.get(int(mode.value), mode.text)
    watts = {number: _mode_watts(name, number, profile) for number, name in modes.items()}
    fastest = max(modes, key=lambda number: watts[number], default=None)
    if not current or fastest is None or modes[fastest] == current:
        return []
    own, best = watts.get(int(mode.value), 0.0), watts[fastest]
    halved = 0 < own <= _HALF * best
    what = f"the power mode is {current}, and this board also has {modes[fastest]}"
    what += ": expect about half its speed or less" if halved else ""
    return [Problem(Severity.WARNING if halved else Severity.INFO, what, f"sudo nvpmodel -m {fastest}")]


def _left_clocks() -> list[Problem]:
    if not left_over():
        return []
    what = "a killed process has left the device's clock set, and nobody has put it back"
    return [Problem(Severity.WARNING, what, "balcony-edge run --allow-clocks -p Hello   (puts it back first)")]


def _mode_watts(name: str, number: int, profile: DeviceProfile | None) -> float:
    """Watts that a mode stands for, to compare the modes of one board. MAXN is infinite, an unknown mode 0."""
    found = _WATTS.search(name)
    if found:
        return float(found[1])
    known = (*profile.power_modes, *profile.super_power_modes) if profile is not None else ()
    for mode in known:
        if mode.name == name and mode.id == number and mode.nominal_w is not None:
            return mode.nominal_w
    return math.inf if name.upper().startswith("MAXN") else 0.0


def _gpu_cap(sysfs: Sysfs, profile: DeviceProfile | None) -> list[Problem]:
    gpu = profile.gpu if profile is not None else None
    published_mhz = gpu.max_clock_mhz if gpu is not None else None
    for node in JetsonReader(sysfs=sysfs).gpu_nodes():
        highest = sysfs.number(f"{DEVFREQ}/{node}/max_freq").value
        if highest and published_mhz and highest / 1e6 < _CAPPED * published_mhz:
            what = f"the GPU is capped to {highest / 1e6:.0f} MHz of {published_mhz:.0f} MHz"
            return [Problem(Severity.WARNING, what, "sudo nvpmodel -q   (the mode's cap), then: sudo jetson_clocks")]
    return []


def _throttling(snapshot: Snapshot, profile: DeviceProfile | None) -> list[Problem]:
    problems = []
    if snapshot.throttled.value:
        why = snapshot.throttled.text or "no reason given"
        if why == "undervoltage":
            then = "use the board's own power supply; sudo dmesg | grep -i voltage   (how often)"
        else:
            then = "give it air, or hold the heat down yourself: balcony-edge run --budget 20tok/s"
        problems.append(Problem(Severity.WARNING, f"the device holds its clocks down now ({why})", then))
    events = snapshot.throttle_events
    counts = dict(re.findall(r"(oc[0-9]) ([0-9]+)", events.text))
    hard = sum(int(count) for name, count in counts.items() if name != "oc3")
    if hard:
        what = f"over-current has cut the clocks {hard} times since boot ({events.text})"
        then = "use a stronger supply, or a lower power mode: sudo nvpmodel -q"
        problems.append(Problem(Severity.WARNING, what, then))
    elif counts.get("oc3", "0") != "0":
        what = (
            f"oc3 has fired {counts['oc3']} times since boot: short clips of the average power, usual near a mode's cap"
        )
        problems.append(Problem(Severity.INFO, what, "sudo nvpmodel -q   (only if it runs slower than it should)"))
    limit = snapshot.temperature_limit_c.value
    if limit is None and profile is not None:
        limit = profile.limits.temperature_c
    heat = snapshot.temperature_c.value
    if heat is not None and limit is not None and heat > limit - _NEAR_C:
        what = f"the chip is at {heat:.0f} °C; at {limit:.0f} °C it is slowed down or switched off"
        problems.append(Problem(Severity.WARNING, what, "give it air, or run under a budget: --budget 20tok/s"))
    return problems


def _processor(sysfs: Sysfs) -> list[Problem]:
    governor = sysfs.text(f"{_CPUFREQ}/policy0/scaling_governor").value
    driver = sysfs.text(f"{_CPUFREQ}/policy0/scaling_driver").value or ""
    if governor == "powersave" and driver not in _OWN_GOVERNORS:
        what = "the processor is held at its lowest clock (governor powersave)"
        return [Problem(Severity.WARNING, what, "sudo cpupower frequency-set -g schedutil")]
    if sysfs.text("sys/firmware/acpi/platform_profile").value == "low-power":
        what = "the machine is set to save power (platform profile low-power)"
        return [Problem(Severity.WARNING, what, "powerprofilesctl set balanced")]
    return []


def _quota(sysfs: Sysfs) -> list[Problem]:
    """A container that may use fewer cores than there are."""
    quota = control_group.processors(sysfs.whole)
    cores = sum(re.fullmatch(r"cpu[0-9]+", entry) is not None for entry in sysfs.entries("sys/devices/system/cpu"))
    if quota is None or not cores or quota >= cores:
        return []
    threads = max(1, int(quota))
    what = f"this container may use {quota:.1f} of {cores} cores: more threads than that only wait for each other"
    return [Problem(Severity.WARNING, what, f"export BALCONY_THREADS={threads}")]


def _permissions(snapshot: Snapshot) -> list[Problem]:
    denied: dict[str, list[str]] = {}
    for field, reading in snapshot:
        for path in _DENIED.findall(reading.reason):
            denied.setdefault(path, []).append(SIGNALS[field].name)
    return [
        Problem(Severity.INFO, f"{', '.join(names)}: {path} may not be read", f"sudo chmod a+r {path}")
        for path, names in denied.items()
    ]


def _profile(found: FoundProfile) -> list[Problem]:
    measure = "balcony-edge profile --install"
    if found.profile is None:
        return [Problem(Severity.INFO, f"{found.by}: nothing is known of it beforehand", measure)]
    if found.profile.tag == "generic":
        what = f"the profile {found.profile.name} fits many machines and holds no figures of this one"
        return [Problem(Severity.INFO, what, measure)]
    return []

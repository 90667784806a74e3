"""Profiles by name, from a file, or by what a machine says of itself."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from pydantic import ValidationError

from balcony_profiles.identity import Identity
from balcony_profiles.schema import DeviceProfile, Matching

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class ProfileError(ValueError):
    """A device profile's file cannot be read or understood."""


class UnknownProfileError(ValueError):
    """No device profile has the name that was asked for."""


class Match(NamedTuple):
    """A device profile, and what the machine was recognised by."""

    profile: DeviceProfile
    by: str


def names() -> tuple[str, ...]:
    """The names of all device profiles in the package, sorted."""
    found = (entry.name for entry in files("balcony_profiles").iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml")))


@cache
def load(name: str) -> DeviceProfile:
    """The package's device profile called ``name``, such as ``"orin-nano-8gb"``.

    Raises:
        UnknownProfileError: if there is none; the message lists all names.
        ProfileError: if its file is malformed.
    """
    known = names()
    if name not in known:
        raise UnknownProfileError(f"no device profile is called {name!r}; there are {', '.join(known)}")
    text = files("balcony_profiles").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    return parse(name, text)


def parse(name: str, text: str) -> DeviceProfile:
    """The device profile in a TOML text. Every key must be known, and every value of the right type.

    Raises:
        ProfileError: which names the device profile and the key.
    """
    try:
        # Converted to JSON first: from JSON the strict schema takes lists as tuples. TOML's dates are refused there.
        document = json.dumps({**tomllib.loads(text), "name": name})
        return DeviceProfile.model_validate_json(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ProfileError(f"profile {name}: {where}: {first['msg']}") from error
    except (ValueError, TypeError, RecursionError) as error:  # TOML that is broken, or has a number that Python refuses
        raise ProfileError(f"profile {name}: {error}") from error


def to_toml(profile: DeviceProfile) -> str:
    """The TOML text of a device profile; ``parse`` turns it back into the same one."""
    import tomli_w  # only needed to write one

    return tomli_w.dumps(profile.model_dump(mode="json", exclude={"name"}, exclude_defaults=True))


def match(identity: Identity, profiles: Iterable[DeviceProfile] | None = None) -> Match | None:
    """The device profile that fits a machine best, or ``None`` if none does.

    The device tree's ids count most, then DMI, the name of the processor, the name of the GPU, and last the kind of
    machine. Among equals the longest id wins. A Jetson without a device profile of its own gets no generic one.
    ``profiles``: those to choose from; the package's by default.
    """
    best: tuple[tuple[int, int, bool], Match] | None = None
    for profile in (load(name) for name in names()) if profiles is None else profiles:
        found = _score(profile, identity)
        if found is not None and (best is None or found[0] > best[0]):
            best = found[0], Match(profile, found[1])
    return None if best is None else best[1]


def _score(profile: DeviceProfile, identity: Identity) -> tuple[tuple[int, int, bool], str] | None:
    """((rank of the evidence, length of the id, whether it is about laptops), the evidence); ``None`` without any."""
    wanted = profile.match
    ways = (
        ("device tree", wanted.device_tree, identity.compatible, True),
        ("DMI", wanted.dmi, identity.dmi, False),
        ("processor", wanted.cpu, identity.cpu, False),
        ("NVML name", wanted.nvml, identity.nvml, False),
    )
    for rank, (title, ids, said, whole) in enumerate(ways):
        hits = [wanted_id for wanted_id in ids if _says(said, wanted_id, whole)]
        if hits and _portable_fits(wanted, identity):
            longest = max(hits, key=len)
            if rank == 3 and identity.jetson:
                continue  # the same integrated GPU is on several boards
            return (len(ways) - rank, len(longest), wanted.portable is not None), f"{title} {longest}"
    if profile.tag == "generic" and not any(ids for _, ids, _, _ in ways) and not identity.jetson:
        return ((0, 0, False), "nothing more specific") if _portable_fits(wanted, identity) else None
    return None


def _says(said: str, wanted: str, whole: bool) -> bool:
    if not whole:
        return wanted.lower() in said.lower()
    # A whole id: "p3767-0005" must not be found in "p3767-0005x".
    return re.search(rf"(?<![a-z0-9]){re.escape(wanted.lower())}(?![a-z0-9])", said.lower()) is not None


def _portable_fits(wanted: Matching, identity: Identity) -> bool:
    return wanted.portable is None or wanted.portable is bool(identity.portable)

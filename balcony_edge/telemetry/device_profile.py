"""Finds the device profile of this machine: the one that was asked for, the user's own, or one of the package."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import platformdirs

from balcony_edge.errors import DeviceProfileError
from balcony_edge.files.home import user_folder
from balcony_edge.files.reading import Reader
from balcony_profiles import DeviceProfile, Identity, ProfileError, UnknownProfileError, load, match, parse

VARIABLE = "BALCONY_PROFILE"
HINT = "correct it as docs/profiles.md says, or leave it out"
READER = Reader("the device profile", DeviceProfileError, HINT, 1 << 20)


class FoundProfile(NamedTuple):
    """A device profile, or None, and why it is this one (``by``)."""

    profile: DeviceProfile | None
    by: str


def profile_folder() -> Path | None:
    """The folder of the user's own device profiles, one TOML file each: ``BALCONY_PROFILE_DIR`` if that is set.

    None for a user without a home.
    """
    return user_folder("BALCONY_PROFILE_DIR", lambda name: f"{platformdirs.user_config_dir(name)}/profiles")


def find_profile(identity: Identity, wanted: str | None = None) -> FoundProfile:
    """The device profile to use: ``wanted`` (a name or a file), else ``BALCONY_PROFILE``, else the best match.

    The user's own device profiles go before those of the package.

    Raises:
        DeviceProfileError: the one that was asked for is missing, or one is malformed.
    """
    given, by = wanted, "asked for"
    if given is None and os.environ.get(VARIABLE):
        given, by = os.environ[VARIABLE], VARIABLE
    try:
        folder = profile_folder()
        files = [] if folder is None else sorted(folder.glob("*.toml"))
        own = {path.stem: read_profile(path) for path in files}
        if given is not None:
            if given in own:
                return FoundProfile(own[given], by)
            file = given.endswith(".toml") or os.sep in given
            return FoundProfile(read_profile(Path(given)) if file else load(given), by)
    except UnknownProfileError as error:
        raise DeviceProfileError(str(error), "choose one of them, or give a TOML file") from error
    except ProfileError as error:
        raise DeviceProfileError(str(error), HINT) from error
    found = match(identity, [profile for profile in own.values() if profile.tag == "measured"]) or match(identity)
    if found is None:
        return FoundProfile(None, f"no profile of this Jetson ({identity.compatible})")
    return FoundProfile(found.profile, found.by)


def read_profile(path: Path) -> DeviceProfile:
    """The device profile in a TOML file. The file's name is its name.

    Raises DeviceProfileError if the file cannot be read, ProfileError if it is malformed.
    """
    return parse(path.stem or "profile", READER.text(path))

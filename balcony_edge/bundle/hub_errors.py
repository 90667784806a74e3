"""Explains what the Hugging Face Hub's client raises: one line with the reason, and what to do next."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit
from urllib.request import getproxies

from balcony_edge.errors import HubError

LOG_IN = "log in with hf auth login, or set HF_TOKEN"


def require_client() -> None:
    """Raise HubError, with the extra to install, if huggingface_hub is missing."""
    try:
        import huggingface_hub  # noqa: F401
    except ImportError as error:
        raise HubError(
            "the Hugging Face Hub needs the package huggingface_hub, which is not installed",
            "run pip install 'balcony-edge[hub]', or name a local folder",
        ) from error


def reachable() -> bool:
    """False if the Hub's name is not known here: without a network the client would try for half a minute.

    Behind a proxy this machine need not know it, and a client that is offline does not ask.
    """
    from huggingface_hub import constants

    address = urlsplit(constants.ENDPOINT)
    if constants.HF_HUB_OFFLINE or {"all", address.scheme} & getproxies().keys():
        return True
    try:
        socket.getaddrinfo(address.hostname, address.port or address.scheme)
    except (OSError, UnicodeError):
        return False
    return True


def explain(error: Exception, repo: str) -> tuple[str, str]:
    """Why ``repo`` could not be read or written, in one line, and a hint.

    The client raises many kinds of error, some of them its HTTP library's. Known kinds have words of their own; for
    all others the reason is the first line of the error.
    """
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return "it is gated", f"accept its terms on its page on the Hub, then {LOG_IN}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such repository, or it is private", f"check the name {repo}; if it is private, {LOG_IN}"
    if isinstance(error, errors.RevisionNotFoundError):
        return "it has no such revision", "name a branch, tag or commit that is there, or leave --revision out"
    if isinstance(error, errors.HFValidationError):
        return "this is no name that a repository can have", "give owner/name"
    if status == 401:
        return "the Hub does not accept the login, or there is none", LOG_IN
    if status == 403:
        return "the login may not do that", f"use a token with write access to {repo}: {LOG_IN}"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return (
            "the Hub cannot be reached, or must not be (--offline, HF_HUB_OFFLINE), and the cache does not hold it; "
            "there is no folder of that name either",
            "check the name and the network, or leave --offline out",
        )
    reason = str(error).strip().splitlines()
    return reason[0] if reason else type(error).__name__, "check the name and the network (or --offline)"

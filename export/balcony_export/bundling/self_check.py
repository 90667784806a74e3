"""The last step of an export: a bundle that does not compute what its model does is not left in place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from balcony_edge.bundle.folder import Bundle
from balcony_edge.errors import ProviderError, VerifyError
from balcony_export.verification.bundle_and_reference import encode_prompts
from balcony_export.verification.reference import MemoryShortError
from balcony_export.verification.report import explain
from balcony_export.verification.verify import DEFAULT_PROMPTS, verify

DECODE = 8


def self_check(folder: Path, exits: Path | None, later: str, say: Callable[[str], None]) -> Callable[[Bundle], None]:
    """What ``export_bundle`` calls as ``check``: one short prompt, its figures to ``say``.

    It raises VerifyError for a bundle that fails. On a machine that cannot run the comparison (too little memory, no
    CUDA for a CUDA bundle) it says so, and the command ``later`` to run elsewhere.
    """

    def check(bundle: Bundle) -> None:
        context = bundle.manifest.architecture.context
        ids = encode_prompts(bundle, DEFAULT_PROMPTS[:1])[0][: max(1, context // 2)]
        try:
            found = verify(bundle, folder, [ids], DECODE, exits=exits)
        except (MemoryShortError, ProviderError) as error:
            say(f"verify skipped: {error.message}; later, on a machine that can: {later}")
            return
        say(found.line())
        if (failure := found.first_failure) is not None:
            raise VerifyError(
                f"the exported bundle does not compute what {found.model} does, and was removed: {explain(failure)}",
                "report this with the model's name; --no-verify keeps the bundle",
            )

    return check

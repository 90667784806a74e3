"""The last step of an export: compare the bundle with its model on a short prompt, and remove it if they differ."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from balcony_edge.bundle.folder import Bundle
from balcony_edge.errors import ProviderError, VerifyError
from balcony_export.bundling.kept_check import with_kept
from balcony_export.verification.bundle_and_reference import encode_prompts
from balcony_export.verification.reference import MemoryShortError
from balcony_export.verification.report import explain, next_step
from balcony_export.verification.verify import DEFAULT_PROMPTS, verify

# Greedy tokens that are compared after the prompt.
DECODE = 8


def self_check(folder: Path, exits: Path | None, later: str, say: Callable[[str], None]) -> Callable[[Bundle], None]:
    """The ``check`` argument of ``write_bundle``: a function that compares a bundle with the model in ``folder``.

    ``exits``: the folder of its trained exits. The result is a line that is passed to ``say``. The function raises
    VerifyError for a bundle that fails. If this machine cannot compare them (too little memory, or no CUDA for a CUDA
    bundle), it says so with the command ``later``, which does it elsewhere.
    """

    def check(bundle: Bundle) -> None:
        context = bundle.manifest.architecture.context
        ids = encode_prompts(bundle, DEFAULT_PROMPTS[:1])[0][: max(1, context // 2)]
        try:
            found = with_kept(verify(bundle, folder, [ids], DECODE, exits=exits), bundle, folder)
        except (MemoryShortError, ProviderError) as error:
            say(f"verify skipped: {error.message}; later, on a machine that can: {later}")
            return
        say(found.line())
        if (failure := found.first_failure) is not None:
            raise VerifyError(
                f"the exported bundle does not compute what {found.model} does, and was removed: {explain(failure)}",
                next_step(failure, "report this with the model's name; --no-verify keeps the bundle"),
            )

    return check

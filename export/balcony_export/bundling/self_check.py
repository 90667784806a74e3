"""The last step of an export: check the bundle on a short prompt, and remove it if it fails.

With torch it is compared with its model. Without, its parts are compared with each other.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from balcony_edge.bundle.folder import Bundle
from balcony_edge.engine.footprint import Footprint, available_bytes, size
from balcony_edge.errors import ProviderError, VerifyError
from balcony_export.bundling.against_uncut import compare_with_uncut
from balcony_export.bundling.kept_check import kept_row, with_kept
from balcony_export.extras import has_train
from balcony_export.verification.prompts import short_prompt
from balcony_export.verification.report import explain, next_step

# Greedy tokens that are compared after the prompt.
DECODE = 8
KEEP = "report this with the model's name; --no-verify keeps the bundle"

Check = Callable[[Bundle], None]
Say = Callable[[str], None]


def self_check(folder: Path, exits: Path | None, later: str, say: Say) -> Check:
    """The ``check`` argument of ``write_bundle``: a function that checks a bundle of the model in ``folder``.

    ``exits``: the folder of its trained exits. The result is a line that is passed to ``say``. The function raises
    VerifyError for a bundle that fails. If this machine cannot do it (too little memory, or no CUDA for a CUDA bundle),
    it says so with the command ``later``, which does it elsewhere.
    """
    return _with_model(folder, exits, later, say) if has_train() else _alone(folder, later, say)


def _with_model(folder: Path, exits: Path | None, later: str, say: Say) -> Check:
    from balcony_export.model.transformers_model import quiet
    from balcony_export.verification.reference import MemoryShortError
    from balcony_export.verification.verify import verify

    quiet()

    def check(bundle: Bundle) -> None:
        try:
            found = with_kept(verify(bundle, folder, [short_prompt(bundle)], DECODE, exits=exits), bundle, folder)
        except (MemoryShortError, ProviderError) as error:
            say(f"verify skipped: {error.message}; later, on a machine that can: {later}")
            return
        say(found.line())
        if (failure := found.first_failure) is not None:
            raise VerifyError(
                f"the exported bundle does not compute what {found.model} does, and was removed: {explain(failure)}",
                next_step(failure, KEEP),
            )

    return check


def _alone(folder: Path, later: str, say: Say) -> Check:
    rest = f"not compared with the model itself, which needs torch: pip install 'balcony-edge[train]', then {later}"

    def check(bundle: Bundle) -> None:
        row = kept_row(bundle, folder)
        if row is not None and not row.passed:
            raise VerifyError(f"the exported bundle does not keep {folder}, and was removed: {explain(row)}", KEEP)
        manifest, free = bundle.manifest, available_bytes()
        needed = Footprint.of(manifest).total(0)
        if manifest.formats.provider != "cpu":
            say(f"files checked, graphs not run: they are made for {manifest.formats.provider}; {rest}")
            return
        if free is not None and needed > free:
            say(f"files checked, graphs not run: they need {size(needed)} of memory, {size(free)} are free; {rest}")
            return
        found = compare_with_uncut(bundle, short_prompt(bundle), DECODE)
        if found.failure is not None:
            raise VerifyError(f"the exported bundle is broken, and was removed: {found.failure}", KEEP)
        say(f"files checked; {found.line()}")
        say(rest)

    return check

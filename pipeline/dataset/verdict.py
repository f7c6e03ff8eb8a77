"""Decides whether a run may commit its dataset; if not, gives the exit code and the reason."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.config.sections import Quality
from pipeline.dataset.identifiers import IdCounts
from pipeline.dataset.record import Failure
from pipeline.errors import ExitCode

WORST_FIRST = (ExitCode.CONFIG, ExitCode.OTHER_DATASET, ExitCode.RETRYABLE, ExitCode.BUG, ExitCode.INCOMPLETE)
"""The codes in the order in which one wins: first those that must be fixed before a retry can help."""


def verdict(
    failures: Sequence[Failure], failed: Mapping[str, str], totals: Mapping[str, Any], quality: Quality
) -> tuple[ExitCode, str]:
    """Returns the exit code of a run, and the reason in one line.

    Args:
        failures: failures of splits.  failed: failed files with their reasons.  totals: as in the summary.
    """
    codes = {ExitCode(failure.exit_code) for failure in failures}
    if failed:
        codes.add(ExitCode.INCOMPLETE)
    if quality.allow_failed_files:
        failed = {file: each.message for each in failures if not each.is_of_files for file in each.files}
    if codes - {ExitCode.INCOMPLETE} or failed:
        code = next(code for code in WORST_FIRST if code in codes)
        if code is not ExitCode.INCOMPLETE:
            reasons = [failure.message for failure in failures if failure.exit_code == code]
            return code, f"{len(reasons)} splits could not be done: {reasons[0].splitlines()[0]}"
        name, message = next(iter(failed.items()))
        more = f" (and {len(failed) - 1} more files)" if len(failed) > 1 else ""
        return code, f"{len(failed)} of the source's files failed: {name}: {message.splitlines()[0]}{more}"
    documents = totals["documents"]
    if not documents and not quality.allow_empty:
        why = "no file of the source could be read" if failures else "the source has no rows"
        hint = "if that is right, set quality.allow_empty"
        return ExitCode.INCOMPLETE, f"{why}, so nothing is committed; {hint}"
    if totals["rejects"] > quality.max_reject_fraction * documents:
        return ExitCode.INCOMPLETE, (
            f"{totals['rejects']} of {documents} rows were rejected, more than quality.max_reject_fraction "
            f"{quality.max_reject_fraction:g}; rejects/ has the reason of each"
        )
    if totals["unknown_tokens"] > quality.max_unknown_fraction * totals["text_tokens"]:
        return ExitCode.INCOMPLETE, (
            f"{totals['unknown_tokens']} of {totals['text_tokens']} tokens are unknown to the model, more "
            f"than quality.max_unknown_fraction {quality.max_unknown_fraction:g}; name a model that has the "
            "script of these texts"
        )
    return ExitCode.DONE, "complete"


def verdict_on_ids(counts: IdCounts) -> tuple[ExitCode, str]:
    """Returns the exit code of a run whose ids must be unique, and the reason in one line."""
    if not (counts.null_ids or counts.repeated_ids):
        return ExitCode.DONE, "complete"
    return ExitCode.INCOMPLETE, (
        f"{counts.null_ids} rows have no id, and {counts.repeated_ids} the id of another row, which "
        "quality.unique_ids does not allow; correct the source or its id_column, and use a new output.path"
    )

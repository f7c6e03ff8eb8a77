"""Runs a whole job from Python, as the command `run` does."""

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline import telemetry
from pipeline.config.load import load_config, make_config
from pipeline.dataset.ending import RunResult
from pipeline.estimate import warnings


def run(
    config: str | Path | Mapping[str, Any], *, run_date: datetime.date | None = None, quiet: bool = True
) -> RunResult:
    """Does the job of a config, or what is left of it; returns how it ended.

    Args:
        config: the path of a YAML file, or its content as a mapping.
        run_date: the date for `{run_date}`. Default: today, in UTC.
        quiet: show no progress.

    Raises:
        PipelineError: the run failed; `exit_code` is that of the command.
    """
    # Only a run needs Ray, which takes seconds to import.
    from pipeline.driver.run import run as run_job  # noqa: PLC0415

    if isinstance(config, Mapping):
        loaded = make_config(config, run_date=run_date)
    else:
        loaded = load_config(str(config), (), run_date)
    for caution in warnings.plain_http(loaded):
        telemetry.warn(caution.text)
    return run_job(loaded, quiet)

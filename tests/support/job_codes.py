"""The exit code of a job, as the command ends with it, in this process."""

import typer

from vigc.cli.command import reporting_errors
from vigc.cli.jobs import do_job


def exit_code_of(job, output, *, dry_run=False):
    """The code of the command that runs a job; `job` makes its settings."""
    try:
        with reporting_errors("vigc generate", debug=False):
            return do_job(job(), output, dry_run=dry_run)
    except typer.Exit as ended:
        return ended.exit_code

"""Why a training job ends without a result, and the exit code that tells it.

Vertex AI restarts a replica only on infrastructure failures; whether a new attempt makes sense is decided by
job_notifier and the launcher, which see the exit code. 64 and 75 are those of BSD's sysexits.h, 130 is what a
shell reports after Ctrl-C.
"""

from __future__ import annotations

from dualdeploy.errors import CannotEverSucceed, RetryLater

EXIT_DONE = 0
EXIT_BUG = 1
EXIT_USER_ERROR = 64
EXIT_TEMPORARY = 75
EXIT_STOPPED = 130


class UnusableJob(CannotEverSucceed):
    """The job description or the command line has faults; the message lists all of them."""


class UnusableData(CannotEverSucceed):
    """The shards cannot be trained on; the message names shard and record."""


class UnusableWeights(CannotEverSucceed):
    """The weights to start from cannot be had or do not fit the architecture."""


class DivergedTraining(CannotEverSucceed):
    """The loss is no longer a number: these parameters cannot train this model."""


class OutOfMemory(CannotEverSucceed):
    """The model does not fit the machine with this batch and image size."""


class WorkerLost(RetryLater):
    """Another worker of this job went away: all start again, from the last checkpoint."""


class UnwritableOutput(CannotEverSucceed):
    """The folder for the results cannot be written."""


class Interrupted(RetryLater):
    """The machine is being taken away (SIGTERM): nothing is wrong with the job."""


def exit_code(error: BaseException | None) -> int:
    """The one place where the outcome of a job becomes an exit code."""
    if error is None:
        return EXIT_DONE
    if isinstance(error, CannotEverSucceed):
        return EXIT_USER_ERROR
    if isinstance(error, RetryLater):
        return EXIT_TEMPORARY
    return EXIT_BUG

"""Why a training job ends without a result, and the exit code that tells it.

64 and 75 are those of BSD's sysexits.h, 130 is what a shell reports after Ctrl-C. Vertex AI takes every code but 0 for
the end of the job, except those of SIGABRT and SIGSEGV, after which it starts the job again, up to three times: what
may go better the next time leaves with the first of them there.
Source: https://cloud.google.com/vertex-ai/docs/training/understanding-training-service#common-errors
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from dualdeploy.errors import CannotEverSucceed, RetryLater

#: The variable in which Vertex AI tells a job its own id.
JOB_ID = "CLOUD_ML_JOB_ID"

EXIT_DONE = 0
EXIT_BUG = 1
EXIT_USER_ERROR = 64
EXIT_TEMPORARY = 75
EXIT_STOPPED = 130
EXIT_TEMPORARY_ON_VERTEX = 134


class UnusableJob(CannotEverSucceed):
    """The job description or the command line has faults; the message lists all of them."""


class UnusableData(CannotEverSucceed):
    """The shards cannot be trained on; the message names shard and record."""


class UnusableWeights(CannotEverSucceed):
    """The weights to start from cannot be had or do not fit the architecture."""


class UnusableModule(CannotEverSucceed):
    """The network of the user's own file cannot be built, trained, or served; the message says what to write."""


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


def exit_code(error: BaseException | None, environ: Mapping[str, str] = os.environ) -> int:
    """The one place where the outcome of a job becomes an exit code. Only Vertex AI names a job."""
    if error is None:
        return EXIT_DONE
    if isinstance(error, CannotEverSucceed):
        return EXIT_USER_ERROR
    if isinstance(error, RetryLater):
        return EXIT_TEMPORARY_ON_VERTEX if environ.get(JOB_ID) else EXIT_TEMPORARY
    return EXIT_BUG

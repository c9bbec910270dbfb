"""Errors named after what the sender must do; `entrypoint` alone turns them into HTTP."""

from __future__ import annotations


class DualDeployError(Exception):
    """Base of the two families; raise one of its children."""


class RetryLater(DualDeployError):
    """Nothing is wrong with the request: send it again. Answered 503, so Pub/Sub and Eventarc redeliver."""


class CannotEverSucceed(DualDeployError):
    """Sending it again cannot help: recorded with its reason and acknowledged (204)."""


class ServiceUnavailable(RetryLater):
    """A Google API answered 408, 429 or 5xx, or did not answer at all."""


class SigningRefused(ServiceUnavailable):
    """IAM does not let this service sign: the right is missing, or was given only minutes ago."""


class LeaseHeld(RetryLater):
    """Another instance is working on the same branch and its lease has not run out."""


class EndNotAnnounced(RetryLater):
    """A release has ended, and whoever waits for that has not been told yet: another one would hide it."""


class LedgerContention(RetryLater):
    """The ledger object changed under us more often than is worth repeating in one request."""


class NotConfirmedYet(RetryLater):
    """A hint says that a job ended, but Vertex AI does not say so yet (its record may lag by a minute)."""


class MalformedEvent(CannotEverSucceed):
    """The body is not an envelope that we know, or lacks a field that the event must have."""


class UnknownDataset(CannotEverSucceed):
    """No configuration exists for this data set."""


class InvalidDatasetConfig(CannotEverSucceed):
    """The data set's configuration has faults; the message lists all of them."""


class UnknownRun(CannotEverSucceed):
    """The event names a run that the ledger does not have."""


class UnusableResult(CannotEverSucceed):
    """Training ended, but what it wrote cannot be used."""


class RejectedByGoogle(CannotEverSucceed):
    """A Google API refused the request itself (400, 403, 404, 409 and the like): repeating cannot help."""

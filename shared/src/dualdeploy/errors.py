"""Errors named after what the sender must do; `entrypoint` alone turns them into HTTP."""

from __future__ import annotations

from typing import ClassVar


class DualDeployError(Exception):
    """Base of the two families; raise one of its children."""


class RetryLater(DualDeployError):
    """Nothing is wrong with the request: send it again. Answered 503, so Pub/Sub and Eventarc redeliver.

    `patience` is for how many seconds a caller that is told this again and again goes on asking; when it was told so
    for the first time stands in the document of what waits.
    """

    patience: ClassVar[float] = 86_400.0


class CannotEverSucceed(DualDeployError):
    """Sending it again cannot help: recorded with its reason and acknowledged (204)."""


class NotForUs(DualDeployError):
    """An event of another kind than its subscription should send: acknowledged (204) and passed over."""


class ServiceUnavailable(RetryLater):
    """A Google API answered 408, 429 or 5xx, or did not answer at all."""


class NoCapacity(ServiceUnavailable):
    """The region has no free machine of this kind, or the project's quota is in use."""


class ModelAsleep(ServiceUnavailable):
    """The model was scaled to zero; this request woke it, and is dropped. Ask again in some minutes."""


class CredentialsUnavailable(ServiceUnavailable):
    """This process has no credentials that Google takes; see `health` for when it gives up."""


class AgentBeingProvisioned(ServiceUnavailable):
    """Google is making the service agent that this call needs, as it does at the first use of an API."""

    patience = 900.0


class PermissionSpreads(ServiceUnavailable):
    """A permission, an enabled API or a billing account is missing, or was given minutes ago and does not count yet.

    Google has one answer for both, and the two can alternate while a grant spreads (about 2 minutes, sometimes 7 and
    more): only time tells them apart. `permission` and `resource` are empty where Google does not name them.
    Source: https://cloud.google.com/iam/docs/access-change-propagation
    """

    patience = 900.0

    def __init__(self, message: str, *, permission: str = "", resource: str = "") -> None:
        super().__init__(message)
        self.permission = permission
        self.resource = resource


class SigningRefused(PermissionSpreads):
    """IAM does not let this service sign as the account it was told to."""


class ResourceConflict(RetryLater):
    """The resource exists already, or is being changed at this moment. Look again, then decide."""


class LeaseHeld(RetryLater):
    """Another instance is working on the same branch and its lease has not run out."""


class LedgerContention(RetryLater):
    """The ledger object changed under us more often than is worth repeating in one request."""


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
    """A Google API refused the request itself: repeating cannot help."""


class ResourceMissing(RejectedByGoogle):
    """There is no such resource."""

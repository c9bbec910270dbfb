"""A long-running operation is started once, looked at, and begun again only where that can help."""

from __future__ import annotations

import dataclasses
import datetime

import pytest

from dualdeploy.errors import DualDeployError, NoCapacity, PermissionSpreads, RejectedByGoogle, ServiceUnavailable
from dualdeploy.ledger import Release, State
from dualdeploy.release.operations import Looked, OperationFailed, poll_operation
from dualdeploy.release.route import Stay, Turn, Wait
from support.fakes import ManualClock


@dataclasses.dataclass
class Operations:
    """Vertex AI, as far as `poll_operation` sees it."""

    clock: ManualClock = dataclasses.field(default_factory=ManualClock)
    stands: Looked | None = None
    is_there: bool = False
    started: int = 0

    def poll(self, release: Release) -> Turn[Release]:
        def start() -> str:
            self.started += 1
            return f"operation {self.started}"

        return poll_operation(
            release,
            look=lambda _: self.stands,
            start=start,
            there=lambda: self.is_there,
            clock=self.clock,
            limit_seconds=3600,
            what="deploy",
        )


RELEASE = Release(
    run_id="flowers-0123456789ab",
    dataset="flowers",
    target="cloud",
    n=1,
    run_created_at="2026-11-28T00:00:00.000Z",
    state=State.DEPLOYING,
    since="2026-11-28T00:00:00.000Z",
)


def begun(operations: Operations) -> Release:
    turn = operations.poll(RELEASE)
    assert isinstance(turn, Stay)
    return turn.release


def test_it_is_started_once_and_then_looked_at() -> None:
    operations = Operations()
    release = begun(operations)
    assert release.operation == "operation 1"
    operations.stands = Looked(done=False)
    assert isinstance(operations.poll(release), Wait)
    assert operations.started == 1


@pytest.mark.parametrize("failure", [NoCapacity("429"), ServiceUnavailable("503"), PermissionSpreads("403")])
def test_what_failed_for_a_reason_that_passes_is_begun_again_until_its_limit(failure: DualDeployError) -> None:
    operations = Operations()
    release, failed_since = begun(operations), operations.clock()
    operations.stands = Looked(done=True, failure=failure)
    patience = datetime.timedelta(seconds=failure.patience)  # type: ignore[attr-defined]
    while operations.clock() - failed_since < patience:
        turn = operations.poll(release)
        assert isinstance(turn, Stay | Wait)
        if isinstance(turn, Wait):
            assert str(failure) in turn.what
            assert "at most" in turn.what
            operations.clock.now = turn.at
        release = turn.release
    while not release.operation:
        release = operations.poll(release).release
    with pytest.raises(OperationFailed, match=f"{failure}; tried since"):
        operations.poll(release)
    assert operations.started > 1


def test_what_failed_for_good_is_not_begun_again() -> None:
    operations = Operations()
    release = begun(operations)
    operations.stands = Looked(done=True, failure=RejectedByGoogle("Model server exited unexpectedly"))
    with pytest.raises(OperationFailed, match="Model server exited"):
        operations.poll(release)
    assert operations.started == 1


def test_a_second_start_that_failed_does_not_matter_when_the_first_one_did_it() -> None:
    operations = Operations(is_there=True)
    release = begun(operations)
    operations.stands = Looked(done=True, failure=RejectedByGoogle("it exists"))
    turn = operations.poll(release)
    assert isinstance(turn, Stay)
    assert turn.release.operation == ""

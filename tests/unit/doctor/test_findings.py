"""How findings are weighed and put together."""

from __future__ import annotations

import threading
import time

import pytest

from doctor.examination import Check, examine
from doctor.findings import Finding, Hint, Place, State, in_order, merged, weigh_hints
from doctor.reads import CouldNotLook, Google, NotSignedIn, NotThere
from doctor.store import ReadOnlyStore


def broken(about: str, hint: Hint | None, *, only_a_hint: bool = True, state: State = State.BROKEN) -> Finding:
    return Finding(Place.SUBSCRIPTION, about, state, "it is gone", "mend it", hint, only_a_hint)


def test_a_broken_hint_is_a_warning_while_another_works() -> None:
    weighed = weigh_hints([broken("a", Hint.LOG), broken("b", None, only_a_hint=False)])
    assert [each.state for each in weighed[:2]] == [State.WARNING, State.BROKEN]
    assert weighed[0].says.endswith("has ended by the result object's notification and the clock")
    assert {each.about: each.state for each in weighed[2:]} == {
        Hint.RESULT: State.OK,
        Hint.LOG: State.WARNING,
        Hint.CLOCK: State.OK,
    }


def test_what_more_than_a_hint_runs_through_stays_broken() -> None:
    [clock, *_] = weigh_hints([broken("the job", Hint.CLOCK, only_a_hint=False)])
    assert clock.state is State.BROKEN


def test_a_hint_that_could_not_be_seen_does_not_count_as_working() -> None:
    findings = [
        broken("a", Hint.LOG),
        broken("b", Hint.RESULT),
        broken("c", Hint.CLOCK, state=State.UNSEEN),
    ]
    weighed = weigh_hints(findings)
    assert [each.state for each in weighed[:3]] == [State.BROKEN, State.BROKEN, State.UNSEEN]
    assert weighed[-1].state is State.UNSEEN


def test_findings_follow_the_chain() -> None:
    places = [Place.FIREBASE, Place.BUCKET, Place.HINT, Place.BUCKET]
    findings = [Finding(place, str(number), State.OK, "") for number, place in enumerate(places)]
    assert [each.about for each in in_order(findings)] == ["1", "3", "2", "0"]


def test_one_reason_not_to_see_many_things_is_said_once() -> None:
    unseen = [Finding(Place.IDENTITY, name, State.UNSEEN, "you lack x", "ask for it") for name in "abc"]
    others = [Finding(Place.IDENTITY, name, State.BROKEN, "gone") for name in "de"]
    assert [each.about for each in merged([*unseen, *others])] == ["a, b, c", "d", "e"]


def raising(error: Exception) -> Check:
    def look() -> list[Finding]:
        raise error

    return Check(Place.TOPIC, "clock", look, missing="nothing ticks", remedy="make deploy")


@pytest.mark.parametrize(
    ("error", "state", "says", "remedy"),
    [
        (NotThere("x"), State.BROKEN, "nothing ticks", "make deploy"),
        (CouldNotLook("you lack x", "ask for x"), State.UNSEEN, "you lack x", "ask for x"),
        (NotSignedIn("gcloud auth"), State.UNSEEN, "this machine is not signed in to Google Cloud", "gcloud auth"),
        (ZeroDivisionError("oh"), State.UNSEEN, "the doctor itself failed here: ZeroDivisionError('oh')", "report it"),
    ],
)
def test_whatever_a_check_raises_becomes_a_finding(error: Exception, state: State, says: str, remedy: str) -> None:
    [finding] = raising(error).run()
    assert (finding.state, finding.says) == (state, says)
    assert finding.remedy.startswith(remedy)


def test_a_check_without_end_does_not_keep_the_others() -> None:
    forever = threading.Event()
    fine = Check(Place.BUCKET, "b", lambda: [Finding(Place.BUCKET, "b", State.OK, "is there")])

    def wait() -> list[Finding]:
        forever.wait(60)
        return []

    stuck = Check(Place.TOPIC, "t", wait)
    begun = time.monotonic()
    found = examine([stuck, fine], limit_seconds=0.2)
    assert time.monotonic() - begun < 30
    forever.set()
    states = {each.about: each.state for each in found}
    assert (states["b"], states["t"]) == (State.OK, State.UNSEEN)


def test_nothing_can_be_written_through_the_store_of_the_doctor() -> None:
    store = ReadOnlyStore(Google("my-project", environ={}), "my-project-ledger")
    with pytest.raises(TypeError, match="writes nothing"):
        store.put("x", b"", expect=0)
    with pytest.raises(TypeError, match="deletes nothing"):
        store.delete("x", expect=0)

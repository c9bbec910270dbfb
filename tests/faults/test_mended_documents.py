"""What someone mends goes on: a document that could not be read for an hour ends nothing."""

from __future__ import annotations

import pytest

from dualdeploy.google.object_store import Generation
from support.chain import Chain, overwrite
from support.stories import upload

BROKEN = b"{broken"


class BrokenOnce:
    """Breaks the first document whose name has `part` as soon as it is written for the `nth` time."""

    def __init__(self, chain: Chain, part: str, *, nth: int) -> None:
        self._store, self._part, self._left, self._put = chain.ledger_store, part, nth, chain.ledger_store.put
        self.name, self._good = "", b""
        chain.ledger_store.put = self._written  # type: ignore[method-assign]

    def _written(self, name: str, data: bytes, *, expect: Generation) -> Generation:
        generation = self._put(name, data, expect=expect)
        if not self.name and name.startswith("runs/") and self._part in name:
            self._left -= 1
            if not self._left:
                self.name, self._good = name, data
                overwrite(self._store, name, BROKEN)
        return generation

    def mend(self) -> None:
        self._store.put = self._put  # type: ignore[method-assign]
        assert self._store.read(self.name).data == BROKEN, "it was replaced"
        overwrite(self._store, self.name, self._good)


@pytest.mark.parametrize(
    ("part", "nth"),
    [
        ("run.json", 1),
        ("estimate.json", 1),
        ("cloud/launch.json", 1),
        ("cloud/launch.json", 3),
        ("mobile/launch.json", 2),
        ("cloud/ended-1.json", 1),
        ("cloud/release-1.json", 1),
        ("mobile/release-1.json", 1),
    ],
)
def test_a_run_goes_on_when_its_document_is_mended(part: str, nth: int) -> None:
    chain = Chain()
    broken = BrokenOnce(chain, part, nth=nth)
    upload(chain)
    pass_an_hour(chain)
    assert broken.name
    told = [each.reason for each in chain.ledger.rejections()]
    assert any(broken.name in reason for reason in told), told
    broken.mend()
    pass_an_hour(chain)
    (run_id,) = chain.run_ids()
    chain.check_is_live(run_id)
    assert chain.active() == []


def pass_an_hour(chain: Chain) -> None:
    for _ in range(60):
        chain.settle(ticks=1)

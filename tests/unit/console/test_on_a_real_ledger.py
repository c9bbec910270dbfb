"""The console reads what the services themselves have written, not only what a test says they write."""

from __future__ import annotations

import html
import re

from console.service import compose
from support import stories
from support.chain import Chain
from support.console_world import FakeDeployers, new_world


def page_of(chain: Chain, path: str) -> str:
    service = compose(
        ledger=chain.ledger.store,
        deployers=FakeDeployers(),
        monitoring=None,
        models=new_world().models,
        settings=new_world().settings,
        clock=chain.clock,
    )
    answer = service.app().test_client().get(path)
    assert answer.status_code == 200, answer.get_data(as_text=True)
    return html.unescape(answer.get_data(as_text=True))


def test_two_runs_of_the_whole_chain_are_shown_side_by_side_with_their_history() -> None:
    chain = Chain()
    stories.have_a_live_run(chain)
    stories.upload_a_second_edition(chain)
    chain.settle()
    older, newer = stories.in_order_of_time(chain)
    page = page_of(chain, "/datasets/flowers")
    assert "Both models were trained on the same data." in page
    assert page.count(f"Roll back to {older}") == 2
    assert "All in order: nothing waits." in page
    line = page_of(chain, f"/runs/{newer}")
    times = re.findall(r'<th scope="row"><time datetime="([^"]+)"', line)
    assert len(times) > 6
    assert times == sorted(times)

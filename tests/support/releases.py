"""Takes one run of a chain to the cloud's gate, and one release from there on, tick by tick."""

from __future__ import annotations

from dualdeploy.ledger.standing import Standing
from support.chain import Chain
from support.stories import upload


def train_one(chain: Chain, edition: int = 1) -> str:
    """A run that begins to go out with the next tick."""
    known = set(chain.run_ids())
    upload(chain, edition)
    chain.drain()
    for _ in range(3):
        chain.tick()
    (run_id,) = set(chain.run_ids()) - known
    (job,) = chain.jobs_of(run_id, "cloud")
    chain.train(job, hints=False)
    chain.handle(chain.log_hint(job))
    return run_id


def tick(chain: Chain, seconds: float = 60) -> str:
    """Time passes for cloud_deployer alone; what it says came of it."""
    chain.clock.advance(seconds)
    return "; ".join(chain.tick_of("cloud_deployer"))


def go_through(chain: Chain, run_id: str, *, ticks: int = 60) -> Standing:
    """The branch at its end."""
    for _ in range(ticks):
        tick(chain)
        chain.vertex.finish_operations()
        if chain.standing(run_id, "cloud").is_over:
            return chain.standing(run_id, "cloud")
    raise AssertionError(chain.standing(run_id, "cloud"))


def shares(chain: Chain) -> dict[str, int]:
    """Percent of the traffic, by the run of what is deployed."""
    endpoint = chain.vertex.endpoints["flowers"]
    return {deployed.display_name: endpoint.traffic.get(deployed.id, 0) for deployed in endpoint.deployed}

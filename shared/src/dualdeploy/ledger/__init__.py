"""Every run as a folder of small JSON objects, changed by compare-and-swap only; `names` lists them all."""

from dualdeploy.ledger.documents import (
    Asked,
    Claim,
    DataSet,
    Document,
    Ended,
    Holdup,
    Intent,
    Launch,
    Moment,
    Placement,
    Rejected,
    Release,
    Request,
    Routings,
    Run,
    Served,
    Serving,
    Shard,
    Snapshot,
    Turn,
)
from dualdeploy.ledger.leases import lease
from dualdeploy.ledger.ledger import Ledger, UnreadableDocument, Versioned
from dualdeploy.ledger.names import dataset_of, run_id_of
from dualdeploy.ledger.states import IllegalTransition, State

__all__ = [
    "Asked",
    "Claim",
    "DataSet",
    "Document",
    "Ended",
    "Holdup",
    "IllegalTransition",
    "Intent",
    "Launch",
    "Ledger",
    "Moment",
    "Placement",
    "Rejected",
    "Release",
    "Request",
    "Routings",
    "Run",
    "Served",
    "Serving",
    "Shard",
    "Snapshot",
    "State",
    "Turn",
    "UnreadableDocument",
    "Versioned",
    "dataset_of",
    "lease",
    "run_id_of",
]

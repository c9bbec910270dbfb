"""google.iam.v1.IAMPolicy, as far as reading a policy goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from google.iam.v1 import iam_policy_pb2, policy_pb2
from google.protobuf import json_format

from local_cloud.faults import Faults
from local_cloud.iam import Gate, refusals
from local_cloud.pubsub.catalog import Catalog
from local_cloud.pubsub.rpc import RpcTable


def policy_table(
    faults: Faults, gate: Gate, catalog: Catalog, policy_of: Callable[[str], Mapping[str, Any]]
) -> RpcTable:
    """The methods of IAMPolicy for topics and subscriptions; `policy_of(full name)` is a policy as JSON."""
    table = RpcTable(
        faults=faults, gate=gate, deny=refusals.of_pubsub, package="google.iam.v1", api="pubsub", refuses=False
    )

    def get_policy(request: Any, _context: Any) -> Any:
        if "/topics/" in request.resource:
            catalog.topic(request.resource)
        else:
            catalog.subscription(request.resource)
        document = {"version": 3, "bindings": policy_of(request.resource)["bindings"]}
        return json_format.ParseDict(document, policy_pb2.Policy())

    table.unary(
        "IAMPolicy",
        "GetIamPolicy",
        iam_policy_pb2.GetIamPolicyRequest,
        get_policy,
        differs="conditions are those of infra/bindings.json",
    )
    return table

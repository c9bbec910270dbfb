"""google.iam.v1.IAMPolicy of topics and subscriptions."""

from __future__ import annotations

from typing import Any

from google.iam.v1 import iam_policy_pb2, policy_pb2
from google.protobuf import json_format

from local_cloud.api import ApiError
from local_cloud.faults import Faults
from local_cloud.iam import Gate, Iam, StalePolicy, refusals
from local_cloud.pubsub.catalog import Catalog
from local_cloud.pubsub.resources import invalid
from local_cloud.pubsub.rpc import RpcTable, caller

#: The etag of a policy that nobody has set.
_FRESH_ETAG = "ACAB"
_PUBLISHER = "roles/pubsub.publisher"
_CONCURRENT = "There were concurrent policy changes. Please retry the whole read-modify-write with exponential backoff."


def policy_table(faults: Faults, gate: Gate, catalog: Catalog, iam: Iam) -> RpcTable:
    """The methods of IAMPolicy, on policies of `iam`."""
    table = RpcTable(
        faults=faults, gate=gate, deny=refusals.of_pubsub, package="google.iam.v1", api="pubsub", refuses=False
    )
    policies = _Policies(catalog, iam)
    table.unary("IAMPolicy", "GetIamPolicy", iam_policy_pb2.GetIamPolicyRequest, policies.get)
    table.unary("IAMPolicy", "SetIamPolicy", iam_policy_pb2.SetIamPolicyRequest, policies.set)
    table.unary("IAMPolicy", "TestIamPermissions", iam_policy_pb2.TestIamPermissionsRequest, policies.test)
    return table


class _Policies:
    def __init__(self, catalog: Catalog, iam: Iam) -> None:
        self._catalog = catalog
        self._iam = iam

    def get(self, request: Any, _context: Any) -> Any:
        self._require(request.resource)
        return self._message(self._iam.policy(request.resource))

    def set(self, request: Any, _context: Any) -> Any:
        self._require(request.resource)
        document = json_format.MessageToDict(request.policy)
        for binding in document.get("bindings", ()):
            if binding.get("condition"):
                raise invalid("Conditions are not supported on policies of Pub/Sub resources.")
            if binding["role"] == _PUBLISHER and "/subscriptions/" in request.resource:
                raise invalid(f"Role {_PUBLISHER} is not supported for this resource.")
        if document.get("etag") == _FRESH_ETAG and not self._iam.policy(request.resource)["bindings"]:
            del document["etag"]
        try:
            return self._message(self._iam.set_policy(request.resource, document))
        except StalePolicy as exc:
            raise ApiError(409, "ABORTED", _CONCURRENT) from exc
        except ValueError as exc:
            raise invalid(str(exc)) from exc

    def test(self, request: Any, _context: Any) -> Any:
        self._require(request.resource)
        held = self._iam.held(caller(), request.permissions, request.resource)
        return iam_policy_pb2.TestIamPermissionsResponse(permissions=held)

    def _require(self, resource: str) -> None:
        if "/topics/" in resource:
            self._catalog.topic(resource)
        else:
            self._catalog.subscription(resource)

    def _message(self, policy: dict[str, Any]) -> Any:
        if not policy["bindings"]:
            policy = {"etag": _FRESH_ETAG}
        return json_format.ParseDict(policy, policy_pb2.Policy())

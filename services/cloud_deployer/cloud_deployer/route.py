"""The ways of a cloud model, in order: from `trained` to `live`, and back.

Every step first looks whether it is already done, so repeating any of them is harmless.
"""

from __future__ import annotations

from collections.abc import Mapping

from cloud_deployer.steps import back, endpoint, gate, in_place, live, measure, plan, registry, retire, shares
from dualdeploy.ledger import State
from dualdeploy.release.route import Loop, Route, Step, claim

_BEGINNING = (
    claim(),
    Step("measure", State.GATING, measure.measure, "measures the model that serves on the new pictures"),
    Step("judge", State.GATING, gate.judge, "holds the model's figures against the gate"),
    Step("reserve", State.DEPLOYING, endpoint.reserve, "reserves the endpoint for the data set"),
    Step("upload", State.DEPLOYING, registry.upload, "uploads the model to the Model Registry"),
    Step("evaluation", State.DEPLOYING, registry.show_evaluation, "shows the figures in the Model Registry"),
    Step("endpoint", State.DEPLOYING, endpoint.create, "creates the endpoint"),
    Step("plan", State.DEPLOYING, plan.plan, "fixes how the model gets its traffic"),
)
_EACH_SHARE = Loop(
    "each share",
    Step("shift", State.CANARY, shares.shift, "gives the new model its next share of the traffic"),
    Step("probe", State.CANARY, shares.probe_candidate, "asks the new model for the golden pictures"),
    Step("bake", State.CANARY, shares.bake, "holds the share and goes on asking"),
)
_END = (
    Step("record", State.CANARY, live.record, "records what serves"),
    Step("aliases", State.CANARY, live.tell, "says in the Model Registry what serves", is_out=True),
    Step("undeploy", State.CANARY, live.undeploy, "takes down what was replaced before", is_out=True),
)

FORWARD = Route(
    "forward",
    *_BEGINNING,
    Step("deploy", State.DEPLOYING, shares.deploy, "deploys the model without traffic"),
    Step("baseline", State.CANARY, shares.baseline, "asks the models that serve, to compare with"),
    _EACH_SHARE,
    *_END,
)
#: Where an endpoint takes one model only: what serves goes first.
IN_PLACE = Route(
    "in place",
    *_BEGINNING,
    Step("vacate", State.DEPLOYING, in_place.vacate, "takes down what serves"),
    Step("replace", State.DEPLOYING, in_place.replace, "deploys the model in its place"),
    _EACH_SHARE,
    *_END,
)
BACK = Route(
    "back",
    Step("restore", State.CANARY, back.restore, "gives the traffic back to what served before"),
    Step("withdraw", State.CANARY, back.withdraw, "takes the new model down"),
)
BACK_IN_PLACE = Route(
    "back in place",
    Loop(
        "each time that the new model is in the way",
        Step("restore", State.CANARY, back.restore, "waits for what was begun"),
        Step("withdraw", State.CANARY, back.withdraw, "takes the new model down"),
        Step("clear", State.CANARY, in_place.clear, "brings an undeployment to its end"),
        Step("reinstate", State.CANARY, in_place.reinstate, "deploys again what served before"),
    ),
)
RETIRE = Route(
    "retire",
    claim(),
    Step("take down", State.DEPLOYING, retire.take_down, "takes down the deployed models"),
    Step("delete endpoints", State.DEPLOYING, retire.delete_endpoints, "deletes the endpoints"),
    Step("delete versions", State.DEPLOYING, retire.delete_versions, "deletes the versions of the model"),
    Step("free", State.DEPLOYING, retire.free, "frees the claims on endpoints"),
)

ROUTES: Mapping[str, Route] = {route.name: route for route in (FORWARD, IN_PLACE, BACK, BACK_IN_PLACE, RETIRE)}

"""The ways of a release for phones, step by step.

Firebase ML has one published model for each name, so it cannot be staged: it follows when the rollout is over. The
pointer moves after it, so that a file which Firebase ML refuses becomes no phone's latest. A rollback moves the pointer
first, and one channel that does not go back does not keep the others. Every step first looks whether it is done, so
repeating any of them is harmless.
"""

from __future__ import annotations

from collections.abc import Mapping

from dualdeploy.ledger import State
from dualdeploy.release.route import Loop, Route, Step, claim
from mobile_publisher.steps import back, files, firebase_ml, names, pointer, record, retire, rollout

_EXPORT = Step("export", State.GATING, files.export, "converts the model to TFLite and measures each variant")
_GATE = Step("gate", State.GATING, files.judge, "holds the file against the limits of gates.mobile")
_CLAIM = claim("waits for its turn")
_NAME = Step("name", State.DEPLOYING, names.take, "claims publishing.name among all data sets")
_UPLOAD = Step("upload", State.DEPLOYING, pointer.upload, "copies the file to the bucket that phones read")
_PLAN = Step("plan", State.DEPLOYING, rollout.plan, "looks what phones have, and plans the shares")
_SHARE = Step("share", State.CANARY, rollout.share, "gives the version to a share of the installations", yields=True)
_BAKE = Step("bake", State.CANARY, rollout.bake, "holds the share for its time", yields=True)
_REGISTER = Step("register", State.DEPLOYING, firebase_ml.register, "gives the file to Firebase ML")
_PUBLISH = Step("publish", State.DEPLOYING, firebase_ml.publish, "publishes the Firebase model")
_POINT = Step("point", State.DEPLOYING, pointer.point, "moves latest.json to the version")
_SETTLE = Step("settle", State.DEPLOYING, rollout.settle, "lets Remote Config give the version to everyone")
_RECORD = Step("record", State.DEPLOYING, record.record, "records what phones have")

FORWARD = Route(
    "forward",
    _EXPORT,
    _GATE,
    _CLAIM,
    _NAME,
    _UPLOAD,
    _PLAN,
    Loop("each share", _SHARE, _BAKE),
    _REGISTER,
    _PUBLISH,
    _POINT,
    _SETTLE,
    _RECORD,
)

ROLLBACK = Route(
    "rollback",
    _EXPORT,
    _GATE,
    _CLAIM,
    _NAME,
    _UPLOAD,
    _PLAN,
    _POINT,
    _SETTLE,
    _REGISTER,
    _PUBLISH,
    _RECORD,
)

BACK = Route(
    "back",
    Step("restore parameter", State.DEPLOYING, back.restore_parameter, "lets Remote Config say what it said before"),
    Step("restore pointer", State.DEPLOYING, back.restore_pointer, "points latest.json at the previous version"),
    Step("restore firebase-ml", State.DEPLOYING, back.restore_firebase, "gives Firebase ML the previous file"),
    Step("report", State.DEPLOYING, back.report, "says what was taken back"),
)

RETIRE = Route(
    "retire",
    _CLAIM,
    Step("follow pointer", State.DEPLOYING, retire.follow_pointer, "lets apps follow latest.json, not Remote Config"),
    Step("free names", State.DEPLOYING, retire.free_names, "lets other data sets take the name"),
    Step("record", State.DEPLOYING, retire.record, "records that the data set is retired"),
)

ROUTES: Mapping[str, Route] = {route.name: route for route in (FORWARD, ROLLBACK, BACK, RETIRE)}

#: What phones see of a release: the part that a step brings out, or takes back.
PARTS: Mapping[str, str] = {
    **dict.fromkeys(("register", "publish", "restore firebase-ml"), "Firebase ML"),
    **dict.fromkeys(("point", "restore pointer"), "the pointer"),
    **dict.fromkeys(("settle", "restore parameter"), rollout.REMOTE_CONFIG),
}

"""When a phone asks the cloud model: fitted for a pair, one published .tflite file and the cloud run that is live.

    models/<name>/routing/<version>.json      in the bucket that phones read; mobile_publisher alone writes it

The pair changes whenever either side does, so the object is replaced (`max-age=300`) while the file beside it never
changes. An app takes the object of *its* version. Where there is none, or one for another file (`phone.sha256`), the
phone's answer stands: threshold 0.
"""

from __future__ import annotations

from typing import Literal

import pydantic
from pydantic import Field

#: Names as in Firebase AI Logic (`InferenceMode`), so that whoever knows one knows both.
Mode = Literal["prefer_on_device", "prefer_in_cloud", "only_on_device", "only_in_cloud"]

#: What the held-out pictures have shown.
#:
#: `asks`: asking below the threshold keeps the wish, `loss_at_most` says how well.
#: `phone_is_better`, `phone_is_enough`: nothing is to be gained by asking (threshold 0); the phone's model is right
#: more often, or loses no more than the wish allows.
#: `limited`: `max_share` forbids to ask about as much as the wish would need; the threshold keeps the share.
#: `not_proven`: too few pictures, or none that both models have answered: the phone always asks.
#: `no_cloud`: no cloud model serves; the phone never asks.
Outcome = Literal["asks", "phone_is_better", "phone_is_enough", "limited", "not_proven", "no_cloud"]

#: A confidence is at most 1: below this threshold are all, below the other none.
ASK_ALWAYS, NEVER_ASK = 1.01, 0.0

#: The curve has at most so many points.
MOST_POINTS = 51

#: For how long caches may keep the object, in seconds: so long a phone may go by the cloud model of before.
MAX_AGE_SECONDS = 300


class _Part(pydantic.BaseModel):
    """Frozen. What a newer version wrote survives being read and written by this one."""

    model_config = pydantic.ConfigDict(frozen=True, extra="allow")


class Phone(_Part):
    """The published file: `version` as phones know it, `sha256` in hex."""

    run_id: str
    version: str
    sha256: str


class Input(_Part):
    """What to send to the cloud model: a PNG of the picture, resized to `px` by `px` by the definition of resizing in
    the manifest and rounded to bytes. Its answer is that for the whole picture."""

    px: int


class Cloud(_Part):
    """The run whose model serves on the endpoint."""

    run_id: str
    input: Input


class Wish(_Part):
    """`routing` of the data set's YAML.

    A loss of at most `max_loss`, against asking the cloud about every picture, with `confidence`. The cloud is always
    asked about labels of `ask_about`, and about at most `max_share` of the pictures.
    """

    mode: Mode = "prefer_on_device"
    max_loss: float = 0.01
    confidence: float = 0.95
    ask_about: tuple[str, ...] = ()
    max_share: float | None = None


class Routing(Wish):
    """An app asks the cloud where the phone's confidence is below `threshold`, or its label is one of `ask_about`.

    `examples` pictures, which both models have never trained on, were answered by both. On these,
    `share` of the pictures is asked about, `accuracy` is that of the two together, `phone_accuracy` and
    `cloud_accuracy` those of each alone; None where there is no common picture. `loss_at_most` holds with `confidence`;
    None where nothing is proven. `curve` has rows of threshold, share and accuracy, from never asking to always;
    `note` says it all in a sentence. All shares are from 0 to 1.
    """

    v: int = 1
    name: str
    dataset: str
    at: str
    phone: Phone
    cloud: Cloud | None = None
    threshold: float = Field(ge=0)
    outcome: Outcome | str = Field(union_mode="left_to_right")
    note: str
    examples: int = 0
    loss_at_most: float | None = None
    share: float | None = None
    accuracy: float | None = None
    phone_accuracy: float | None = None
    cloud_accuracy: float | None = None
    curve: tuple[tuple[float, float, float], ...] = ()


def folder(name: str) -> str:
    """Where the objects of a publishing name lie, in the bucket that phones read; ends in a slash."""
    return f"models/{name}/routing/"


def object_name(name: str, version: str) -> str:
    """The object of one published file."""
    return f"{folder(name)}{version}.json"


def version_of(object_name: str) -> str:
    """The version in an object's name."""
    return object_name.rpartition("/")[2].removesuffix(".json")

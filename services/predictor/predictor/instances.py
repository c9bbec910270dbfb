"""From a request's body to the encoded pictures in it; one that is wrong is a fault in its own place.

Only files that `contracts.image_file` passes go on to the model: a few kilobytes can declare gigapixels, and decoding
happens inside the graph, where nothing limits it.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from dualdeploy.images import image_file
from dualdeploy.images.image_file import MAX_PIXELS, UnreadableImage
from predictor.answers import LEAST_CONFIDENCE, MOST_LABELS, Fault, Wanted

#: Pixels of all pictures of a request together, and of a batch: the graph decodes several at a time.
MAX_REQUEST_PIXELS = 2 * MAX_PIXELS

#: Faults that one answer lists; a client with a thousand wrong pictures learns nothing from the last ones.
_MAX_LISTED = 10
_WHAT_TO_SEND = 'send {"b64": "<base64 of a JPEG or PNG file>"}'


class BadRequest(Exception):
    """A body in which no instance can be answered; the message says what to send."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@dataclasses.dataclass(frozen=True)
class Picture:
    """A JPEG or PNG file, and the pixels that it will have when it is decoded."""

    data: bytes
    pixels: int


@dataclasses.dataclass(frozen=True)
class Request:
    """What a body asks: of which pictures, and how much of each."""

    items: list[Picture | Fault]
    wanted: Wanted


def parse(body: bytes, *, max_instances: int) -> Request:
    """Read the JPEG or PNG files in `{"instances": [...], "parameters": {...}}`, in order.

    An instance is `{"b64": …}`, AutoML's `{"content": …}`, `{"image_bytes": {"b64": …}}`, `{"image_bytes": …}` or the
    base64 string alone; a request may mix them. What else it has (`mimeType`) is ignored, because the file itself says
    what it is. `parameters` are AutoML's, `confidenceThreshold` and `maxPredictions`. Raises BadRequest.
    """
    document = _document(body)
    return Request(_items(_instances(document), max_instances), _wanted(document.get("parameters")))


def _items(instances: list[Any], max_instances: int) -> list[Picture | Fault]:
    if len(instances) > max_instances:
        raise BadRequest(f"instances holds {len(instances)} pictures, at most {max_instances}: send several requests")
    parsed = [_parsed(instance) for instance in instances]
    pixels = sum(picture.pixels for picture in parsed if isinstance(picture, Picture))
    if pixels > MAX_REQUEST_PIXELS:
        raise BadRequest(
            f"the pictures have {pixels / 1e6:.0f} megapixels together, at most {MAX_REQUEST_PIXELS / 1e6:.0f}: "
            "send fewer or smaller ones"
        )
    return parsed


def _parsed(instance: Any) -> Picture | Fault:
    try:
        image = _decode(_base64_of(instance))
        return Picture(image, _pixels(image))
    except ValueError as exc:
        return Fault(str(exc))


def describe(faults: Mapping[int, str]) -> str:
    """One sentence for each wrong instance, by its index."""
    listed = [f"instances[{index}]: {fault}" for index, fault in list(faults.items())[:_MAX_LISTED]]
    if len(faults) > _MAX_LISTED:
        listed.append(f"and {len(faults) - _MAX_LISTED} more")
    return "; ".join(listed)


def _document(body: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(body)
    except ValueError as exc:  # also for what Python refuses though JSON allows it: integers of 4300 digits
        raise BadRequest(f'the body is not JSON ({exc}): send {{"instances": [...]}}') from exc
    except RecursionError as exc:
        raise BadRequest('the body is nested too deeply: send {"instances": [...]}') from exc
    if not isinstance(document, dict) or "instances" not in document:
        raise BadRequest(f'the body has no "instances": {_WHAT_TO_SEND} in {{"instances": [...]}}')
    return document


def _instances(document: Mapping[str, Any]) -> list[Any]:
    instances = document["instances"]
    if not isinstance(instances, list) or not instances:
        raise BadRequest(f'"instances" must be a list of at least one picture: {_WHAT_TO_SEND}')
    return instances


def _wanted(parameters: Any) -> Wanted:
    """Of other parameters, and of null, AutoML's models take no notice either."""
    if not isinstance(parameters, dict):
        return Wanted()
    least, most = parameters.get("confidenceThreshold"), parameters.get("maxPredictions")
    least, most = LEAST_CONFIDENCE if least is None else least, MOST_LABELS if most is None else most
    if isinstance(least, bool) or not isinstance(least, int | float) or not 0 <= least <= 1:
        raise BadRequest('"parameters.confidenceThreshold" must be a number from 0 to 1')
    # Vertex AI's clients send every number as a double.
    if isinstance(most, bool) or not isinstance(most, int | float) or not 1 <= most < math.inf or most % 1:
        raise BadRequest('"parameters.maxPredictions" must be a whole number of at least 1')
    return Wanted(int(most), float(least))


def _base64_of(instance: Any) -> str:
    match instance:
        case str(text) | {"b64": str(text)} | {"content": str(text)}:
            return text
        case {"image_bytes": str(text) | {"b64": str(text)}}:
            return text
        case dict():
            raise ValueError(f"an object with the keys {[key[:40] for key in sorted(instance)[:5]]}: {_WHAT_TO_SEND}")
    kind = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", list: "a list"}
    raise ValueError(f"{kind.get(type(instance), 'of a wrong type')}: {_WHAT_TO_SEND}")


def _decode(text: str) -> bytes:
    if text.startswith("data:"):
        raise ValueError(f"a data: URL: {_WHAT_TO_SEND}, without the part up to the comma")
    try:
        # Line breaks, as `base64` writes them, are harmless; everything else outside the alphabet is a mistake.
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as exc:
        raise ValueError(f"not standard base64 ({exc}): {_WHAT_TO_SEND}") from exc
    if not data:
        raise ValueError(f"empty: {_WHAT_TO_SEND}")
    return data


def _pixels(data: bytes) -> int:
    """The pixels that the picture declares; what the trainer would not have learnt from is refused here as there."""
    try:
        return image_file.check(data).pixels
    except UnreadableImage as exc:
        raise ValueError(f"{exc}: {_WHAT_TO_SEND}") from exc

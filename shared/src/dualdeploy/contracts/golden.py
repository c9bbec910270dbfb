"""golden.json: a few held-out pictures of each class, small enough to be sent, that prove each copy of a model.

Our trainer writes beside each what its model answers. AutoML's models answer nothing before they are deployed: their
pictures have the true label alone.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence

import pydantic

from dualdeploy.contracts import prediction
from dualdeploy.errors import UnusableResult


class Picture(pydantic.BaseModel):
    """`probabilities` are what the trained model answers, in the order of the labels; None: there is no such answer."""

    model_config = pydantic.ConfigDict(frozen=True, extra="ignore")

    image: bytes
    label: str = ""
    probabilities: tuple[float, ...] | None = pydantic.Field(default=None, min_length=1)


class _Example(pydantic.BaseModel):
    image_bytes: dict[str, str]
    label: str = ""
    probabilities: tuple[float, ...] | None = pydantic.Field(default=None, min_length=1)


class _Document(pydantic.BaseModel):
    v: int = 1
    resize: str = ""
    examples: tuple[_Example, ...] = pydantic.Field(min_length=1)


def encode(pictures: Iterable[Picture], *, resize: str = "") -> bytes:
    """The document; `resize` says how the pictures were resized for the answers in it."""
    examples = tuple(
        _Example(
            image_bytes={"b64": base64.b64encode(each.image).decode()},
            label=each.label,
            # Seven digits are all that a float32 has.
            probabilities=each.probabilities and tuple(float(f"{value:.7g}") for value in each.probabilities),
        )
        for each in pictures
    )
    return _Document(resize=resize, examples=examples).model_dump_json(exclude_none=True).encode()


def decode(data: bytes, *, labels: Sequence[str], source: str) -> list[Picture]:
    """Read such a document: each picture has an answer to `labels`, or its true label. Raises UnusableResult."""
    try:
        document = _Document.model_validate_json(data)
        return [_picture(example, labels) for example in document.examples]
    except (ValueError, LookupError) as exc:
        raise UnusableResult(f"{source} is not a golden set for the labels {list(labels)}: {exc}") from exc


def _picture(example: _Example, labels: Sequence[str]) -> Picture:
    try:
        image = base64.b64decode(example.image_bytes["b64"], validate=True)
    except binascii.Error as exc:
        raise ValueError(f"a picture is not base64: {exc}") from exc
    if example.probabilities is None and example.label not in labels:
        raise ValueError(f"a picture has neither probabilities nor a label that is known: {example.label!r}")
    if example.probabilities is not None and len(example.probabilities) != len(labels):
        raise ValueError(f"{len(example.probabilities)} probabilities, {len(labels)} labels")
    if example.probabilities is not None and not prediction.are_probabilities(example.probabilities):
        raise ValueError(
            f"the answer to a picture sums to {sum(example.probabilities):.3g}, and probabilities to 1: end the "
            "network with a softmax"
        )
    return Picture(image=image, label=example.label, probabilities=example.probabilities)

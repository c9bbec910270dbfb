"""Pictures, and a model that is no TensorFlow."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence

import pytest
from PIL import Image

from predictor.answers import Answer, Fault, Prediction


class ColourModel:
    """Answers by the first bytes of a picture, remembers its batches, and can be made to wait or to fail."""

    labels = ("png", "jpeg")
    pads = False

    def __init__(self, *, largest_batch: int = 4) -> None:
        self.sizes = [size for size in (1, 2, 4, 8) if size <= largest_batch]
        self.batches: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.running = 0
        self.most_running = 0
        self.failure: Exception | None = None
        self.answers_at_most: int | None = None
        self._lock = threading.Lock()

    def predict(self, images: Sequence[bytes]) -> list[Answer]:
        with self._lock:
            self.batches.append(len(images))
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        try:
            assert self.gate.wait(10)
            if self.failure is not None:
                raise self.failure
            return [self._name(image) for image in images[: self.answers_at_most]]
        finally:
            with self._lock:
                self.running -= 1

    def _name(self, image: bytes) -> Answer:
        if image.endswith(b"CUT"):
            return Fault("cut off")
        png = 1.0 if image.startswith(b"\x89PNG") else 0.25
        return Prediction("png" if png > 0.5 else "jpeg", max(png, 1 - png), {"png": png, "jpeg": 1 - png})


@pytest.fixture
def model() -> ColourModel:
    return ColourModel()


def picture(kind: str = "PNG", size: tuple[int, int] = (4, 3)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, "red").save(out, kind)
    return out.getvalue()


@pytest.fixture(scope="session")
def png() -> bytes:
    return picture("PNG")


@pytest.fixture(scope="session")
def jpeg() -> bytes:
    return picture("JPEG")

"""Pictures of one colour, as files and as instances of a request."""

from __future__ import annotations

import base64
import io

from PIL import Image


def picture(colour: str, kind: str = "PNG", size: int = 32) -> bytes:
    """An encoded square of one colour."""
    out = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(out, kind)
    return out.getvalue()


def b64(data: bytes) -> dict[str, str]:
    """The instance of a request that holds this file."""
    return {"b64": base64.b64encode(data).decode()}

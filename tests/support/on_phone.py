"""What an app does with a published file: a zip reader and LiteRT, and none of our code."""

from __future__ import annotations

import io
import zipfile

import numpy as np


def classify(model: bytes, colour: tuple[int, int, int]) -> str:
    """The label that the file gives to a picture of one colour."""
    from ai_edge_litert.interpreter import Interpreter

    labels = zipfile.ZipFile(io.BytesIO(model)).read("labels.txt").decode().split()
    interpreter = Interpreter(model_content=model)
    interpreter.allocate_tensors()
    (taken,) = interpreter.get_input_details()
    pixels = np.broadcast_to(np.float32(colour), taken["shape"]).astype(np.float32)
    interpreter.set_tensor(taken["index"], pixels)
    interpreter.invoke()
    return labels[int(np.argmax(interpreter.get_tensor(interpreter.get_output_details()[0]["index"])))]

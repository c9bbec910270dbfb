"""A phone file of three operators, all in uint8 like AutoML's: mean over the picture, one layer, softmax."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from automl_search import edge_file
from automl_search.edge_file import DEVIATION, MEAN
from automl_search.folders import IMAGE_SIZE

_PIXEL = (1 / DEVIATION, int(MEAN))


def written(weights: np.ndarray, biases: np.ndarray, labels: Sequence[str]) -> bytes:
    """The file of softmax(weights @ colour + biases), with `weights` [labels, 3] and `biases` [labels]."""
    count = len(labels)
    step, zero = _quantisation(float(weights.min()), float(weights.max()))
    bias_step = step * _PIXEL[0]
    reach = float(np.abs(weights).sum(axis=1).max() + np.abs(biases).max())
    network = _Network()
    image = network.tensor("image", (1, IMAGE_SIZE, IMAGE_SIZE, 3), _PIXEL)
    mean = network.tensor("mean", (1, 1, 1, 3), _PIXEL)
    quantised = np.clip(np.round(weights / step) + zero, 0, 255).astype(np.uint8)
    layer = network.tensor("weights", (count, 3), (step, zero), quantised)
    bias = network.tensor("biases", (count,), (bias_step, 0), np.round(biases / bias_step).astype(np.int32))
    logits = network.tensor("logits", (1, count), (2 * reach / 255, 128))
    scores = network.tensor("scores", (1, count), (1 / 256, 0))
    pool = schema.Pool2DOptionsT()
    pool.padding, pool.strideW, pool.strideH = schema.Padding.VALID, 1, 1
    pool.filterWidth = pool.filterHeight = IMAGE_SIZE
    softmax = schema.SoftmaxOptionsT()
    softmax.beta = 1.0
    network.operator("AVERAGE_POOL_2D", pool, [image], mean)
    network.operator("FULLY_CONNECTED", schema.FullyConnectedOptionsT(), [mean, layer, bias], logits)
    network.operator("SOFTMAX", softmax, [logits], scores)
    return edge_file.wrapped(network.packed([image], [scores]), labels)


def _quantisation(lowest: float, highest: float) -> tuple[float, int]:
    """Scale and zero point of uint8 for a range of numbers, which is made to hold 0."""
    lowest, highest = min(lowest, 0.0), max(highest, 0.0)
    scale = (highest - lowest) / 255 or 1.0
    return scale, round(-lowest / scale)


class _Network:
    """A model's tensors and operators, added one after the other."""

    def __init__(self) -> None:
        self._model = schema.ModelT()
        self._model.version, self._model.description = 3, b"mean colour"
        self._model.buffers, self._model.operatorCodes = [schema.BufferT()], []
        self._graph = schema.SubGraphT()
        self._graph.name, self._graph.tensors, self._graph.operators = b"main", [], []

    def tensor(
        self, name: str, shape: Sequence[int], quantisation: tuple[float, int], data: np.ndarray | None = None
    ) -> int:
        """Add a tensor; its type is that of its data, or uint8."""
        tensor, parameters = schema.TensorT(), schema.QuantizationParametersT()
        parameters.scale, parameters.zeroPoint = [quantisation[0]], [quantisation[1]]
        tensor.name, tensor.shape, tensor.quantization = name.encode(), list(shape), parameters
        is_bias = data is not None and data.dtype == np.int32
        tensor.type = schema.TensorType.INT32 if is_bias else schema.TensorType.UINT8
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            tensor.buffer = len(self._model.buffers)
            self._model.buffers.append(buffer)
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def operator(self, name: str, options: Any, inputs: Sequence[int], output: int) -> None:
        """Add an operator of TFLite by its name in the schema."""
        code, operator = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
        code.version = 1
        operator.opcodeIndex = len(self._model.operatorCodes)
        operator.inputs, operator.outputs, operator.builtinOptions = list(inputs), [output], options
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        self._model.operatorCodes.append(code)
        self._graph.operators.append(operator)

    def packed(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        """The network as a file."""
        self._graph.inputs, self._graph.outputs = list(inputs), list(outputs)
        self._model.subgraphs = [self._graph]
        return edge_file.packed(self._model)

"""How the cores are shared: threads of an operation, and batches at a time.

TensorFlow splits every operation among all cores. To wake a thread for its part costs tens of microseconds, so a
network of small operations loses a third of its speed to that: it is faster with one thread an operation and a batch on
each core. With large operations a lone picture is answered sooner by all cores. Measured on two cores, milliseconds for
one picture with all cores and with one: DenseNet121 at 96 px 16 and 12, at 128 px 21 and 16, at 224 px 34 and 36;
MobileNetV3Small at 224 px 6 and 4. TensorFlow must be told before it runs anything, so the network is read, not tried.
"""

from __future__ import annotations

import dataclasses
import math
import os
import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from predictor import accelerators

#: TensorFlow's own setting. Whoever makes it is obeyed.
#: Source: tensorflow/core/common_runtime/process_util.cc (NumIntraOpThreadsFromEnvironment)
THREADS_OF_AN_OPERATION = "TF_NUM_INTRAOP_THREADS"

#: Multiply-adds of the mean convolution from which an operation is worth several threads.
LARGE = 10_000_000

#: With large operations: while one batch is in the network, the next is decoded.
_PARALLEL_BATCHES = 2


@dataclasses.dataclass(frozen=True)
class Sharing:
    """`operation`: threads of one operation, None for all cores; `batches` that run at a time."""

    operation: int | None
    batches: int

    def __str__(self) -> str:
        return f"{self.batches} batches at a time, {self.operation or 'all'} threads for an operation"


def choose(graph: Any, *, cores: int, environ: Mapping[str, str] = os.environ) -> Sharing:
    """Choose by the GraphDef of a SavedModel. What cannot be judged, or is a GPU's, is left as TensorFlow has it."""
    usual = Sharing(None, min(cores, _PARALLEL_BATCHES))
    if environ.get(THREADS_OF_AN_OPERATION) or accelerators.names(environ):
        return usual
    work = list(multiply_adds(graph))
    return Sharing(1, cores) if work and statistics.fmean(work) < LARGE else usual


def multiply_adds(graph: Any) -> Iterator[int]:
    """For one picture, of every convolution and product of matrices whose shapes the model states."""
    for function in graph.library.function:
        shapes = {node.name: _shape(node) for node in function.node_def}
        for node in function.node_def:
            if node.op in ("Conv2D", "DepthwiseConv2dNative", "MatMul"):
                answers, kernel = shapes[node.name][1:], shapes.get(node.input[1].partition(":")[0], ())
                # Without what the kernel has for each channel of the answer: the last dimension, or the last two.
                each = kernel[:-2] if node.op == "DepthwiseConv2dNative" else kernel[:-1]
                if answers and each and min(*answers, *each) > 0:
                    yield math.prod(answers) * math.prod(each)


def _shape(node: Any) -> tuple[int, ...]:
    """What the node answers, the batch first; -1 where that varies, empty where the model does not say."""
    stated = node.attr["_output_shapes"].list.shape if "_output_shapes" in node.attr else ()
    return tuple(dimension.size for dimension in stated[0].dim) if stated else ()

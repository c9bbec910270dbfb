"""How the cores are shared: threads of an operation, and batches at a time.

TensorFlow splits every operation among all cores. To wake a thread for its part costs tens of microseconds, so a
network of small operations is faster with one thread for each, and a batch on each core. With large operations a lone
picture is answered sooner by all cores. Measured on two cores, milliseconds for one picture with all cores and with
one: MobileNetV3Small at 224 px 5.1 and 3.5; DenseNet121 at 96 px 16 and 12, at 128 px 21 and 16, at 224 px 34 and 36.
TensorFlow must be told before it runs anything, so the network is read, not tried.
"""

from __future__ import annotations

import dataclasses
import math
import os
import statistics
from collections.abc import Iterator, Mapping
from typing import Any

#: TensorFlow's own setting. Whoever makes it is obeyed; 0 leaves the choice to it.
#: Source: tensorflow/core/common_runtime/process_util.cc (NumIntraOpThreadsFromEnvironment)
THREADS_OF_AN_OPERATION = "TF_NUM_INTRAOP_THREADS"

#: Multiply-adds of the mean operation from which it is worth several threads: between 8 million, where two cores are
#: slower than one, and 23 million, where they are faster (both DenseNet121). On more cores it was not measured.
LARGE = 10_000_000

#: With operations on all cores: while one batch is in the network, the next is decoded.
_FEW_BATCHES = 2

_KERNEL_DIMENSIONS_OF_THE_ANSWER = {"Conv2D": 1, "DepthwiseConv2dNative": 2, "MatMul": 1}

#: What works as hard and is not counted here.
_NOT_COUNTED = {"BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Conv3D", "Einsum", "XlaConvV2", "XlaDotV2"}


@dataclasses.dataclass(frozen=True)
class Sharing:
    """`threads` of one operation, None for all cores; `batches` that run at a time."""

    threads: int | None
    batches: int

    def __str__(self) -> str:
        return f"batches at a time: {self.batches}; threads for an operation: {self.threads or 'all cores'}"


def choose(graph: Any, *, cores: int, on_gpu: bool, environ: Mapping[str, str] = os.environ) -> Sharing:
    """Choose by the GraphDef of a SavedModel. What cannot be judged, or is a GPU's, is left as TensorFlow has it."""
    few = min(cores, _FEW_BATCHES)
    chosen = environ.get(THREADS_OF_AN_OPERATION, "")
    if chosen.isdecimal() and int(chosen) > 0:
        return Sharing(int(chosen), max(few, cores // int(chosen)))
    work = list(multiply_adds(graph))
    known = [each for each in work if each is not None]
    if on_gpu or not known or len(known) < len(work) or statistics.fmean(known) >= LARGE:
        return Sharing(None, few)
    return Sharing(1, cores)


def multiply_adds(graph: Any) -> Iterator[int | None]:
    """For one picture, of every Conv2D, DepthwiseConv2dNative and MatMul; None for what does not state its shapes,
    and for other operations that may work as hard.
    """
    for function in graph.library.function:
        shapes = {node.name: _shape(node) for node in function.node_def}
        for node in function.node_def:
            if node.op in _NOT_COUNTED:
                yield None
            elif node.op in _KERNEL_DIMENSIONS_OF_THE_ANSWER:
                yield _work(node, shapes)


def _work(node: Any, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Numbers in the answer to one picture, times what the kernel has for each of them."""
    answers = shapes[node.name][1:]
    kernel = shapes.get(node.input[1].partition(":")[0], ()) if len(node.input) > 1 else ()
    if "transpose_b" in node.attr and node.attr["transpose_b"].b:
        kernel = kernel[::-1]
    each = kernel[: -_KERNEL_DIMENSIONS_OF_THE_ANSWER[node.op]]
    if not answers or not each or min(*answers, *each) < 1:
        return None
    return math.prod(answers) * math.prod(each)


def _shape(node: Any) -> tuple[int, ...]:
    """What the node answers, the batch first; -1 where that varies, empty where the model does not say."""
    stated = node.attr["_output_shapes"].list.shape if "_output_shapes" in node.attr else ()
    return tuple(dimension.size for dimension in stated[0].dim) if stated else ()

"""How cores are shared, by graphs that look like those of a SavedModel."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from predictor import threads
from predictor.threads import Sharing

NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}


def node(op: str, name: str, shape: list[int] | None, *inputs: str) -> Any:
    stated = [SimpleNamespace(dim=[SimpleNamespace(size=size) for size in shape])] if shape is not None else []
    attributes = {"_output_shapes": SimpleNamespace(list=SimpleNamespace(shape=stated))} if shape is not None else {}
    return SimpleNamespace(op=op, name=name, input=inputs, attr=attributes)


def graph(*nodes: Any) -> Any:
    return SimpleNamespace(library=SimpleNamespace(function=[SimpleNamespace(node_def=nodes)]))


def convolution(side: int, *, batch: int = -1) -> list[Any]:
    """Of 3 x 3 pixels and 8 channels: 72 multiply-adds for each number of the answer."""
    kernel = node("ReadVariableOp", f"kernel{side}", [3, 3, 8, 16])
    return [kernel, node("Conv2D", f"conv{side}", [batch, side, side, 16], "pixels:z:0", f"kernel{side}:value:0")]


def test_the_work_is_counted_for_one_picture_whatever_the_batch() -> None:
    kernels = [node("ReadVariableOp", "deep", [5, 5, 8, 1]), node("ReadVariableOp", "dense", [8, 4])]
    products = [
        node("DepthwiseConv2dNative", "depthwise", [-1, 7, 7, 8], "pixels:z:0", "deep:value:0"),
        node("MatMul", "product", [-1, 4], "mean:0", "dense:value:0"),
        node("Relu", "relu", [-1, 7, 7, 8], "depthwise"),
    ]
    work = threads.multiply_adds(graph(*convolution(10), *convolution(20, batch=64), *kernels, *products))
    assert list(work) == [10 * 10 * 16 * 72, 20 * 20 * 16 * 72, 7 * 7 * 8 * 25, 4 * 8]


def test_small_operations_have_a_thread_each_and_a_batch_on_every_core() -> None:
    assert threads.choose(graph(*convolution(50)), cores=8, environ=NO_GPU) == Sharing(operation=1, batches=8)


@pytest.mark.parametrize(("cores", "batches"), [(1, 1), (2, 2), (8, 2)])
def test_large_operations_have_all_cores(cores: int, batches: int) -> None:
    assert threads.choose(graph(*convolution(100)), cores=cores, environ=NO_GPU) == Sharing(None, batches)


def test_the_mean_decides() -> None:
    chosen = threads.choose(graph(*convolution(100), *convolution(10)), cores=2, environ=NO_GPU)
    assert chosen == Sharing(operation=1, batches=2)


@pytest.mark.parametrize(
    "unknown",
    [
        graph(),
        graph(node("Conv2D", "conv", None, "pixels:0", "kernel:0")),
        graph(node("Conv2D", "conv", [-1, 4, 4, 4], "pixels:0", "kernel:0")),
        graph(node("Conv2D", "conv", [], "pixels:0", "k:0"), node("ReadVariableOp", "k", [3, 3, 3, 4])),
        graph(node("Conv2D", "conv", [-1, -1, -1, 4], "pixels:0", "k:0"), node("ReadVariableOp", "k", [3, 3, 3, 4])),
    ],
    ids=["no convolution", "no shape", "no kernel", "no dimensions", "sides that vary"],
)
def test_what_does_not_state_its_shapes_is_left_to_tensorflow(unknown: Any) -> None:
    assert threads.choose(unknown, cores=4, environ=NO_GPU) == Sharing(None, 2)


@pytest.mark.parametrize("environ", [{**NO_GPU, "TF_NUM_INTRAOP_THREADS": "3"}, {"CUDA_VISIBLE_DEVICES": "0"}])
def test_a_choice_of_the_user_and_a_gpu_are_left_alone(environ: dict[str, str]) -> None:
    assert threads.choose(graph(*convolution(10)), cores=4, environ=environ) == Sharing(None, 2)

"""How cores are shared, by graphs that look like those of a SavedModel."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from predictor import threads
from predictor.threads import Sharing


def node(op: str, name: str, shape: list[int] | None, *inputs: str, **flags: bool) -> Any:
    stated = [SimpleNamespace(dim=[SimpleNamespace(size=size) for size in shape])] if shape is not None else []
    attributes: dict[str, Any] = {"_output_shapes": SimpleNamespace(list=SimpleNamespace(shape=stated))}
    attributes |= {flag: SimpleNamespace(b=value) for flag, value in flags.items()}
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
        node("MatMul", "product", [-1, 4], "mean:0", "dense:value:0", transpose_b=False),
        node("MatMul", "turned", [-1, 8], "mean:0", "dense:value:0", transpose_b=True),
        node("Relu", "relu", [-1, 7, 7, 8], "depthwise"),
    ]
    work = threads.multiply_adds(graph(*convolution(10), *convolution(20, batch=64), *kernels, *products))
    assert list(work) == [10 * 10 * 16 * 72, 20 * 20 * 16 * 72, 7 * 7 * 8 * 25, 4 * 8, 8 * 4]


def test_small_operations_have_a_thread_each_and_a_batch_on_every_core() -> None:
    assert threads.choose(graph(*convolution(50)), cores=8, on_gpu=False, environ={}) == Sharing(threads=1, batches=8)


@pytest.mark.parametrize(("cores", "batches"), [(1, 1), (2, 2), (8, 2)])
def test_large_operations_have_all_cores(cores: int, batches: int) -> None:
    assert threads.choose(graph(*convolution(100)), cores=cores, on_gpu=False, environ={}) == Sharing(None, batches)


def test_the_mean_decides() -> None:
    chosen = threads.choose(graph(*convolution(100), *convolution(10)), cores=2, on_gpu=False, environ={})
    assert chosen == Sharing(threads=1, batches=2)


@pytest.mark.parametrize(
    "unknown",
    [
        graph(),
        graph(*convolution(10), node("Conv2D", "conv", None, "pixels:0", "kernel10:0")),
        graph(*convolution(10), node("Conv2D", "conv", [-1, 4, 4, 4], "pixels:0", "kernel:0")),
        graph(*convolution(10), node("Conv2D", "conv", [-1, 4, 4, 4], "pixels:0")),
        graph(*convolution(10), node("Conv2D", "conv", [], "pixels:0", "kernel10:0")),
        graph(*convolution(10), node("Conv2D", "conv", [-1, -1, -1, 16], "pixels:0", "kernel10:0")),
        graph(*convolution(10), node("Einsum", "attention", [-1, 4, 4], "query:0", "key:0")),
    ],
    ids=["nothing", "no shape", "no kernel", "no input", "no dimensions", "sides that vary", "not counted"],
)
def test_what_cannot_be_judged_is_left_to_tensorflow(unknown: Any) -> None:
    assert threads.choose(unknown, cores=4, on_gpu=False, environ={}) == Sharing(None, 2)


def test_a_gpu_is_left_to_tensorflow() -> None:
    assert threads.choose(graph(*convolution(10)), cores=4, on_gpu=True, environ={}) == Sharing(None, 2)


@pytest.mark.parametrize(
    ("chosen", "sharing"),
    [
        ("1", Sharing(1, 8)),
        ("3", Sharing(3, 2)),
        ("16", Sharing(16, 2)),
        ("0", Sharing(None, 2)),
        ("many", Sharing(None, 2)),
    ],
)
def test_the_users_number_is_taken_and_the_batches_fill_the_cores(chosen: str, sharing: Sharing) -> None:
    environ = {"TF_NUM_INTRAOP_THREADS": chosen}
    assert threads.choose(graph(*convolution(100)), cores=8, on_gpu=False, environ=environ) == sharing


def test_the_log_says_what_was_chosen() -> None:
    assert str(Sharing(None, 1)) == "batches at a time: 1; threads for an operation: all cores"
    assert str(Sharing(1, 4)) == "batches at a time: 4; threads for an operation: 1"

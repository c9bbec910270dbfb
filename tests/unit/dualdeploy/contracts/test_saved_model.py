"""A model's graph is a program, and is read before TensorFlow runs any of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dualdeploy.contracts import operators, saved_model
from dualdeploy.contracts.saved_model import UnusableGraph
from support.graphs import EMPTY_GRAPH, Node, graph, saver

NETWORK = [Node("Conv2D"), Node("FusedBatchNormV3"), Node("Relu6"), Node("MatMul"), Node("Softmax")]

FINE = {
    "nothing": EMPTY_GRAPH,
    "a network": graph(*NETWORK),
    "a network in functions": graph(
        Node("StatefulPartitionedCall", calls="serve"),
        functions={"serve": [Node("While", calls="body")], "body": NETWORK},
    ),
    "a function called by its name, as TensorFlow 1 did": graph(Node("serve"), functions={"serve": NETWORK}),
    "functions that call each other in a circle": graph(
        functions={"a": [Node("PartitionedCall", calls="b")], "b": [Node("PartitionedCall", calls="a")]}
    ),
    "what TensorFlow writes to save and restore": saver(),
    "a saver that calls a function of its own": saver(
        saving=[Node("PartitionedCall", calls="shard")], functions={"shard": [Node("MergeV2Checkpoints")]}
    ),
}

DANGEROUS = (
    "ReadFile",
    "WriteFile",
    "MatchingFiles",
    "ImmutableConst",
    "PrintV2",
    "PyFunc",
    "PyFuncStateless",
    "EagerPyFunc",
    "Abort",
    "DebugIdentityV2",
    "CopyHost",
    "SaveV2",
    "RestoreV2",
    "TensorDataset",
    "TFRecordReaderV2",
    "InitializeTableFromTextFileV2",
    "RpcCall",
    "CollectiveReduceV2",
    "_HostRecv",
    "XlaCallModule",
    "AssignVariableOp",
    "RandomUniform",
    "FlexWriteFile",
    "writefile",
    "",
)

#: Where a `WriteFile` hides. TensorFlow runs each of these while it loads, restores or answers, or could.
HIDDEN = {
    "in the graph itself": graph(Node("WriteFile")),
    "in a function": graph(functions={"serve": [Node("WriteFile")]}),
    "in a function that nobody seems to call": graph(*NETWORK, functions={"_initialize": [Node("WriteFile")]}),
    "three functions down": graph(
        Node("PartitionedCall", calls="a"),
        functions={
            "a": [Node("If", calls="b")],
            "b": [Node("Case", listed=["c"])],
            "c": [*NETWORK, Node("WriteFile")],
        },
    ),
    "as the function that an attribute names": graph(Node("PartitionedCall", calls="WriteFile")),
    "in a list of functions": graph(Node("Case", listed=["fine", "WriteFile"]), functions={"fine": NETWORK}),
    "in the attribute of a function in an attribute": graph(
        Node("PartitionedCall", calls="fine", inside="WriteFile"), functions={"fine": NETWORK}
    ),
    "in a function that has the name of another": graph(functions=[("serve", [Node("WriteFile")]), ("serve", NETWORK)]),
    "in a function that has the name of an operator": graph(Node("Relu"), functions={"Relu": [Node("WriteFile")]}),
    "in what saves": saver(saving=[Node("WriteFile")]),
    "in what restores": saver(restoring=[Node("WriteFile")]),
    "in a second graph": EMPTY_GRAPH + graph(Node("WriteFile")),
    "in the second half of one graph": EMPTY_GRAPH[:-4]
    + b"\x12"
    + bytes([4 + 13])
    + b"\x12\x00"
    + b"\x12\x0d"
    + b"\x0a\x0b\x12\x09WriteFile",
}

#: Savers' operators where something else leads to them than the saver.
MISUSED = {
    "a signature asks for what saves": saver(answers={"serving_default": "saves:0"}),
    "a signature depends on what saves": saver(
        nodes=[Node("Identity", "answer", inputs=["^saves"])], answers={"serving_default": "answer:0"}
    ),
    "a signature answers in a form without a name": saver(answers={"serving_default": ""}),
    "a signature answers in two forms, of which one has a name": saver(answers={"serving_default": "x:0"}, sparse=True),
    "the model is initialised with what saves": saver(collected=["saves"]),
    "a variable of TensorFlow 1 may be initialised with what saves": saver(variables=True),
    "what restores takes what saves gives": graph(
        Node("StatefulPartitionedCall", "saves", calls="traced_save"),
        Node("Identity", "between", inputs=["saves:0"]),
        Node("NoOp", "restores", inputs=["^between"]),
        functions={"traced_save": [Node("SaveV2")]},
        save="saves:0",
        restore="restores",
    ),
    "a function without a name is called by what saves": saver(
        nodes=[Node("SaveV2")], saving=[Node("")], functions={"": NETWORK}
    ),
    "the network calls what saves": saver(nodes=[Node("StatefulPartitionedCall", calls="traced_save")]),
    "a function calls what saves": saver(functions={"serve": [Node("If", calls="traced_save")]}, objects=["serve"]),
    "an object offers what saves": saver(objects=["traced_save"]),
    "what saves can take another function's place": saver(implements=["traced_save"]),
    "what restores saves": saver(restoring=[Node("SaveV2")]),
    "what restores calls what saves": saver(restoring=[Node("PartitionedCall", calls="traced_save")]),
    "nobody says that it is the saver": graph(functions={"traced_save": [Node("SaveV2")]}),
}


@pytest.mark.parametrize("data", FINE.values(), ids=FINE.keys())
def test_a_graph_that_only_reckons_is_taken(data: bytes) -> None:
    saved_model.check(data)


@pytest.mark.parametrize("operator", DANGEROUS)
def test_an_operator_that_is_not_on_the_list_is_named_with_what_to_do(operator: str) -> None:
    with pytest.raises(UnusableGraph) as refused:
        saved_model.check(graph(*NETWORK, functions={"serve": [*NETWORK, Node(operator)]}))
    assert f"the operator {operator} (in serve)" in str(refused.value)
    assert str(refused.value).endswith(f"{operators.advice(operator)}, and train again")


@pytest.mark.parametrize("data", HIDDEN.values(), ids=HIDDEN.keys())
def test_wherever_an_operator_hides_it_is_found(data: bytes) -> None:
    with pytest.raises(UnusableGraph, match="the operator WriteFile"):
        saved_model.check(data)


@pytest.mark.parametrize("data", MISUSED.values(), ids=MISUSED.keys())
def test_what_saves_and_restores_variables_is_the_savers_alone(data: bytes) -> None:
    with pytest.raises(UnusableGraph, match=r"the operator (SaveV2|RestoreV2|StaticRegexFullMatch|ShardedFilename)"):
        saved_model.check(data)


WHOLE = saver(nodes=NETWORK)
BROKEN = {
    "empty": (b"", "holds no graph"),
    "no protocol buffer": (b"no protobuf", "not a SavedModel"),
    "a web page": (b"<html>404</html>", "not a SavedModel"),
    "cut off": (WHOLE[:-3], "not a SavedModel"),
    "another kind of message": (b"\x0a\x03abc", "holds no graph"),
    "names that are not text": (graph(Node("Relu")).replace(b"Relu", b"\xff\xfe\xfd\xfc"), "not a SavedModel"),
    "huge": (bytes(saved_model.MOST_BYTES + 1), "has 34 MB"),
}


@pytest.mark.parametrize(("data", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_file_that_is_not_a_graph_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(UnusableGraph, match=reason):
        saved_model.check(data)


def test_nesting_without_end_is_refused() -> None:
    node = b"\x0a\x00"
    for _ in range(2000):  # a function's attribute in a function's attribute: field 2 of a map's value, and so on
        inner = b"\x52" + _length(len(node)) + node
        entry = b"\x12" + _length(len(inner)) + inner
        node = b"\x12" + _length(len(entry)) + entry
    attributes = b"\x2a" + _length(len(node)) + node
    nodes = b"\x0a" + _length(len(attributes)) + attributes
    graphs = b"\x12" + _length(len(nodes)) + nodes
    with pytest.raises(UnusableGraph):
        saved_model.check(b"\x12" + _length(len(graphs)) + graphs)


def _length(number: int) -> bytes:
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


@pytest.mark.parametrize("other", saved_model.OTHER_FILES)
def test_a_graph_beside_the_one_that_was_read_is_refused(tmp_path: Path, other: str) -> None:
    """TensorFlow prefers saved_model.cpb, whatever saved_model.pb says."""
    (tmp_path / saved_model.FILE).write_bytes(EMPTY_GRAPH)
    saved_model.check_folder(tmp_path)
    (tmp_path / other).write_bytes(graph(Node("WriteFile")))
    with pytest.raises(UnusableGraph, match=rf"{other} lies beside saved_model\.pb"):
        saved_model.check_folder(tmp_path)


def test_a_folder_without_a_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableGraph, match=r"saved_model\.pb cannot be read: No such file"):
        saved_model.check_folder(tmp_path)

"""SavedModels' graphs as bytes, made without TensorFlow: stand-ins for models, and graphs that must be refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dualdeploy.contracts import saved_model

#: A SavedModel whose one graph does nothing: what nobody runs in a test may look like this.
EMPTY_GRAPH = b"\x12\x02\x12\x00"


class Node(NamedTuple):
    """`calls` are the functions that its attribute names, `listed` those in a list, `inside` those within another."""

    op: str
    name: str = ""
    calls: str = ""
    listed: Sequence[str] = ()
    inside: str = ""
    inputs: Sequence[str] = ()


def graph(
    *nodes: Node,
    functions: Mapping[str, Sequence[Node]] | Sequence[tuple[str, Sequence[Node]]] = (),
    save: str = "",
    restore: str = "",
    answers: Mapping[str, str] | None = None,
    sparse: bool = False,
    collected: Sequence[str] = (),
    variables: bool = False,
    objects: Sequence[str] = (),
    implements: Sequence[str] = (),
) -> bytes:
    """The bytes of saved_model.pb: the graph's own nodes, its functions, and who else leads to them.

    `sparse`: answers have that form as well; `variables`: TensorFlow 1 has noted some.
    """
    message: Any = type(saved_model.parse(EMPTY_GRAPH))()
    meta_graph = message.meta_graphs.add()
    library = functions.items() if isinstance(functions, Mapping) else functions
    _add(meta_graph.graph_def.node, nodes)
    for name, body in library:
        function = meta_graph.graph_def.library.function.add()
        function.signature.name = name
        _add(function.node_def, body)
        if name in implements:
            function.attr["api_implements"].SetInParent()
    meta_graph.saver_def.save_tensor_name, meta_graph.saver_def.restore_op_name = save, restore
    for name, tensor in (answers or {}).items():
        answer = meta_graph.signature_def[name].outputs["answer"]
        answer.name = tensor
        if sparse:
            answer.coo_sparse.SetInParent()
    meta_graph.collection_def["saved_model_main_op"].node_list.value.extend(collected)
    if variables:
        meta_graph.collection_def["local_variables"].bytes_list.SetInParent()
    if objects:
        meta_graph.object_graph_def.nodes.add().function.concrete_functions.extend(objects)
    data: bytes = message.SerializeToString()
    return data


def _add(into: Any, nodes: Sequence[Node]) -> None:
    for node in nodes:
        added = into.add(name=node.name, op=node.op, input=node.inputs)
        if node.calls:
            added.attr["f"].func.name = node.calls
        for name in node.listed:
            added.attr["branches"].list.func.add(name=name)
        if node.inside:
            added.attr["f"].func.name = "inner" if not node.calls else node.calls
            added.attr["f"].func.attr["g"].func.name = node.inside


def saver(*, saving: Sequence[Node] = (), restoring: Sequence[Node] = (), **more: Any) -> bytes:
    """A graph as TensorFlow saves it, with more nodes in the functions that write and read the variables."""
    functions = {
        "traced_save": [Node("StaticRegexFullMatch"), Node("ShardedFilename"), Node("SaveV2"), *saving],
        "traced_restore": [Node("RestoreV2"), Node("AssignVariableOp"), *restoring],
        **more.pop("functions", {}),
    }
    own = [
        Node("Placeholder", "saver_filename"),
        Node("StatefulPartitionedCall", "saves", calls="traced_save", inputs=["saver_filename"]),
        Node("StatefulPartitionedCall", "restores", calls="traced_restore", inputs=["saver_filename"]),
    ]
    return graph(*own, *more.pop("nodes", ()), functions=functions, save="saves:0", restore="restores", **more)

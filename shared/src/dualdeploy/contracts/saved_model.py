"""What a SavedModel would run, read from its file: nobody here loads one whose operators are not all allowed.

A SavedModel is a program: TensorFlow runs its graph with all that its own process may do, and some of it (resources'
initialisers, the function that reads the variables) while it merely loads. So the file is read as the protocol buffer
that it is, and every operator of every function in it is held against `operators.ALLOWED`, whoever calls it.

Two functions may do more: those with which TensorFlow saves and restores the variables, told by the graph's own
`saver_def`; and only while nothing else in the file leads to them.
Source of the messages: tensorflow/core/protobuf/{saved_model,meta_graph,saver,saved_object_graph}.proto and
tensorflow/core/framework/{graph,node_def,function,attr_value}.proto
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dualdeploy import lazily
from dualdeploy.contracts import operators
from dualdeploy.errors import CannotEverSucceed

FILE = "saved_model.pb"

#: TensorFlow loads the first of these instead of `FILE` where it is there, and reads the second where `FILE` is not.
#: Source: tensorflow/python/saved_model/loader_impl.py (parse_saved_model)
OTHER_FILES = ("saved_model.cpb", "saved_model.pbtxt")

#: Of `FILE`, which holds the graph and no weights: 0.8 to 2.5 MB for the networks of keras.applications (measured),
#: NASNetLarge 6. A graph of hundreds of megabytes would cost a service its memory.
MOST_BYTES = 32 << 20


class UnusableGraph(CannotEverSucceed):
    """The file is not a SavedModel, or a graph in it uses an operator that none of ours may use."""


@dataclasses.dataclass(frozen=True)
class Use:
    """One operator, and the function of the graph that uses it; empty for the graph itself."""

    operator: str
    function: str

    def __str__(self) -> str:
        return f"{self.operator} (in {self.function or 'the graph itself'})"


def check_folder(folder: Path) -> bytes:
    """Hold the SavedModel in `folder` against the list, and return the bytes of its `FILE`. Raises UnusableGraph."""
    check_names(path.name for path in folder.iterdir())
    path = folder / FILE
    try:
        size = path.stat().st_size
        check_size(size)
        data = path.read_bytes()
    except OSError as exc:
        raise UnusableGraph(f"{FILE} cannot be read: {exc.strerror}") from exc
    check(data)
    return data


def check_names(names: Iterable[str]) -> None:
    """Refuse a SavedModel's folder, by the names in it, that holds a graph beside `FILE`. Raises UnusableGraph."""
    if others := sorted(set(names) & set(OTHER_FILES)):
        raise UnusableGraph(
            f"{others[0]} lies beside {FILE}, and TensorFlow might run it instead: write the model with "
            "tf.saved_model.save into an empty folder"
        )


def check_size(size: int) -> None:
    """Refuse a file, by its size in bytes, that is no graph. Raises UnusableGraph."""
    if size > MOST_BYTES:
        raise UnusableGraph(
            f"{FILE} has {size / 1e6:.0f} MB, and a graph at most {MOST_BYTES / 1e6:.0f}: keep weights in variables"
        )


def check(data: bytes) -> None:
    """Hold the bytes of `FILE` against the list. Raises UnusableGraph, whose sentence names operator and remedy."""
    check_size(len(data))
    _check(parse(data))


def check_graph(graph_def: bytes) -> None:
    """Hold the bytes of a GraphDef against the list, as if it had been saved already. Raises UnusableGraph."""
    message = _messages()[0]()
    message.meta_graphs.add().graph_def.MergeFromString(graph_def)
    check_size(message.ByteSize())
    _check(message)


def _check(message: Any) -> None:
    refused = next(_refused(message), None)
    if refused:
        raise UnusableGraph(
            f"the model uses the operator {refused}, which is not on the list of those that may run here: "
            f"{operators.advice(refused.operator)}, and train again"
        )


def parse(data: bytes) -> Any:
    """The message of the file, with at least one graph. Raises UnusableGraph."""
    saved_model, decode_error = _messages()
    try:
        message = saved_model.FromString(data)
    except decode_error as exc:
        raise UnusableGraph(
            f"{FILE} is not a SavedModel, or not a whole one: write it again with tf.saved_model.save"
        ) from exc
    if not message.meta_graphs:
        raise UnusableGraph(f"{FILE} holds no graph: write it again with tf.saved_model.save")
    return message


def _refused(message: Any) -> Iterator[Use]:
    """Every use of an operator that is not allowed where it is used."""
    for meta_graph in message.meta_graphs:
        graph = _Graph(meta_graph)
        for name, used in graph.bodies:
            allowed = graph.may.get(name, operators.ALLOWED)
            for operator in used:
                if operator not in graph.functions and operator not in allowed:
                    yield Use(operator, name)


class _Graph:
    """A graph's functions by name, and what those may use that only the saver leads to (`may`)."""

    def __init__(self, meta_graph: Any) -> None:
        graph = meta_graph.graph_def
        library = [(each.signature.name, dict.fromkeys(_run_by(each.node_def))) for each in graph.library.function]
        self.bodies = [("", dict.fromkeys(_run_by(graph.node))), *library]
        self.functions: dict[str, set[str]] = {}
        for name, used in library:
            if name:  # without one it could be taken for the graph itself, and nothing that is fine calls it
                self.functions.setdefault(name, set()).update(used)
        saver, inputs = meta_graph.saver_def, _inputs(graph)
        saves, restores = _node_of(saver.save_tensor_name), _node_of(saver.restore_op_name)
        own = {saves, restores} - _asked_for(meta_graph, inputs) - {""}
        others = self._reached(
            # TensorFlow calls functions by the names in the object graph while it loads, and so may whoever loaded; and
            # it may call one that implements the same interface as another in that one's stead.
            *_run_by(node for node in graph.node if node.name not in own),
            *_named_by_objects(meta_graph.object_graph_def),
            *(each.signature.name for each in graph.library.function if "api_implements" in each.attr),
        )
        self.may: dict[str, frozenset[str]] = {}
        # Whatever both lead to may only do what reading needs: it is the latter that is run, and its inputs with it.
        for nodes, more in (
            ({saves}, operators.SAVES | operators.RESTORES),
            (_before([restores], inputs), operators.RESTORES),
        ):
            reached = self._reached(*_run_by(node for node in graph.node if node.name in nodes & own))
            self.may |= dict.fromkeys(reached - others, operators.ALLOWED | more)

    def _reached(self, *names: str) -> set[str]:
        """The functions among `names`, and those that they lead to."""
        return _closure(names, lambda name: self.functions.get(name, ())) & self.functions.keys()


def _asked_for(meta_graph: Any, inputs: Mapping[str, Sequence[str]]) -> set[str]:
    """The nodes that run when a signature is asked or the model is initialised."""
    answers = [info for signature in meta_graph.signature_def.values() for info in signature.outputs.values()]
    collections = meta_graph.collection_def.values()
    # A sparse or composite answer names its nodes otherwise, and so do the variables of TensorFlow 1. Of several forms
    # in the bytes TensorFlow takes the last.
    if not all(info.name and _only(info, "name") for info in answers) or not all(
        _only(each, "node_list") for each in collections
    ):
        return set(inputs)
    collected = (name for each in collections for name in each.node_list.value)
    return _before([*(info.name for info in answers), *collected], inputs)


def _only(message: Any, form: str) -> bool:
    """Whether none of the other forms that the message may have is there."""
    return all(field.name == form for field, _ in message.ListFields())


def _inputs(graph: Any) -> Mapping[str, Sequence[str]]:
    return {node.name: [_node_of(name) for name in node.input] for node in graph.node}


def _before(tensors: Iterable[str], inputs: Mapping[str, Sequence[str]]) -> set[str]:
    """The nodes that run when these are asked for."""
    return _closure(map(_node_of, tensors), lambda name: inputs.get(name, ()))


def _named_by_objects(objects: Any) -> Iterator[str]:
    yield from objects.concrete_functions
    for each in objects.nodes:
        yield from each.function.concrete_functions
        yield each.bare_concrete_function.concrete_function_name


def _closure(roots: Iterable[str], after: Callable[[str], Iterable[str]]) -> set[str]:
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(after(name))
    return found


def _node_of(tensor: str) -> str:
    """`^node`, `node:0` and `node` all name a node."""
    return tensor.removeprefix("^").partition(":")[0]


def _run_by(nodes: Iterable[Any]) -> Iterator[str]:
    """The names of what the nodes run: operators, or functions by that name, and what their attributes call."""
    for node in nodes:
        yield node.op
        for value in node.attr.values():
            yield from _called(value)


def _called(value: Any) -> Iterator[str]:
    for function in (value.func, *value.list.func):
        if function.name:
            yield function.name
            for inner in function.attr.values():
                yield from _called(inner)


# --- the messages, as far as they matter here ---

#: Message → field → number and kind; a kind that is the name of a message, or `*` before it for many, `@` for a map
#: from strings. What is not named is kept by protobuf and read by nobody.
_SCHEMA: Mapping[str, Mapping[str, tuple[int, str]]] = {
    "SavedModel": {"meta_graphs": (2, "*MetaGraphDef")},
    "MetaGraphDef": {
        "graph_def": (2, "GraphDef"),
        "saver_def": (3, "SaverDef"),
        "collection_def": (4, "@CollectionDef"),
        "signature_def": (5, "@SignatureDef"),
        "object_graph_def": (7, "SavedObjectGraph"),
    },
    "SaverDef": {"save_tensor_name": (2, "string"), "restore_op_name": (3, "string")},
    "SignatureDef": {"outputs": (2, "@TensorInfo")},
    "TensorInfo": {"name": (1, "string"), "coo_sparse": (4, "Other"), "composite_tensor": (5, "Other")},
    "CollectionDef": {
        "node_list": (1, "NodeList"),
        "bytes_list": (2, "Other"),
        "int64_list": (3, "Other"),
        "float_list": (4, "Other"),
        "any_list": (5, "Other"),
    },
    "NodeList": {"value": (1, "*string")},
    "Other": {},
    "SavedObjectGraph": {"nodes": (1, "*SavedObject"), "concrete_functions": (2, "@SavedConcreteFunction")},
    "SavedObject": {"function": (6, "SavedFunction"), "bare_concrete_function": (8, "SavedBareConcreteFunction")},
    "SavedFunction": {"concrete_functions": (1, "*string")},
    "SavedBareConcreteFunction": {"concrete_function_name": (1, "string")},
    "SavedConcreteFunction": {},
    "GraphDef": {"node": (1, "*NodeDef"), "library": (2, "FunctionDefLibrary")},
    "FunctionDefLibrary": {"function": (1, "*FunctionDef")},
    "FunctionDef": {"signature": (1, "OpDef"), "node_def": (3, "*NodeDef"), "attr": (5, "@AttrValue")},
    "OpDef": {"name": (1, "string")},
    "NodeDef": {"name": (1, "string"), "op": (2, "string"), "input": (3, "*string"), "attr": (5, "@AttrValue")},
    "AttrValue": {"list": (1, "ListValue"), "func": (10, "NameAttrList")},
    "ListValue": {"func": (9, "*NameAttrList")},
    "NameAttrList": {"name": (1, "string"), "attr": (2, "@AttrValue")},
}


@functools.cache
def _messages() -> tuple[Any, type[Exception]]:
    """SavedModel as a class, and the error of bytes that are none, in a pool apart from TensorFlow's own."""
    # Late: 30 ms, which an event that leads to nothing need not pay.
    descriptor_pb2 = lazily.load("google.protobuf.descriptor_pb2")
    descriptor_pool = lazily.load("google.protobuf.descriptor_pool")
    message_factory = lazily.load("google.protobuf.message_factory")
    decode_error: type[Exception] = lazily.load("google.protobuf.message").DecodeError
    field = descriptor_pb2.FieldDescriptorProto
    schema = descriptor_pb2.FileDescriptorProto(name="saved_model.proto", package="tensorflow", syntax="proto3")

    def add(message: Any, name: str, number: int, kind: str) -> None:
        many, kind = kind[0] in "*@", kind.lstrip("*")
        entry = message.field.add(name=name, number=number)
        entry.label = field.LABEL_REPEATED if many else field.LABEL_OPTIONAL
        if kind == "string":
            entry.type = field.TYPE_STRING
            return
        entry.type, entry.type_name = field.TYPE_MESSAGE, f".tensorflow.{kind}"
        if kind.startswith("@"):
            pair = message.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
            pair.options.map_entry = True
            add(pair, "key", 1, "string")
            add(pair, "value", 2, kind[1:])
            entry.type_name = f".tensorflow.{message.name}.{pair.name}"

    for name, fields in _SCHEMA.items():
        message = schema.message_type.add(name=name)
        for title, (number, kind) in fields.items():
            add(message, title, number, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(schema.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.SavedModel")), decode_error

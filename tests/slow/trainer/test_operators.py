"""The list of operators, held against TensorFlow itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dualdeploy.contracts import operators, saved_model
from dualdeploy.contracts.saved_model import UnusableGraph

pytestmark = pytest.mark.slow

#: Allowed although TensorFlow calls them stateful: they call functions, read this model's variables, or fail.
STATEFUL = {
    "Assert",
    "Case",
    "CheckNumerics",
    "FractionalAvgPool",
    "FractionalMaxPool",
    "If",
    "ReadVariableOp",
    "ResourceGather",
    "ResourceGatherNd",
    "StatefulPartitionedCall",
    "StatelessRandomGetAlg",
    "VarHandleOp",
    "VarIsInitializedOp",
    "VariableShape",
    "While",
}


def test_every_name_on_the_list_is_an_operator_that_keeps_nothing() -> None:
    import tensorflow as tf
    from tensorflow.python.framework import op_def_registry

    assert tf.raw_ops
    known = {name: op_def_registry.get(name) for name in operators.ALLOWED | operators.SAVES | operators.RESTORES}
    assert [name for name, definition in known.items() if definition is None] == []
    assert {name for name in operators.ALLOWED if known[name].is_stateful} <= STATEFUL


def _attacks(tf: Any, path: str) -> dict[str, Any]:
    """Functions of one picture that do more than reckon, by the operator that does it."""

    def python(pixels: Any) -> Any:
        Path(path).touch()
        return pixels

    def nested(pixels: Any) -> Any:
        inner = tf.function(lambda: [tf.io.write_file(path, "x")] and tf.constant(1.0))
        return tf.while_loop(lambda i, _: i < 1, lambda i, total: (i + 1, total + inner()), (0, 0.0))[1] + pixels

    def written(pixels: Any) -> Any:
        with tf.control_dependencies([tf.io.write_file(path, "x")]):
            return tf.identity(pixels)

    def printed(pixels: Any) -> Any:
        tf.raw_ops.PrintV2(input="x", output_stream=f"file://{path}")
        return pixels

    def saved(pixels: Any) -> Any:
        tf.raw_ops.SaveV2(prefix=path, tensor_names=["a"], shape_and_slices=[""], tensors=[pixels])
        return pixels

    return {
        "WriteFile": written,
        "ReadFile": lambda pixels: pixels + tf.cast(tf.strings.length(tf.io.read_file("/etc/passwd")), tf.float32),
        "MatchingFiles": lambda pixels: pixels + tf.cast(tf.size(tf.io.matching_files("/*")), tf.float32),
        "EagerPyFunc": lambda pixels: tf.py_function(python, [pixels], tf.float32),
        "PyFunc": lambda pixels: tf.numpy_function(python, [pixels], tf.float32),
        "PrintV2": printed,
        "SaveV2": saved,
        "RandomUniform": lambda pixels: pixels + tf.random.uniform([]),
        "WriteFile, in a loop, in a function": nested,
    }


def _model(tf: Any, step: Any) -> Any:
    model = tf.Module()
    model.variable = tf.Variable(2.0)
    signature = [tf.TensorSpec([1, 2, 2, 3], tf.float32, name="pixels")]
    model.serve = tf.function(lambda pixels: {"p": step(pixels) * model.variable}, signature)
    return model


def test_what_tensorflow_itself_saves_with_such_an_operator_is_refused(tmp_path: Path) -> None:
    import tensorflow as tf

    found = {}
    for number, (name, step) in enumerate(_attacks(tf, str(tmp_path / "written")).items()):
        folder, model = tmp_path / str(number), _model(tf, step)
        tf.saved_model.save(model, str(folder), signatures={"serving_default": model.serve})
        with pytest.raises(UnusableGraph) as refused:
            saved_model.check_folder(folder)
        found[name] = str(refused.value)
    assert [
        name for name, said in found.items() if f"operator {name.partition(',')[0]} (in __inference" not in said
    ] == []
    assert not (tmp_path / "written").exists()


def test_what_tensorflow_runs_while_it_loads_is_looked_at_too(tmp_path: Path) -> None:
    """The initialiser of a table reads a file, and nobody has asked the model anything."""
    import tensorflow as tf

    names = tmp_path / "names.txt"
    names.write_text("a\tb\nc\td\n")
    model = tf.Module()
    initializer = tf.lookup.TextFileInitializer(str(names), tf.string, 0, tf.string, 1)
    model.table = tf.lookup.StaticHashTable(initializer, "")
    model.serve = tf.function(lambda: {"p": tf.constant(1.0)}, input_signature=[])
    tf.saved_model.save(model, str(tmp_path / "model"), signatures={"serving_default": model.serve})
    with pytest.raises(UnusableGraph, match="the model uses the operator"):
        saved_model.check_folder(tmp_path / "model")

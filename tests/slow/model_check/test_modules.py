"""Networks that people write: those that should pass do, and each that should not says what to write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.command_line import call

# A table of other people's programs, which are as long as they are.
# ruff: noqa: ISC004

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]

HEAD = "import keras\nimport numpy as np\nimport tensorflow as tf\nL = keras.layers\n"


def network(layers: str, *, before: str = "", names: str = "") -> str:
    """A module whose network is these layers, then the mean over places, then the probabilities."""
    return (
        f"{HEAD}{names}\n{before}\ndef build(classes, image_size):\n    return keras.Sequential([\n        {layers},\n"
        "        L.GlobalAveragePooling2D(), L.Dense(classes, activation='softmax')])\n"
    )


CONVOLUTION = "L.Conv2D(4, 3, strides=2, activation='relu')"

PASS = {
    # With the names that ours might have, too.
    "functional": f"{HEAD}def build(classes, image_size):\n"
    "    x = keras.Input((image_size, image_size, 3), dtype='uint8', name='pixels')\n"
    "    y = L.Flatten()(L.MaxPooling2D(4)(L.Rescaling(1 / 255, name='scaled')(x)))\n"
    "    y = L.Dense(classes, activation='softmax', name='probabilities')(y)\n"
    "    return keras.Model(x, y, name='probabilities')\n",
    "scaled": network(CONVOLUTION, names="PIXELS = 'caffe'"),
    "subclassed": f"{HEAD}class Net(keras.Model):\n    def __init__(self, classes):\n        super().__init__()\n"
    "        self.c = L.Conv2D(4, 3)\n        self.n = L.BatchNormalization()\n        self.d = L.Dense(classes)\n"
    "    def call(self, x, training=False):\n        y = self.n(self.c(x), training=training)\n"
    "        return keras.ops.softmax(self.d(keras.ops.mean(y, (1, 2))))\n"
    "def build(classes, image_size):\n    return Net(classes)\n",
    "with attention": network(
        f"{CONVOLUTION}, L.Reshape((-1, 4)), Attends(), L.Reshape((-1, 1, 4))",
        before="""
class Attends(L.Layer):
    def __init__(self):
        super().__init__()
        self.attention = L.MultiHeadAttention(2, 2)
    def build(self, shape):
        self.attention.build(shape, shape)
    def call(self, x):
        return x + self.attention(x, x)
""",
    ),
    "augmenting": network(f"L.RandomFlip(), L.RandomZoom(0.1), {CONVOLUTION}, L.Dropout(0.5)"),
    # What it learns by runs in the job alone, and is no part of what is served.
    "with a gradient of its own": network(
        f"{CONVOLUTION}, L.Lambda(g)",
        before="""
@tf.custom_gradient
def g(x):
    return x * 1.0, lambda d: d + 0.0 * tf.cast(tf.strings.length(tf.io.read_file('/etc/hosts')), tf.float32)
""",
    ),
}

#: What is wrong, at which stage, and what the sentence ends with or has in it.
REFUSED = {
    "logits": (
        f"{HEAD}def build(classes, image_size):\n    return keras.Sequential([L.Flatten(), L.Dense(classes)])\n",
        "build",
        "end it with activation='softmax', or with keras.layers.Softmax()",
    ),
    "sigmoids": (network(CONVOLUTION).replace("softmax", "sigmoid"), "build", "end it with activation='softmax'"),
    "other classes": (network(CONVOLUTION).replace("L.Dense(classes", "L.Dense(1000"), "build", "where [batch, 3] is"),
    "a map of answers": (
        network("L.Conv2D(4, 3)").replace("L.GlobalAveragePooling2D(),", ""),
        "build",
        "is wanted: end",
    ),
    "two outputs": (
        f"{HEAD}def build(classes, image_size):\n    x = keras.Input((image_size, image_size, 3))\n"
        "    y = L.Dense(classes, activation='softmax')(L.Flatten()(x))\n    return keras.Model(x, [y, y])\n",
        "build",
        "answers a list: give keras.Model the probabilities alone",
    ),
    "two inputs": (
        f"{HEAD}def build(classes, image_size):\n    a, b = (keras.Input((image_size, image_size, 3)) for _ in 'ab')\n"
        "    return keras.Model([a, b], L.Dense(classes, activation='softmax')(L.Flatten()(a + b)))\n",
        "build",
        "takes 2 inputs: give keras.Model one",
    ),
    "nothing learns": (
        network(CONVOLUTION).replace("return keras.Sequential(", "return frozen(")
        + "def frozen(layers):\n    model = keras.Sequential(layers)\n    model.trainable = False\n    return model\n",
        "build",
        "leave them trainable",
    ),
    "another number format": (
        network(CONVOLUTION).replace("softmax'", "softmax', dtype='float64'"),
        "build",
        "kernel is float64, and what learns is float32: leave `dtype` away",
    ),
    "a setting of the job": (
        network(CONVOLUTION, names="keras.config.set_dtype_policy('mixed_bfloat16')"),
        "build",
        "importing it sets keras.config.dtype_policy to 'mixed_bfloat16' for the whole job: take that line out",
    ),
    "a setting of the job while it builds": (
        f"{HEAD}def build(classes, size):\n    tf.config.run_functions_eagerly(True)\n    return keras.Sequential()\n",
        "build",
        "sets tf.config.functions_run_eagerly to True",
    ),
    "not a network": (
        f"{HEAD}def build(classes, image_size):\n    return 7\n",
        "build",
        "returns int: return a keras.Model",
    ),
    "other arguments": (f"{HEAD}def build(classes):\n    return None\n", "build", "takes 1 positional argument"),
    "an error": (
        f"{HEAD}def build(classes, image_size):\n    return 1 / 0\n",
        "build",
        "failed in line 6: ZeroDivision",
    ),
    "an error on import": ("x = 0\nint('one')\ndef build(a, b): pass\n", "build", "it failed in line 2: ValueError:"),
    "a package that is not there": (
        "import no_such_package\ndef build(a, b): pass\n",
        "build",
        "No module named 'no_such_package'; a job has the packages of services/trainer/requirements.txt alone",
    ),
    "an error that is no Exception": (
        "class Own(BaseException): pass\ndef build(a, b): raise Own\n",
        "build",
        "failed in line 2: Own",
    ),
    "an error in a layer": (
        network("L.Lambda(lambda x: {}['key'])"),
        "build",
        "giving it pixels failed in line 9: KeyError: 'key'",
    ),
    "an error when it learns": (
        network(
            "Fails()",
            before="class Fails(L.Layer):\n    def call(self, x, training=False):\n        if training:\n"
            "            raise RuntimeError('not like this')\n        return x\n",
        ),
        "learn",
        "failed in line 9: RuntimeError: not like this",
    ),
    "leaves": (
        "import sys\nsys.exit(3)\ndef build(a, b): pass\n",
        "build",
        "importing it failed in line 2: SystemExit",
    ),
    "wrong size": (
        network(CONVOLUTION, before="", names="").replace(
            "keras.Sequential([", "keras.Sequential([keras.Input((7, 7, 3)),"
        ),
        "build",
        "giving it pixels failed",
    ),
    "scaling": (
        network(CONVOLUTION, names="PIXELS = 'bgr'"),
        "build",
        "write one of 'inside', 'unit', 'torch', 'caffe'",
    ),
    "base": (network(CONVOLUTION, names="BASE = 'trunk'"), "build", "leave BASE out, there is none"),
    "NaN": (network("L.Lambda(lambda x: x / 0.0 * 0.0)"), "build", "look for a division by zero"),
    "other weights each time": (
        network("L.Conv2D(4, 3, kernel_initializer=lambda s, dtype=None: np.random.default_rng().normal(size=s))"),
        "build",
        "draw random numbers with keras.random",
    ),
    "weights that cannot learn": (
        network(
            "Idle()",
            before="class Idle(L.Layer):\n    def build(self, shape):\n"
            "        self.w = self.add_weight(shape=(2,), name='idle')\n    def call(self, x):\n        return x\n",
        ),
        "learn",
        "take their layers out of it, or set trainable=False on them",
    ),
    "Python inside": (
        network(
            "L.Lambda(lambda x: tf.ensure_shape(tf.numpy_function(lambda a: a, [x], tf.float32), [None, 32, 32, 3]))"
        ),
        "operators",
        "the operator PyFunc",
    ),
    "reads a file": (
        network("L.Lambda(lambda x: x + 0.0 * tf.cast(tf.strings.length(tf.io.read_file('/etc/hosts')), tf.float32))"),
        "operators",
        "the operator ReadFile",
    ),
    "draws in earnest": (
        network("L.Lambda(lambda x: x + tf.random.normal(tf.shape(x)))"),
        "operators",
        "take the random or counting layer out",
    ),
    "depends on the batch": (network("L.Lambda(lambda x: x - tf.reduce_max(x, axis=0))"), "serve", "answers differ"),
}


def _asked(tmp_path: Path, source: str, *variants: str) -> object:
    from model_check.stages import Asked

    path = tmp_path / "net.py"
    path.write_text(source)
    return Asked("module:gs://config/modules/net.py", module=path, classes=3, image_size=32, variants=variants)  # type: ignore[arg-type]


@pytest.mark.parametrize("source", PASS.values(), ids=PASS.keys())
def test_a_network_of_ones_own_goes_the_whole_way(tmp_path: Path, source: str) -> None:
    from model_check import stages

    told: list[str] = []
    variants = ("float32",) if source == PASS["with attention"] else ()
    stages.take(_asked(tmp_path, source, *variants), lambda stage, _seconds, _what: told.append(stage))  # type: ignore[arg-type]
    assert told[:5] == ["build", "learn", "operators", "export", "serve"]
    assert len(told) == 5 + 2 * len(variants)


@pytest.mark.parametrize(("source", "stage", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_one_that_cannot_go_says_where_and_what_to_write(tmp_path: Path, source: str, stage: str, says: str) -> None:
    from model_check import stages

    with pytest.raises(stages.StageFailed) as failed:
        stages.take(_asked(tmp_path, source), lambda *_: None)  # type: ignore[arg-type]
    assert (failed.value.stage, "\n" in str(failed.value)) == (stage, False), str(failed.value)
    assert says in str(failed.value)


def test_what_waits_for_an_answer_is_ended(tmp_path: Path) -> None:
    from trainer import modules
    from trainer.process.failures import UnusableModule

    (tmp_path / "net.py").write_text("import threading\nthreading.Event().wait()\ndef build(a, b): pass\n")
    with pytest.raises(UnusableModule, match=r"importing it did not end within 0.1 s: let it wait for nothing"):
        modules.load(tmp_path / "net.py", "net.py", limit=0.1)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_process_that_the_file_forks_does_not_train_too(tmp_path: Path) -> None:
    import os

    from trainer import modules

    (tmp_path / "net.py").write_text("import os\nBASE = str(os.fork())\ndef build(a, b): pass\n")
    number = int(modules.load(tmp_path / "net.py", "net.py").base)
    assert number, "only the process that forked comes here"
    assert os.waitpid(number, 0) == (number, 0)


def test_what_a_file_prints_is_not_among_the_json(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("print('hello')\ndef build(a, b): return 7\n")
    result = call("check-module", str(tmp_path / "net.py"), "--json")
    assert json.loads(result.stdout)["says"].endswith("returns int: return a keras.Model")


def test_the_part_that_is_named_is_fine_tuned_after_the_head(tmp_path: Path) -> None:
    from dualdeploy.contracts.training import Recipe
    from trainer import architectures
    from trainer.loop import recipe

    source = network("keras.Sequential([L.Conv2D(4, 3), L.BatchNormalization()], name='trunk')", names="BASE = 'trunk'")
    (tmp_path / "net.py").write_text(source)
    first = architectures.build("module:net.py", classes=3, image_size=32, weights="none", module=tmp_path / "net.py")
    weights = tmp_path / "net.weights.h5"
    # The network of the file itself, as `build(…).save_weights(…)` saves it.
    first.model.layers[1].save_weights(weights)
    network_of_file = architectures.build(
        "module:net.py", classes=3, image_size=32, weights=weights, module=tmp_path / "net.py"
    )
    assert [variable.path.rsplit("/", 1)[1] for variable in network_of_file.head] == ["kernel", "bias"]
    plan = recipe.phases(network_of_file, epochs=4, learning_rate=0.1, recipe=Recipe(fine_tuned_share=1.0))
    assert [(phase.name, len(phase.variables)) for phase in plan] == [("head", 2), ("fine-tune", 6)]

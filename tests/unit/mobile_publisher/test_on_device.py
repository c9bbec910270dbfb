"""The model as a phone runs it, on models small enough to check by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from dualdeploy.images.pixels import UnreadableImage
from mobile_publisher import conversion, on_device, tflite_metadata
from mobile_publisher.on_device import UnusableExamples, UnusableModel

LABELS = ("red", "green", "blue")


def test_a_red_picture_is_called_red(tiny_float32: bytes, picture: Callable[[str], bytes]) -> None:
    answer = on_device.Classifier(tiny_float32, labels=LABELS).classify(picture("red"))
    assert answer.label == "red"
    # softmax(8, 0, 0), by hand
    assert answer.confidence == pytest.approx(np.exp(8) / (np.exp(8) + 2), abs=1e-6)
    assert sum(answer.probabilities.values()) == pytest.approx(1)


def test_the_phone_reads_the_labels_from_the_file(
    tiny_float32: bytes, picture: Callable[[str], bytes], tmp_path: Path
) -> None:
    published = tmp_path / "model.tflite"
    published.write_bytes(
        tflite_metadata.describe(
            tiny_float32,
            name="c",
            description="",
            labels=("rouge", "vert", "bleu"),
            image_size=8,
            version="1",
            extra={},
        )
    )
    assert on_device.Classifier(published).classify(picture("blue")).label == "bleu"


def test_a_file_without_labels_needs_them_given(tiny_float32: bytes) -> None:
    with pytest.raises(UnusableModel, match="does not say its labels"):
        on_device.Classifier(tiny_float32)


@pytest.mark.parametrize("colour", ["red", "lime", "blue", "#c02010", "#1060d0"])
def test_a_quantised_model_is_fed_and_read_with_its_scale(
    tiny_float32: bytes, tiny_uint8: bytes, picture: Callable[[str], bytes], colour: str
) -> None:
    exact = on_device.Classifier(tiny_float32, labels=LABELS).probabilities(picture(colour))
    quantised = on_device.Classifier(tiny_uint8, labels=LABELS).probabilities(picture(colour))
    np.testing.assert_allclose(quantised, exact, atol=0.03)


def test_an_evaluation_counts_every_answer(tiny_float32: bytes, picture: Callable[[str], bytes]) -> None:
    examples = [("red", 0), ("red", 0), ("lime", 1), ("blue", 2), ("red", 2)]
    found = on_device.evaluate(tiny_float32, ((picture(colour), label) for colour, label in examples), labels=LABELS)
    assert found.accuracy == pytest.approx(0.8)
    assert found.confusion == ((2, 0, 0), (0, 1, 0), (1, 0, 1))
    assert found.examples == 5
    assert found.per_class["red"] == pytest.approx({"precision": 2 / 3, "recall": 1, "f1": 0.8, "examples": 2})
    assert found.per_class["blue"] == pytest.approx({"precision": 1, "recall": 0.5, "f1": 2 / 3, "examples": 2})
    assert 0 < found.invoke_ms_p50 <= found.invoke_ms_p95
    assert found.tflite_bytes == len(tiny_float32)


def test_a_class_that_never_occurs_scores_zero_and_not_an_error(
    tiny_float32: bytes, picture: Callable[[str], bytes]
) -> None:
    found = on_device.evaluate(tiny_float32, [(picture("red"), 0)], labels=LABELS)
    assert found.per_class["blue"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "examples": 0}


def test_unreadable_pictures_are_skipped_and_counted(tiny_float32: bytes, picture: Callable[[str], bytes]) -> None:
    examples = [(picture("red"), 0), (b"not a picture", 1), (picture("lime")[:40], 1)]
    found = on_device.evaluate(tiny_float32, examples, labels=LABELS)
    assert (found.examples, found.skipped, found.accuracy) == (1, 2, 1.0)


def test_no_usable_example_cannot_pass_a_gate(tiny_float32: bytes) -> None:
    with pytest.raises(UnusableExamples, match="no examples"):
        on_device.evaluate(tiny_float32, [(b"not a picture", 1)], labels=LABELS)


def test_an_example_without_a_label_is_named(tiny_float32: bytes, picture: Callable[[str], bytes]) -> None:
    with pytest.raises(UnusableExamples, match="example 1 has label 3"):
        on_device.evaluate(tiny_float32, [(picture("red"), 0), (picture("red"), 3)], labels=LABELS)


def test_a_model_that_answers_nan_is_refused(tiny_nan: bytes, picture: Callable[[str], bytes]) -> None:
    with pytest.raises(UnusableModel, match="NaN"):
        on_device.evaluate(tiny_nan, [(picture("red"), 0)], labels=LABELS)
    with pytest.raises(UnusableModel, match="NaN"):
        on_device.Classifier(tiny_nan, labels=LABELS).classify(picture("red"))


def test_labels_that_do_not_fit_the_output_are_refused(tiny_float32: bytes) -> None:
    with pytest.raises(UnusableModel, match="2 labels"):
        on_device.Classifier(tiny_float32, labels=("red", "green"))


@pytest.mark.parametrize("data", [b"", b"TFL3", b"<html>not found</html>"])
def test_bytes_that_are_not_a_model_are_refused(data: bytes) -> None:
    with pytest.raises(UnusableModel, match="not a TFLite model"):
        on_device.Classifier(data, labels=LABELS)


def with_operator(tflite: bytes, name: str, custom: str = "", *, place: int = 0) -> bytes:
    """The file with another operator in the place of its first, or of the one with that number."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(tflite, 0))
    operator, code = model.operatorCodes[place], getattr(schema.BuiltinOperator, name)
    operator.builtinCode, operator.deprecatedBuiltinCode = code, min(code, 127)
    operator.customCode = custom or None
    builder = flatbuffers.Builder(len(tflite))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize(
    ("name", "custom", "says"),
    [
        ("CUSTOM", "FlexWriteFile", "FlexWriteFile"),
        ("CUSTOM", "TFLite_Detection_PostProcess", "TFLite_Detection_PostProcess"),
        ("CUSTOM", "", "without a name"),
        ("DELEGATE", "", "DELEGATE"),
        ("CALL_ONCE", "", "CALL_ONCE"),
        ("VAR_HANDLE", "", "VAR_HANDLE"),
        ("RANDOM_UNIFORM", "", "RANDOM_UNIFORM"),
    ],
)
def test_a_file_with_an_operator_that_does_more_than_reckon_is_not_run(
    tiny_float32: bytes, name: str, custom: str, says: str
) -> None:
    with pytest.raises(UnusableModel, match=f"the file uses the operator {says}, which phones do not run"):
        on_device.Classifier(with_operator(tiny_float32, name, custom), labels=LABELS)


def test_a_file_whose_operators_cannot_be_read_is_refused(tiny_float32: bytes) -> None:
    with pytest.raises(UnusableModel, match="cannot be read"):
        on_device.Classifier(tiny_float32[:4] + b"TFL3" + b"\xff" * 40, labels=LABELS)


def test_a_picture_that_cannot_be_decoded_is_the_senders_fault(tiny_float32: bytes) -> None:
    with pytest.raises(UnreadableImage):
        on_device.Classifier(tiny_float32, labels=LABELS).classify(b"not a picture")


def test_agreement_with_its_source_is_measured(tiny_float32: bytes, picture: Callable[[str], bytes]) -> None:
    source = on_device.Classifier(tiny_float32, labels=LABELS)
    golden = [(picture(colour), list(source.probabilities(picture(colour)))) for colour in ("red", "lime")]
    assert on_device.agreement(tiny_float32, golden, labels=LABELS) == on_device.Agreement(2, 1.0, 0.0)
    golden.append((picture("red"), [0.0, 1.0, 0.0]))
    other = on_device.agreement(tiny_float32, golden, labels=LABELS)
    assert other.same_label == pytest.approx(2 / 3)
    assert other.max_difference > 0.9


def test_a_file_that_answers_scores_is_refused(tiny_float32: bytes, picture: Callable[[str], bytes]) -> None:
    # Its softmax is last; without it the best class is the same, and its confidence means nothing.
    scores = with_operator(tiny_float32, "LOGISTIC", place=-1)
    with pytest.raises(UnusableModel, match=r"answers sum to .*, and probabilities to 1: end the network with a soft"):
        on_device.agreement(scores, [(picture("red"), [1.0, 0.0, 0.0])], labels=LABELS)


def test_golden_examples_of_another_model_are_refused(tiny_float32: bytes, picture: Callable[[str], bytes]) -> None:
    with pytest.raises(UnusableExamples, match="golden example 0 has 2 probabilities"):
        on_device.agreement(tiny_float32, [(picture("red"), [0.5, 0.5])], labels=LABELS)


def test_the_service_process_never_imports_tensorflow() -> None:
    script = (
        "import sys; from mobile_publisher import conversion, on_device, tflite_metadata; "
        "import ai_edge_litert.interpreter; sys.exit('tensorflow' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {script}"], check=False, timeout=60
    )
    assert result.returncode == 0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process its peak")
def test_the_memory_of_a_file_is_what_it_adds_and_not_what_the_interpreter_takes(tiny_float32: bytes) -> None:
    memory = on_device.peak_memory(tiny_float32)
    assert memory is not None
    # This process holds the interpreter, NumPy and more; of all that the figure must know nothing.
    assert 0 < memory < conversion.resident_bytes(os.getpid()) / 4


def test_a_file_that_the_interpreter_does_not_take_has_no_memory_figure(tiny_float32: bytes) -> None:
    with pytest.raises(UnusableModel, match="LiteRT ended with code"):
        on_device.peak_memory(tiny_float32[:200])

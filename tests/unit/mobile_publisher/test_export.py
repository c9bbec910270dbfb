"""From a trained run to a checked file, with a small program in the place of TensorFlow."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chain import PUBLISHER_SETTINGS, golden_set

from dualdeploy import dataset_config, tfrecord
from dualdeploy.errors import UnusableResult
from dualdeploy.ledger import Run, Shard, Snapshot
from dualdeploy.object_store import ABSENT
from dualdeploy.testing import MemoryObjectStore
from mobile_publisher import export as exports
from mobile_publisher.conversion import ConversionFailed
from mobile_publisher.export import ConversionDisagrees, Export

RUN_ID = "flowers-0123456789ab"
#: The tiny model's classes: it names the mean colour of a picture.
LABELS = ["red", "green", "blue"]
CONFIG = dataset_config.parse(json.dumps({"dataset": "flowers", "labels": LABELS}), source="test")
COLOURS = {"red": 0, "lime": 1, "blue": 2}
RESULT = f"results/{RUN_ID}/mobile.json"
ROOT = f"runs/{RUN_ID}/mobile"


class World:
    """Two buckets as training left them, and what is asked of the exporter."""

    def __init__(self, folder: Path, tflite: bytes, picture: Callable[[str], bytes]) -> None:
        self.models, self.data = MemoryObjectStore("models"), MemoryObjectStore("data")
        self.picture = picture
        self._folder = folder
        self.convert_to(tflite)
        self.put(f"{ROOT}/pixels_model/saved_model.pb", b"enough for a stand-in")
        self.put(f"{ROOT}/pixels_model/variables/variables.index", b"index")
        self.put_golden({colour: _probabilities(index) for colour, index in COLOURS.items()})
        self.put_result()
        self.put_shard(COLOURS)

    def convert_to(self, tflite: bytes) -> None:
        """Whatever is converted becomes this file."""
        source = self._folder / "converted.tflite"
        source.write_bytes(tflite)
        program = (
            "import shutil, sys; option = dict(zip(sys.argv[1::2], sys.argv[2::2]));"
            f" shutil.copy({str(source)!r}, option['--output'])"
        )
        self.converter = (sys.executable, "-S", "-c", program)

    def put(self, name: str, data: bytes) -> None:
        current = [summary.generation for summary in self.models.list(name) if summary.name == name]
        self.models.put(name, data, expect=current[0] if current else ABSENT)

    def remove(self, name: str) -> None:
        self.models.delete(name, expect=self.models.read(name).generation)

    def put_golden(self, answers: dict[str, list[float]]) -> None:
        self.put(f"{ROOT}/golden.json", golden_set((self.picture(colour), p) for colour, p in answers.items()))

    def put_result(self, **artifacts: str) -> None:
        names = {"saved_model": "model", "keras": "model.keras", "metrics": "metrics.json", "labels": "labels.txt"}
        names |= {"pixels_model": "pixels_model", "golden": "golden.json"}
        document: dict[str, Any] = {
            "run_id": RUN_ID,
            "dataset": "flowers",
            "target": "mobile",
            "finished_at": "2026-11-23T12:00:00Z",
            "architecture": "mobilenet_v3_small",
            "image_size": 8,
            "labels": LABELS,
            "artifacts": {key: f"gs://models/{ROOT}/{name}" for key, name in names.items()} | artifacts,
            "metrics": {"accuracy": 0.9, "loss": 0.1, "examples": 3},
            "data": {"train_examples": 9, "eval_examples": 3},
        }
        self.put(RESULT, json.dumps(document).encode())

    def put_shard(self, labels: dict[str, int]) -> None:
        path = self._folder / "eval.tfrecord"
        records = [
            tfrecord.encode_example({"image": [self.picture(colour)], "class": [label]})
            for colour, label in labels.items()
        ]
        tfrecord.write_records(path, records)
        current = [summary.generation for summary in self.data.list("flowers/eval.tfrecord")]
        self.data.put("flowers/eval.tfrecord", path.read_bytes(), expect=current[0] if current else ABSENT)

    def run(self) -> Run:
        (found,) = self.data.list("flowers/")
        shard = Shard(name=found.name, generation=found.generation, size=found.size, crc32c=found.crc32c)
        return Run(
            run_id=RUN_ID,
            dataset="flowers",
            created_at="2026-11-23T12:00:00.000Z",
            reason="",
            snapshot=Snapshot(bucket="data", prefix="flowers/", shards=(shard,)),
            config=CONFIG.model_dump(mode="json"),
            claim="",
        )

    def export(self) -> Export:
        return exports.export(
            self.run(),
            CONFIG,
            variant="float32",
            models=self.models,
            data=self.data,
            settings=PUBLISHER_SETTINGS,
            converter=self.converter,
        )


def _probabilities(index: int) -> list[float]:
    return [0.9 if position == index else 0.05 for position in range(len(LABELS))]


@pytest.fixture
def world(tmp_path: Path, tiny_float32: bytes, picture: Callable[[str], bytes]) -> World:
    return World(tmp_path, tiny_float32, picture)


def test_the_file_is_stored_under_a_name_made_of_its_content_and_measured(world: World) -> None:
    export = world.export()
    name = f"mobile/flowers/{RUN_ID}/{export.sha256[:12]}/model.tflite"
    assert export.uri == f"gs://models/{name}"
    stored = world.models.read(name).data
    facts = export.as_facts()
    assert facts["tflite_bytes"] == len(stored)
    assert (facts["accuracy"], facts["eval_examples"], facts["agreement_with_source"]) == (1.0, 3, 1.0)
    assert facts["variant"] == "float32"
    json.dumps(facts)


def test_exporting_again_leaves_the_same_object_alone(world: World) -> None:
    first = world.export()
    name = first.uri.removeprefix("gs://models/")
    generation = world.models.read(name).generation
    assert world.export().uri == first.uri
    assert world.models.read(name).generation == generation


def test_what_counts_is_how_the_file_does_on_the_held_out_pictures(world: World) -> None:
    world.put_shard({"red": 0, "lime": 1, "blue": 1})
    assert world.export().evaluation.accuracy == pytest.approx(2 / 3)


def test_a_file_that_does_not_answer_what_its_source_answers_is_refused(world: World) -> None:
    world.put_golden({"red": _probabilities(1), "lime": _probabilities(2), "blue": _probabilities(2)})
    with pytest.raises(ConversionDisagrees, match=r"agrees with its source model on 33% of 3 golden pictures"):
        world.export()
    assert not [name for name in world.models.names() if name.startswith("mobile/")]


def test_a_conversion_that_lost_its_weights_is_refused(world: World, tiny_nan: bytes) -> None:
    world.convert_to(tiny_nan)
    with pytest.raises(Exception, match="lost the weights") as raised:
        world.export()
    assert isinstance(raised.value, exports.on_device.UnusableModel)


def test_a_converter_that_fails_fails_the_export(world: World) -> None:
    world.converter = (sys.executable, "-S", "-c", "raise SystemExit('no such op')")
    with pytest.raises(ConversionFailed, match="no such op"):
        world.export()


def test_a_result_that_is_gone_says_what_to_do(world: World) -> None:
    world.remove(RESULT)
    with pytest.raises(UnusableResult, match=r"gs://models/results/.*/mobile\.json is gone; train again"):
        world.export()


def test_a_model_that_is_gone_is_named(world: World) -> None:
    world.remove(f"{ROOT}/pixels_model/saved_model.pb")
    world.remove(f"{ROOT}/pixels_model/variables/variables.index")
    with pytest.raises(UnusableResult, match=f"there is nothing under gs://models/{ROOT}/pixels_model"):
        world.export()


def test_a_golden_set_that_is_gone_is_named(world: World) -> None:
    world.remove(f"{ROOT}/golden.json")
    with pytest.raises(UnusableResult, match=r"golden\.json is gone"):
        world.export()


@pytest.mark.parametrize(
    "golden",
    [b"{", b"{}", b'{"examples": 7}', b'{"examples": [{}]}', b'{"examples": [{"image_bytes": {"b64": "!"}}]}', b"[]"],
)
def test_a_golden_set_that_is_none_is_named(world: World, golden: bytes) -> None:
    world.put(f"{ROOT}/golden.json", golden)
    with pytest.raises(UnusableResult, match=r"golden\.json is no golden set"):
        world.export()


def test_a_golden_picture_that_cannot_be_decoded_is_no_golden_set(world: World) -> None:
    world.put(f"{ROOT}/golden.json", golden_set([(b"no picture", _probabilities(0))]))
    with pytest.raises(UnusableResult, match=r"golden\.json is no golden set: cannot decode"):
        world.export()


@pytest.mark.parametrize("uri", ["gs://elsewhere/model", "/etc/passwd", "gs://models-of-others/x"])
def test_a_result_cannot_send_the_exporter_to_another_bucket(world: World, uri: str) -> None:
    world.put_result(pixels_model=uri)
    with pytest.raises(UnusableResult, match="is not in gs://models/"):
        world.export()


@pytest.mark.parametrize("name", ["../outside", "a/../../outside", "/absolute"])
def test_an_object_name_cannot_leave_the_folder_that_it_is_fetched_to(tmp_path: Path, name: str) -> None:
    store = MemoryObjectStore("models")
    store.put(f"model/{name}", b"x", expect=ABSENT)
    with pytest.raises(UnusableResult, match="would lie outside its folder"):
        exports.download_tree(store, "model", tmp_path / "model")
    assert not (tmp_path / "outside").exists()


def test_folder_markers_are_no_files(tmp_path: Path) -> None:
    store = MemoryObjectStore("models")
    store.put("model/", b"", expect=ABSENT)
    store.put("model/assets/", b"", expect=ABSENT)
    store.put("model/saved_model.pb", b"x", expect=ABSENT)
    exports.download_tree(store, "model/", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["saved_model.pb"]

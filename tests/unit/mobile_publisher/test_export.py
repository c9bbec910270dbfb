"""From a trained run to a checked file, with a small program in the place of TensorFlow."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dualdeploy.contracts import answers, dataset_config
from dualdeploy.contracts.dataset_config import DatasetConfig, MobileGate
from dualdeploy.contracts.saved_model import UnusableGraph
from dualdeploy.errors import UnusableResult
from dualdeploy.google.object_store import ABSENT
from dualdeploy.images import tfrecord
from dualdeploy.ledger import Run, Shard, Snapshot
from dualdeploy.local_paths import LeavesItsFolder
from mobile_publisher import candidates, conversion, on_device_gate
from mobile_publisher import export as exports
from mobile_publisher.candidates import ConversionDisagrees
from mobile_publisher.conversion import ConversionFailed
from mobile_publisher.on_device import Evaluation
from mobile_publisher.on_device_gate import Figures
from mobile_publisher.release import File
from mobile_publisher.world import Around
from support.chain_data import golden_set
from support.fakes import MemoryObjectStore
from support.graphs import EMPTY_GRAPH, Node, graph
from support.publishing import SETTINGS

RUN_ID = "flowers-0123456789ab"
#: The tiny model's classes: it names the mean colour of a picture.
LABELS = ["red", "green", "blue"]
PUBLISHING = {"quantization": "float32"}
CONFIG = dataset_config.parse(
    json.dumps({"dataset": "flowers", "labels": LABELS, "publishing": PUBLISHING}), source="test"
)
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
        self.put(f"{ROOT}/pixels_model/saved_model.pb", EMPTY_GRAPH)
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

    def convert_each_to(self, files: dict[str, bytes]) -> None:
        """Every variant becomes another file; one that is not named fails to convert."""
        self.put_shard(COLOURS, "train.tfrecord")
        folder = self._folder / "each"
        folder.mkdir()
        for variant, tflite in files.items():
            (folder / variant).write_bytes(tflite)
        program = (
            "import shutil, sys; option = dict(zip(sys.argv[1::2], sys.argv[2::2]));"
            f" shutil.copy({str(folder)!r} + '/' + option['--variant'], option['--output'])"
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

    def put_shard(self, labels: dict[str, int], name: str = "eval.tfrecord") -> None:
        path = self._folder / name
        records = [
            tfrecord.encode_example({"image": [self.picture(colour)], "class": [label]})
            for colour, label in labels.items()
        ]
        tfrecord.write_records(path, records)
        current = [summary.generation for summary in self.data.list(f"flowers/{name}")]
        self.data.put(f"flowers/{name}", path.read_bytes(), expect=current[0] if current else ABSENT)

    def run(self) -> Run:
        shards = tuple(
            Shard(name=found.name, generation=found.generation, size=found.size, crc32c=found.crc32c)
            for found in self.data.list("flowers/")
        )
        return Run(
            run_id=RUN_ID,
            dataset="flowers",
            created_at="2026-11-23T12:00:00.000Z",
            reason="",
            snapshot=Snapshot(bucket="data", prefix="flowers/", shards=shards),
            config=CONFIG.model_dump(mode="json"),
            claim="",
        )

    def export(self, config: DatasetConfig = CONFIG, **around: Any) -> File:
        made = exports.export(
            self.run(),
            config,
            around=Around(**around),
            models=self.models,
            data=self.data,
            settings=SETTINGS,
            converter=self.converter,
        )
        assert isinstance(made, File)
        return made


def config_with(*, quantization: str = "auto", **limits: float) -> DatasetConfig:
    document = {
        "dataset": "flowers",
        "labels": LABELS,
        "publishing": {"quantization": quantization, "min_app_version": "2.1"},
        "gates": {"mobile": limits},
    }
    return dataset_config.parse(json.dumps(document), source="test")


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
    assert (export.variant, export.version) == ("float32", f"0123456789ab-{export.sha256[:12]}")
    figures = export.figures
    assert (figures.size_bytes, figures.examples) == (len(stored), 3)
    assert (figures.accuracy, figures.agreement_with_source) == (1.0, 1.0)
    # It stands in the ledger as it is.
    assert File.model_validate_json(export.model_dump_json()) == export


def test_exporting_again_leaves_the_same_object_alone(world: World) -> None:
    first = world.export()
    name = first.uri.removeprefix("gs://models/")
    generation = world.models.read(name).generation
    assert world.export().uri == first.uri
    assert world.models.read(name).generation == generation


def test_what_counts_is_how_the_file_does_on_the_held_out_pictures(world: World) -> None:
    world.put_shard({"red": 0, "lime": 1, "blue": 1})
    assert world.export().figures.accuracy == pytest.approx(2 / 3)


def test_what_the_file_says_to_each_held_out_picture_lies_beside_it(world: World) -> None:
    world.put_shard({"red": 0, "lime": 1, "blue": 1})
    export = world.export()
    assert export.answers == export.uri.replace("model.tflite", answers.FILE_NAME)
    found = answers.decode(world.models.read(export.answers.removeprefix("gs://models/")).data, source="answers")
    assert {(each.picture, each.label, each.predicted) for each in found} == {
        (answers.fingerprint(world.picture("red")), "red", "red"),
        (answers.fingerprint(world.picture("lime")), "green", "green"),
        (answers.fingerprint(world.picture("blue")), "green", "blue"),
    }
    assert all(1 / 3 < each.confidence <= 1 for each in found)


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


def test_a_model_that_writes_files_is_refused_before_anything_converts_it(world: World) -> None:
    world.put(f"{ROOT}/pixels_model/saved_model.pb", graph(Node("WriteFile")))
    world.converter = (sys.executable, "-S", "-c", "raise SystemExit('it was run')")
    with pytest.raises(UnusableGraph, match=r"the operator WriteFile .*: take that step out of it, and train again$"):
        world.export()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file system that is full")
def test_an_export_that_finds_no_room_fails_and_says_where(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not an error that comes again every minute."""
    write = Path.write_bytes

    def written_where_nothing_fits(path: Path, data: bytes) -> int:
        return write(Path("/dev/full") if path.name == "saved_model.pb" else path, data)

    monkeypatch.setattr(Path, "write_bytes", written_where_nothing_fits)
    with pytest.raises(exports.NoRoom, match=r"no room is left in /.*give the service more"):
        world.export()


def test_a_golden_set_that_is_gone_is_named(world: World) -> None:
    world.remove(f"{ROOT}/golden.json")
    with pytest.raises(UnusableResult, match=r"there is no .*golden\.json"):
        world.export()


@pytest.mark.parametrize(
    "golden",
    [b"{", b"{}", b'{"examples": 7}', b'{"examples": [{}]}', b'{"examples": [{"image_bytes": {"b64": "!"}}]}', b"[]"],
)
def test_a_golden_set_that_is_none_is_named(world: World, golden: bytes) -> None:
    world.put(f"{ROOT}/golden.json", golden)
    with pytest.raises(UnusableResult, match=r"golden\.json is not a golden set"):
        world.export()


def test_a_golden_picture_that_cannot_be_decoded_is_not_a_golden_set(world: World) -> None:
    world.put(f"{ROOT}/golden.json", golden_set([(b"no picture", _probabilities(0))]))
    with pytest.raises(UnusableResult, match=r"golden\.json is not a golden set: the image is neither JPEG nor PNG"):
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
    with pytest.raises(LeavesItsFolder):
        exports.download_tree(store, "model", tmp_path / "model")
    assert not (tmp_path / "outside").exists()


def test_folder_markers_are_not_files(tmp_path: Path) -> None:
    store = MemoryObjectStore("models")
    store.put("model/", b"", expect=ABSENT)
    store.put("model/assets/", b"", expect=ABSENT)
    store.put("model/saved_model.pb", b"x", expect=ABSENT)
    exports.download_tree(store, "model/", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["saved_model.pb"]


# Several variants ----------------------------------------------------------------------------------------------


def table_of(world: World, export: File) -> dict[str, dict[str, Any]]:
    name = export.gate_table.removeprefix("gs://models/").replace(".md", ".json")
    return {row["variant"]: row for row in json.loads(world.models.read(name).data)["variants"]}


def test_auto_takes_the_smallest_file_that_passes(world: World, tiny_float32: bytes, tiny_uint8: bytes) -> None:
    smaller, larger = sorted((tiny_float32, tiny_uint8), key=len)
    world.convert_each_to({"float32": larger, "float16": smaller, "dynamic": larger, "int8": larger})
    export = world.export(config_with())
    assert export.variant == "float16"
    table = table_of(world, export)
    assert [variant for variant, row in table.items() if row["chosen"]] == ["float16"]
    assert all(row["passed"] for row in table.values())
    assert table["float32"]["float_accuracy"] is None
    assert table["int8"]["float_accuracy"] == 1.0
    assert all(row["latency_two_threads_ms"] > 0 for row in table.values())
    assert all(row["peak_memory_mb"] > 0 for row in table.values())


def test_a_variant_that_collapses_is_refused_with_its_figures_and_another_goes_out(
    world: World, tiny_float32: bytes, tiny_uint8: bytes, tiny_nan: bytes
) -> None:
    world.convert_each_to({"float32": tiny_uint8, "float16": tiny_float32, "int8": tiny_nan})
    export = world.export(config_with())
    assert export.variant == min(("float32", tiny_uint8), ("float16", tiny_float32), key=lambda each: len(each[1]))[0]
    table = table_of(world, export)
    assert "lost the weights" in table["int8"]["reason"]
    assert "conversion ended with code" in table["dynamic"]["reason"]
    assert not table["int8"]["passed"]


def test_a_smaller_file_that_misses_a_limit_is_passed_over(
    world: World, tiny_float32: bytes, tiny_uint8: bytes
) -> None:
    smaller, larger = sorted((tiny_float32, tiny_uint8), key=len)
    world.convert_each_to({"float32": larger, "float16": smaller, "dynamic": larger, "int8": larger})
    # The answers of another cloud model, with which nothing agrees: a rule that every file fails.
    result = json.loads(world.models.read(RESULT).data)
    result |= {"target": "cloud", "artifacts": result["artifacts"] | {"golden": "gs://models/cloud-golden.json"}}
    world.put(f"results/{RUN_ID}/cloud.json", json.dumps(result).encode())
    world.put("cloud-golden.json", golden_set([(world.picture("red"), _probabilities(2))]))
    rejected = world.export(config_with(min_cloud_agreement=0.5))
    assert rejected.figures.accuracy == 1.0
    table = table_of(world, rejected)
    assert not any(row["passed"] for row in table.values())
    assert table["float16"]["reason"].startswith("cloud_agreement 0 >= 0.5: failed")


def test_choosing_looks_at_the_gate_before_the_size() -> None:
    small_and_bad, large_and_good = candidate("int8", 100, 0.2), candidate("float16", 200, 0.9)
    assert candidates.choose([small_and_bad, large_and_good]) is large_and_good
    assert candidates.choose([small_and_bad, large_and_good, candidate("dynamic", 150, 0.85)]).variant == "dynamic"
    # None passes: the most accurate one is shown to the gate, which rejects it.
    assert candidates.choose([small_and_bad, candidate("float32", 400, 0.3)]).variant == "float32"


def candidate(variant: Any, size: int, accuracy: float) -> candidates.Candidate:
    figures = Figures(accuracy=accuracy, size_bytes=size)
    evaluation = Evaluation(accuracy, {}, (), 10, 0, 1.0, 1.0, size)
    verdict = on_device_gate.judge(figures, MobileGate(min_accuracy=0.8))
    return candidates.Candidate(variant, bytes(size), evaluation, figures, verdict)


def test_when_every_variant_fails_the_export_fails_with_the_first_reason(world: World) -> None:
    world.convert_each_to({})
    with pytest.raises(ConversionFailed, match="the float32 conversion"):
        world.export(config_with())


def test_time_that_is_used_up_is_said_and_not_exceeded(world: World, tiny_float32: bytes) -> None:
    world.convert_each_to(dict.fromkeys(("float32", "float16", "dynamic", "int8"), tiny_float32))
    with pytest.raises(ConversionFailed, match="no time was left for the float32 conversion"):
        exports.export(
            world.run(),
            config_with(),
            models=world.models,
            data=world.data,
            settings=dataclasses.replace(SETTINGS, conversion_timeout_seconds=0.0),
            converter=world.converter,
        )


def test_int8_is_calibrated_with_training_pictures_only(world: World, tiny_float32: bytes) -> None:
    world.convert_to(tiny_float32)
    with pytest.raises(ConversionFailed, match="int8 needs pictures to calibrate with"):
        # The one shard of this run holds held-out pictures.
        world.export(config_with(quantization="int8"))


def test_the_live_file_is_measured_on_the_same_pictures(world: World) -> None:
    live = world.export()
    assert live.figures.live_accuracy is None
    world.put_shard({"red": 0, "lime": 1, "blue": 1})
    again = world.export(live=live.uri)
    assert again.figures.live_accuracy == pytest.approx(2 / 3)
    assert world.export(live="gs://models/mobile/gone.tflite").figures.live_accuracy is None


def test_the_answers_of_the_cloud_model_are_compared_when_there_are_any(world: World) -> None:
    assert world.export().figures.cloud_agreement is None
    result = json.loads(world.models.read(RESULT).data)
    result |= {"target": "cloud", "artifacts": result["artifacts"] | {"golden": "gs://models/cloud-golden.json"}}
    world.put(f"results/{RUN_ID}/cloud.json", json.dumps(result).encode())
    assert world.export().figures.cloud_agreement is None
    answers = {"red": _probabilities(0), "lime": _probabilities(2)}
    world.put("cloud-golden.json", golden_set((world.picture(colour), p) for colour, p in answers.items()))
    assert world.export().figures.cloud_agreement == 0.5
    world.put("cloud-golden.json", golden_set([(b"no picture", _probabilities(0))]))
    assert world.export().figures.cloud_agreement is None


def test_the_manifest_tells_an_app_what_the_file_is(world: World) -> None:
    export = world.export(config_with(quantization="float32"))
    manifest = json.loads(world.models.read(export.manifest.removeprefix("gs://models/")).data)
    stored = world.models.read(export.uri.removeprefix("gs://models/")).data
    assert manifest["sha256"] == hashlib.sha256(stored).hexdigest()
    assert manifest["size"] == len(stored)
    assert manifest["labels"] == LABELS
    assert manifest["input"]["shape"] == [1, 8, 8, 3]
    assert manifest["variant"] == "float32"
    assert manifest["min_app_version"] == "2.1"
    assert manifest["version"] == f"0123456789ab-{manifest['sha256'][:12]}"
    assert manifest["snapshot_sha256"] == world.run().snapshot.digest()


def test_the_table_is_shown_as_markdown_and_as_a_picture(world: World, tiny_float32: bytes, tiny_nan: bytes) -> None:
    world.convert_each_to({"float32": tiny_float32, "float16": tiny_nan})
    export = world.export(config_with())
    name = export.gate_table.removeprefix("gs://models/")
    lines = world.models.read(name).data.decode().splitlines()
    (chosen,) = [line for line in lines if line.startswith("| float32 |")]
    assert chosen.endswith("| chosen |")
    (refused,) = [line for line in lines if line.startswith("| float16 |")]
    assert refused.endswith("| refused |")
    assert chosen.count("|") == refused.count("|") == lines[2].count("|")
    picture = Image.open(io.BytesIO(world.models.read(name.replace(".md", ".png")).data))
    assert picture.format == "PNG"
    assert len(picture.getcolors(1 << 20)) > 3


@pytest.mark.slow
def test_the_real_converter_makes_all_four_variants_and_auto_takes_the_smallest(world: World, tmp_path: Path) -> None:
    maker = Path(__file__).parents[2] / "fixtures" / "make_tiny_tflite.py"
    saved = tmp_path / "saved"
    subprocess.run([sys.executable, str(maker), "saved-model", str(saved)], check=True, timeout=120)
    for path in saved.rglob("*"):
        if path.is_file():
            world.put(f"{ROOT}/pixels_model/{path.relative_to(saved)}", path.read_bytes())
    world.put_shard(COLOURS, "train.tfrecord")
    world.converter = conversion.CONVERTER
    export = world.export(config_with())
    table = table_of(world, export)
    assert list(table) == ["float32", "float16", "dynamic", "int8"]
    assert all(row["passed"] for row in table.values()), {name: row["reason"] for name, row in table.items()}
    assert table[export.variant]["size_bytes"] == min(row["size_bytes"] for row in table.values())

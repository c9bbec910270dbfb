"""What AutoML trained for phones: exported by Google, checked as every file is, kept from apps that cannot feed it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from dualdeploy.contracts import answers, dataset_config, golden
from dualdeploy.contracts.dataset_config import DatasetConfig
from dualdeploy.contracts.golden import Picture
from dualdeploy.contracts.training import ManagedModel
from dualdeploy.errors import ServiceUnavailable, UnusableResult
from dualdeploy.google.object_store import ABSENT
from dualdeploy.images import tfrecord
from dualdeploy.images.pixels import decode_rgb, resize_bilinear
from dualdeploy.ledger import Run, Shard, Snapshot, State
from mobile_publisher import conversion, on_device
from mobile_publisher import export as exports
from mobile_publisher.export import InputChanges
from mobile_publisher.on_device import UnusableModel
from mobile_publisher.release import File
from mobile_publisher.world import Around
from support import tflite_files
from support.chain_data import golden_set, overwrite
from support.fakes import MemoryObjectStore
from support.fakes.failing import ProcessDied
from support.graphs import EMPTY_GRAPH
from support.publishing import SETTINGS, Publishing

FIXTURES = Path(__file__).parents[2] / "fixtures"
RUN_ID = "flowers-0123456789ab"
ROOT = f"runs/{RUN_ID}/mobile"
FOLDER = f"gs://models/exports/flowers/{RUN_ID}/model-1/tflite/2026-11-28T10:00:00Z"
NAME = "projects/p/locations/l/models/dualdeploy-flowers_mobile"
MODEL = ManagedModel(name=NAME, version="1", type="MOBILE_TF_VERSATILE_1")
#: As the network answers, and as the configuration has them.
FILES_ORDER, CONFIGURED = ("red", "green", "blue"), ["blue", "green", "red"]
COLOURS = {"red": "red", "lime": "green", "blue": "blue"}


def config(**publishing: Any) -> DatasetConfig:
    document = {"dataset": "flowers", "labels": CONFIGURED, "gates": {"mobile": {"min_cloud_agreement": 0.5}}}
    publishing = {"channels": ["firebase-storage"], **publishing}
    return dataset_config.parse(json.dumps({**document, "publishing": publishing}), source="test")


class World:
    """Two buckets as AutoML's training left them, and what is asked of the exporter."""

    def __init__(self, folder: Path, picture: Callable[[str], bytes]) -> None:
        self.models, self.data = MemoryObjectStore("models"), MemoryObjectStore("data")
        self.converter: Sequence[str] = conversion.CONVERTER
        path = folder / "eval.tfrecord"
        records = [
            tfrecord.encode_example({"image": [picture(colour)], "class": [CONFIGURED.index(label)]})
            for colour, label in COLOURS.items()
        ]
        tfrecord.write_records(path, records)
        self.data.put("flowers/eval.tfrecord", path.read_bytes(), expect=ABSENT)
        pictures = [Picture(image=picture(colour), label=label) for colour, label in COLOURS.items()]
        overwrite(self.models, f"{ROOT}/golden.json", golden.encode(pictures))
        self.put_result()
        self.google_exports(tflite_files.automl((FIXTURES / "tiny_centred_uint8.tflite").read_bytes(), FILES_ORDER))

    def put_result(self, run_id: str = RUN_ID, target: str = "mobile", **more: Any) -> None:
        result = {
            "run_id": run_id,
            "dataset": "flowers",
            "target": target,
            "finished_at": "2026-11-28T12:00:00Z",
            "architecture": "automl:MOBILE_TF_VERSATILE_1",
            "image_size": 0,
            "labels": CONFIGURED,
            "artifacts": {"golden": f"gs://models/{ROOT}/golden.json", "labels": f"gs://models/{ROOT}/labels.txt"},
            "metrics": {"accuracy": 0.9, "loss": 0.1, "examples": 3},
            "data": {"train_examples": 9, "eval_examples": 3},
            "managed": MODEL.model_dump(),
            **more,
        }
        overwrite(self.models, f"results/{run_id}/{target}.json", json.dumps(result).encode())

    def train_by(self, method: str, folder: Path, picture: Callable[[str], bytes]) -> None:
        """The run's result is one of AutoML's, or one of our trainer's, which a small program converts."""
        if method == "automl":
            self.put_result()
            return
        source = folder / "converted.tflite"
        source.write_bytes((FIXTURES / "tiny_float32.tflite").read_bytes())
        program = (
            "import shutil, sys; option = dict(zip(sys.argv[1::2], sys.argv[2::2]));"
            f" shutil.copy({str(source)!r}, option['--output'])"
        )
        self.converter = (sys.executable, "-S", "-c", program)
        overwrite(self.models, f"{ROOT}/pixels_model/saved_model.pb", EMPTY_GRAPH)
        classifier = on_device.Classifier(source, labels=FILES_ORDER)
        answered = [
            (picture(colour), [float(p) for p in classifier.probabilities(picture(colour))]) for colour in COLOURS
        ]
        overwrite(self.models, f"{ROOT}/golden-ours.json", golden_set(answered))
        names = {"saved_model": "model", "pixels_model": "pixels_model", "golden": "golden-ours.json", "labels": "l"}
        self.put_result(
            architecture="mobilenet_v3_small",
            image_size=8,
            labels=list(FILES_ORDER),
            artifacts={key: f"gs://models/{ROOT}/{name}" for key, name in names.items()},
            managed=None,
        )

    def google_exports(self, tflite: bytes, name: str = "model.tflite") -> None:
        overwrite(self.models, f"{FOLDER.removeprefix('gs://models/')}/{name}", tflite)

    def export(self, configured: DatasetConfig | None = None, **around: Any) -> File:
        made = exports.export(
            self.run(),
            configured or config(),
            around=Around(**{"exported": FOLDER, **around}),
            models=self.models,
            data=self.data,
            settings=SETTINGS,
            converter=self.converter,
        )
        assert isinstance(made, File)
        return made

    def run(self) -> Run:
        (found,) = self.data.list("flowers/")
        shard = Shard(name=found.name, generation=found.generation, size=found.size, crc32c=found.crc32c)
        return Run(
            run_id=RUN_ID,
            dataset="flowers",
            created_at="2026-11-23T12:00:00.000Z",
            reason="",
            snapshot=Snapshot(bucket="data", prefix="flowers/", shards=(shard,)),
            config=config().model_dump(mode="json"),
            claim="",
        )

    def manifest(self, file: File) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.models.read(file.manifest.removeprefix("gs://models/")).data)
        return found


@pytest.fixture
def world(tmp_path: Path, picture: Callable[[str], bytes]) -> World:
    return World(tmp_path, picture)


def test_until_google_has_exported_it_the_model_is_named(world: World) -> None:
    made = exports.export(world.run(), config(), models=world.models, data=world.data, settings=SETTINGS)
    assert made == MODEL


def test_the_file_goes_out_as_google_made_it_with_what_an_app_has_to_know(world: World) -> None:
    file = world.export()
    given = world.models.read(f"{FOLDER.removeprefix('gs://models/')}/model.tflite").data
    assert world.models.read(file.uri.removeprefix("gs://models/")).data == given
    assert (file.variant, file.input_type) == ("automl", "uint8")
    manifest = world.manifest(file)
    assert (manifest["variant"], manifest["labels"]) == ("automl", list(FILES_ORDER))
    taken = manifest["input"]
    assert (taken["type"], taken["range"], taken["shape"]) == ("uint8", [0, 255], [1, 8, 8, 3])
    assert manifest["output"] == {
        "shape": [1, 3],
        "type": "uint8",
        "holds": "probabilities by label",
        "scale": 1 / 256,
        "zero_point": 0,
    }


def test_it_is_measured_on_the_held_out_pictures_by_the_name_of_each_label(world: World) -> None:
    file = world.export()
    figures = file.figures
    assert (figures.accuracy, figures.examples) == (1.0, 3)
    assert (figures.agreement_with_source, figures.float_accuracy, figures.cloud_agreement) == (None, None, None)
    said = answers.decode(world.models.read(file.answers.removeprefix("gs://models/")).data, source="answers")
    assert {each.label for each in said} == {each.predicted for each in said} == set(CONFIGURED)


def test_rules_that_nothing_can_be_measured_for_are_not_judged_with_the_reason(world: World) -> None:
    from mobile_publisher import on_device_gate

    limits = config().gates.mobile
    verdict = on_device_gate.judge(world.export().figures, limits)
    assert {each.partition(":")[0] for each in verdict.not_judged} == {
        name
        for name, limit in (
            ("conversion_loss", limits.max_conversion_loss),
            ("worst_class_loss", limits.max_class_loss),
            ("cloud_agreement", limits.min_cloud_agreement),
        )
        if limit is not None
    }
    assert "cloud_agreement" in str(verdict.not_judged)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (("red", "green", "pink"), "blue missing, pink too many"),
        (("red", "red", "blue"), "more than one of its classes red"),
    ],
)
def test_a_file_with_other_labels_is_refused(world: World, labels: Sequence[str], says: str) -> None:
    world.google_exports(tflite_files.automl((FIXTURES / "tiny_centred_uint8.tflite").read_bytes(), labels))
    with pytest.raises(UnusableModel, match=says):
        world.export()


def test_a_file_whose_labels_no_one_knows_is_refused_though_it_has_as_many(world: World) -> None:
    world.google_exports((FIXTURES / "tiny_centred_uint8.tflite").read_bytes())
    with pytest.raises(UnusableModel, match="does not say its labels"):
        world.export()


def test_a_file_that_takes_other_numbers_than_pixels_is_refused(world: World) -> None:
    tflite = (FIXTURES / "tiny_centred_float32.tflite").read_bytes()
    world.google_exports(tflite_files.automl(tflite, FILES_ORDER))
    with pytest.raises(UnusableModel, match="not the pixels from 0 to 255"):
        world.export()


def test_a_folder_without_the_file_is_named_with_what_it_holds(world: World) -> None:
    name = f"{FOLDER.removeprefix('gs://models/')}/model.tflite"
    world.models.delete(name, expect=world.models.read(name).generation)
    with pytest.raises(UnusableResult, match=r"holds no model\.tflite, but nothing"):
        world.export()
    world.google_exports(b"", name="saved_model.pb")
    with pytest.raises(UnusableResult, match=r"but saved_model\.pb"):
        world.export()


@pytest.mark.parametrize("folder", ["gs://others/exports/x", "", "http://models/exports"])
def test_no_folder_elsewhere_is_read(world: World, folder: str) -> None:
    if folder:
        with pytest.raises(UnusableResult, match="is not in gs://models/"):
            world.export(exported=folder)


# Apps that cannot feed it --------------------------------------------------------------------------------------


def live(world: World, input_type: str, least: str = "") -> str:
    described = {"input": {"type": input_type}, "min_app_version": least}
    overwrite(world.models, "mobile/flowers/old/1/manifest.json", json.dumps(described).encode())
    return "gs://models/mobile/flowers/old/1/model.tflite"


@pytest.mark.parametrize(
    ("before", "least", "after", "goes_out"),
    [
        ("float32", "", "", False),
        ("float32", "1.0", "", False),
        # An app of version 1.0 was written for float32.
        ("float32", "1.0", "1.0", False),
        ("float32", "", "2.0", True),
        ("float32", "1.0", "2.0", True),
        ("uint8", "", "", True),
        ("uint8", "2.0", "2.0", True),
    ],
)
def test_another_input_type_goes_out_to_apps_that_say_that_they_take_it(
    world: World, before: str, least: str, after: str, *, goes_out: bool
) -> None:
    around = {"live": live(world, before, least), "live_name": "flowers"}
    if goes_out:
        assert world.manifest(world.export(config(min_app_version=after), **around))["min_app_version"] == after
        return
    with pytest.raises(InputChanges, match=r"takes float32, this one takes uint8: set publishing\.min_app_version"):
        world.export(config(min_app_version=after), **around)
    assert not [name for name in world.models.names() if name.startswith(f"mobile/flowers/{RUN_ID}")]


def test_firebase_ml_knows_no_least_version_so_another_name_is_the_way_out(world: World) -> None:
    around = {"live": live(world, "float32"), "live_name": "flowers"}
    channels = ["firebase-ml", "firebase-storage"]
    with pytest.raises(InputChanges, match=r"another publishing\.name"):
        world.export(config(min_app_version="2.0", channels=channels), **around)
    file = world.export(config(name="flowers-uint8", channels=channels), **around)
    assert world.manifest(file)["name"] == "flowers-uint8"


@pytest.mark.parametrize(
    ("described", "least", "goes_out"),
    [
        ({"input": {"type": "float32"}}, "", False),
        ({"input": {"type": "float32"}}, "2.0", True),
        ({"input": {"type": "uint8"}}, "", True),
        # What lies there does not say it.
        ({}, "", False),
        (None, "", True),
    ],
)
def test_a_name_that_was_left_or_is_older_than_our_records_has_apps_too(
    world: World, described: dict[str, Any] | None, least: str, *, goes_out: bool
) -> None:
    around = {"live": live(world, "uint8"), "live_name": "another-name", "pointed": described}
    if goes_out:
        assert world.export(config(min_app_version=least), **around).input_type == "uint8"
        return
    with pytest.raises(InputChanges, match="the file that phones have under flowers takes float32"):
        world.export(config(min_app_version=least), **around)


def test_what_those_have_who_follow_the_name_is_read_where_they_read_it() -> None:
    project, run_id = a_project()
    settle(project)
    assert project.around[run_id].pointed is None
    project.configure(publishing={"name": "others"})
    others = project.train(2)
    settle(project)
    assert project.live() == others
    project.configure(publishing={"name": "flowers"})
    back = project.train(3)
    settle(project)
    assert project.around[others].pointed is None
    assert project.around[back].live_name == "others"
    assert (project.around[back].pointed or {})["version"] == project.release(run_id).file.version  # type: ignore[union-attr]


def test_someone_may_answer_for_it(world: World) -> None:
    assert world.export(live=live(world, "float32"), live_name="flowers", forced=True).input_type == "uint8"


def test_what_a_live_file_takes_that_does_not_say_it_is_float32(world: World) -> None:
    overwrite(world.models, "mobile/flowers/old/1/manifest.json", b"{}")
    with pytest.raises(InputChanges, match="takes float32"):
        world.export(live="gs://models/mobile/flowers/old/1/model.tflite", live_name="flowers")


def test_a_file_of_another_name_has_its_own_manifest(world: World) -> None:
    first, second = world.export(config()), world.export(config(name="others"))
    assert (first.sha256, first.manifest) != (second.sha256, second.manifest)
    assert [world.manifest(each)["name"] for each in (first, second)] == ["flowers", "others"]


# Asking Google -------------------------------------------------------------------------------------------------


def a_project() -> tuple[Publishing, str]:
    project = Publishing()
    run_id = project.train()
    version = project.vertex.add_managed("dualdeploy-flowers_mobile", run_id, {})
    project.managed[run_id] = ManagedModel(name=version.name, version=version.version, type=MODEL.type)
    return project, run_id


def settle(project: Publishing, minutes: int = 12) -> None:
    for _ in range(minutes):
        project.tick()
        project.vertex.finish_operations()


def test_google_is_asked_once_and_the_folder_that_it_says_is_read() -> None:
    project, run_id = a_project()
    settle(project)
    assert project.live() == run_id
    assert len(project.vertex.operations) == 1
    (operation,) = project.vertex.operations.values()
    assert project.exported[run_id] == operation.metadata["outputInfo"]["artifactOutputUri"]
    assert project.exported[run_id].startswith(f"gs://models/exports/flowers/{run_id}/")


@pytest.mark.parametrize(("minutes", "state"), [(8, State.LIVE), (20, State.FAILED)])
def test_a_version_that_google_does_not_have_yet_is_waited_for(minutes: int, state: State) -> None:
    project, run_id = a_project()
    hidden = dict(project.vertex.models)
    project.vertex.models.clear()
    settle(project, minutes)
    project.vertex.models.update(hidden)
    settle(project)
    release = project.release(run_id)
    assert release.state is state, release.reason
    assert state is State.LIVE or "to be in the Model Registry; if someone deleted it, train again" in release.reason


def test_an_export_that_fails_ends_the_release_with_googles_reason() -> None:
    project, run_id = a_project()
    project.vertex.fail_operation("export", "the model is gone")
    settle(project)
    assert project.release(run_id).state is State.FAILED
    assert "the model is gone" in project.release(run_id).reason


def test_a_format_that_google_does_not_export_ends_the_release() -> None:
    project, run_id = a_project()
    project.vertex.export_formats = set()
    settle(project)
    assert project.release(run_id).state is State.FAILED
    assert "cannot be exported as tflite" in project.release(run_id).reason


def test_an_operation_that_google_forgets_is_begun_again() -> None:
    project, run_id = a_project()
    project.tick()
    project.vertex.operations.clear()
    settle(project)
    assert project.live() == run_id


@pytest.mark.parametrize("how", ["dies", "gets no answer"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("operation", ["vertex.start_export", "vertex.operation"])
def test_whatever_happens_at_asking_the_file_goes_out_in_the_end(operation: str, when: str, how: str) -> None:
    project, run_id = a_project()
    left = [1]

    def interfere(name: str, moment: str) -> None:
        if (name, moment) == (operation, when) and left[0]:
            left[0] -= 1
            raise ProcessDied if how == "dies" else ServiceUnavailable("no answer within 15 s")

    project.interfere = interfere
    settle(project, minutes=40)
    assert left == [0]
    assert project.live() == run_id
    # One too many does no harm: it has a folder of its own.
    assert len(project.vertex.operations) <= 2


def test_a_redeploy_sends_out_the_very_file_whatever_quantization_is_asked_for() -> None:
    project, run_id = a_project()
    settle(project)
    project.change(f"runs/{run_id}/mobile/release-1.json", lambda document: document["file"].update(variant="automl"))
    project.redeploy(run_id, quantization="float16", force=True)
    settle(project)
    assert project.release(run_id).n == 2
    assert len(project.vertex.operations) == 1


# From one road to the other ------------------------------------------------------------------------------------


class App:
    """An app in the field: it follows what is published, and runs it with what it was written for."""

    def __init__(self, version: str, *types: str) -> None:
        self.version, self.types = version, types
        self.tflite, self.manifest = b"", dict[str, Any]()

    def follow(self, manifest: dict[str, Any], tflite: bytes) -> None:
        if manifest["min_app_version"] <= self.version and manifest["input"]["type"] in self.types:
            self.tflite, self.manifest = tflite, manifest

    def says(self, picture: bytes) -> str:
        """By the manifest alone, as an app does it: no metadata, no normalisation."""
        interpreter = Interpreter(model_content=self.tflite)
        interpreter.allocate_tensors()
        (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
        _, size, _, _ = self.manifest["input"]["shape"]
        pixels = resize_bilinear(decode_rgb(picture), size)[None]
        wanted = self.manifest["input"]["type"]
        interpreter.set_tensor(taken["index"], np.rint(pixels).astype(np.uint8) if wanted == "uint8" else pixels)
        interpreter.invoke()
        return str(self.manifest["labels"][int(interpreter.get_tensor(given["index"])[0].argmax())])


def test_no_phone_ever_gets_a_file_that_it_cannot_read_on_the_way_to_automl_and_back(
    world: World, tmp_path: Path, picture: Callable[[str], bytes]
) -> None:
    apps = [App("1.0", "float32"), App("2.0", "float32", "uint8")]
    live = ""
    for trained_by, least, moved in (
        ("custom", "", (True, True)),
        ("automl", "", ()),
        ("automl", "2.0", (False, True)),
        ("custom", "2.0", (False, True)),
    ):
        configured = config(min_app_version=least, quantization="auto" if trained_by == "automl" else "float32")
        world.train_by(trained_by, tmp_path, picture)
        if not moved:
            with pytest.raises(InputChanges):
                world.export(configured, live=live, live_name="flowers")
            continue
        file = world.export(configured, live=live, live_name="flowers" if live else "")
        before = [app.manifest for app in apps]
        for app in apps:
            app.follow(world.manifest(file), world.models.read(file.uri.removeprefix("gs://models/")).data)
        assert tuple(app.manifest != was for app, was in zip(apps, before, strict=True)) == moved
        live = file.uri
        for app in apps:
            assert [app.says(picture(colour)) for colour in COLOURS] == list(COLOURS.values())

"""`dualdeploy validate`: exit codes, and a report that says where and what to do."""

from __future__ import annotations

import json

import pytest

from dualdeploy.images.tfrecord import encode_example, parse_example
from support.command_line import call, invoke

CONFIG = """
dataset: garden
labels: [daisy, roses]
data: {features: {image: photo, label: kind}}
"""


@pytest.fixture
def run():
    def run(*arguments: str) -> tuple[int, str]:
        return invoke("validate", *arguments)

    return run


@pytest.fixture
def folder(tmp_path, record, shard, good_eval):
    (tmp_path / "nested").mkdir()
    (tmp_path / "nested" / "train-00000-of-00001.tfrecord").write_bytes(shard(map(record, range(8))))
    (tmp_path / "eval-00000-of-00001.tfrecord.gz").write_bytes(good_eval)
    (tmp_path / "README.md").write_text("not a shard")
    return tmp_path


def test_a_good_folder_is_accepted_with_0(run, folder) -> None:
    code, output = run(folder, "--labels", "daisy, roses")
    assert code == 0
    assert "nested/train-00000-of-00001.tfrecord" in output
    assert "roses" in output
    assert "accepted 14 records in 2 shards" in output
    report = json.loads(call("validate", folder, "--labels", "daisy, roses", "--json").stdout)
    assert (report["verdict"], report["coverage"]["records"]) == ("accepted", 14)


def test_a_bad_folder_is_rejected_with_1_place_and_remedy(run, folder, record, shard) -> None:
    (folder / "nested" / "train-00000-of-00001.tfrecord").write_bytes(shard([*map(record, range(8)), record(8)])[:-1])
    code, output = run(folder)
    assert code == 1
    assert "nested/train-00000-of-00001.tfrecord, record 8 at byte" in output
    assert "→ upload the shard again" in output
    assert "2 classes are inferred" in output
    assert "rejected" in output


def test_more_findings_than_shown_are_counted(run, folder, record, shard) -> None:
    (folder / "train-x.tfrecord").write_bytes(shard([record(seed, label=5) for seed in range(30)]))
    code, output = run(folder, "--labels", "daisy,roses")
    assert code == 1
    assert "and 20 more of label_out_of_range" in output


def test_labels_and_features_come_from_the_data_sets_configuration(run, folder) -> None:
    (folder / "garden.yaml").write_text(CONFIG)
    code, output = run(folder, "--config", folder / "garden.yaml")
    assert code == 1
    assert "there is no feature 'photo'" in output
    features = ("--image-feature", "image", "--label-feature", "class")
    assert run(folder, "--config", folder / "garden.yaml", *features)[0] == 0


def test_one_shard_can_be_named_and_missing_numbers_are_noted(run, tmp_path, record, shard) -> None:
    path = tmp_path / "train-00001-of-00003.tfrecord"
    path.write_bytes(shard(map(record, range(30))))
    code, output = run(path)
    assert code == 0
    assert "lacks 00000, 00002" in output


def test_a_held_out_shard_can_be_looked_at_alone(run, tmp_path, record, shard) -> None:
    path = tmp_path / "eval.tfrecord"
    path.write_bytes(shard(map(record, range(30))))
    code, output = run(path)
    assert code == 0, output
    assert "one shard alone" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing argument 'FOLDER'"),
        (["/no/such/folder"], "does not exist: name the folder"),
        (["gs://bucket/flowers"], "is in a bucket"),
        (["{empty}"], "holds no shards: only bad.yaml is there; names of shards end in .tfrecord"),
        (["{empty}", "--labels", "a,a"], "give each class name once"),
        (["{empty}", "--config", "/no/such.yaml"], "does not exist"),
        (["{empty}", "--config", "{bad}"], "labels"),
    ],
)
def test_what_cannot_be_used_ends_with_2_and_says_why(run, tmp_path, arguments, message) -> None:
    (tmp_path / "bad.yaml").write_text("dataset: garden")
    places = {"empty": tmp_path, "bad": tmp_path / "bad.yaml"}
    code, output = run(*(argument.format(**places) for argument in arguments))
    assert code == 2
    assert message in output


def test_brackets_in_names_are_printed_as_they_are(run, tmp_path, record, shard) -> None:
    (tmp_path / "[red]train.tfrecord").write_bytes(shard(map(record, range(30)))[:-1])
    code, output = run(tmp_path)
    assert code == 1
    assert "[red]train.tfrecord, record 29" in output


def test_features_and_names_are_guessed_and_the_yaml_that_fits_is_printed_and_fits(run, tmp_path, image, shard) -> None:
    names = ("rose", "tulip")
    records = [
        encode_example({"image/encoded": image(n), "image/class/text": names[n % 2], "image/height": 9})
        for n in range(40)
    ]
    folder = tmp_path / "My Birds"
    folder.mkdir()
    (folder / "train.tfrecord").write_bytes(shard(records))
    code, output = run(folder)
    assert code == 0, output
    assert "Features guessed from a record: picture 'image/encoded', label 'image/class/text'" in output
    written = tmp_path / "birds.yaml"
    written.write_text(output[output.index("dataset: my-birds") :].split("accepted")[0].split("\n\n")[0])
    code, output = run(folder, "--config", written)
    assert code == 0, output
    assert "YAML" not in output


@pytest.mark.parametrize("labels", [(), ("--labels", "a,b")])
@pytest.mark.parametrize("preset", ["flowers", "object-detection"])
@pytest.mark.parametrize("first", [0, 1])
def test_the_yaml_that_fits_counts_as_the_records_do(run, tmp_path, record, shard, *, first, preset, labels) -> None:
    classes = 2 if labels else 3
    made = [record(n, label=n % classes + first) for n in range(60)]
    if preset != "flowers":
        pictures = [(parse_example(each)["image"].values[0], n % classes + first) for n, each in enumerate(made)]
        made = [encode_example({"image/encoded": i, "image/object/class/label": c}) for i, c in pictures]
    (tmp_path / "train.tfrecord").write_bytes(shard(made))
    code, output = run(tmp_path, *labels)
    assert (code == 0) is (first == (preset != "flowers"))
    written = tmp_path / "fits.yaml"
    written.write_text(output[output.index("dataset: ") :].split("\n\n")[0])
    assert run(tmp_path, "--config", written)[0] == 0


def test_labels_that_count_from_one_are_told_by_the_yaml_that_fits(run, tmp_path, record, shard) -> None:
    (tmp_path / "train.tfrecord").write_bytes(shard(record(n, label=n % 3 + 1) for n in range(60)))
    code, output = run(tmp_path)
    assert code == 1
    assert "first_label: 1" in output
    assert run(tmp_path, "--first-label", "1", "--labels", "a,b,c")[0] == 0
    code, output = run(tmp_path, "--labels", "a,b,c")
    assert code == 1
    assert "if the labels count from 1, write data.first_label: 1" in output
    written = tmp_path / "fits.yaml"
    written.write_text(output[output.index("dataset: ") :].split("\n\n")[0])
    assert run(tmp_path, "--config", written)[0] == 0


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("labels.txt", "marguerite\nrose\n"),
        ("labels.txt", "\ufeff0 marguerite\r\n1 rose\r\n"),
        ("1.0.0/class.labels.txt", "marguerite\nrose\n"),
    ],
)
def test_labels_txt_names_the_classes_as_for_the_demo(run, folder, file: str, text: str) -> None:
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text(text)
    (folder / "superclass.labels.txt").write_text("plant\n")
    code, output = run(folder)
    assert code == 0
    assert "marguerite" in output
    assert f"Class names from {file.removeprefix('1.0.0/')}." in output

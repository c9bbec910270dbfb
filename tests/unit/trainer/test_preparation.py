"""From shards to what AutoML imports: each picture once, in one set, whatever attempts came before."""

from __future__ import annotations

import collections
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from dualdeploy.contracts import automl, golden
from dualdeploy.contracts.automl import ML_USE, Preparation, Prepared
from dualdeploy.errors import ServiceUnavailable
from dualdeploy.images.tfrecord import encode_example
from support.fakes import Failing, MemoryObjectStore
from support.training import jpeg, record
from trainer import __main__ as program
from trainer import preparation
from trainer.data.examples import Shard
from trainer.process import failures
from trainer.process.failures import UnusableData, UnusableJob
from trainer.process.storage import Patience

LABELS = ("daisy", "tulips")
RESULT = "automl/flowers/k1/prepared.json"


@pytest.fixture
def models() -> MemoryObjectStore:
    return MemoryObjectStore("models")


@pytest.fixture
def prepare(models: MemoryObjectStore, tmp_path: Path) -> Callable[..., Prepared]:
    def call(train: Sequence[Shard], held_out: Sequence[Shard] = (), **changes: Any) -> Prepared:
        order = {
            "run_id": "flowers-0123456789ab",
            "dataset": "flowers",
            "key": "k1",
            "labels": LABELS,
            "shards": {
                "train": [{"uri": str(each.path)} for each in train],
                "eval": [{"uri": str(each.path)} for each in held_out],
            },
            "directory": "gs://models/automl/flowers/k1",
            "result": f"gs://models/{RESULT}",
            **changes,
        }
        return preparation.run(
            Preparation.model_validate(order), work=tmp_path, patience=Patience(0.0), bucket_of=lambda _name: models
        )

    return call


@pytest.fixture
def shards(shard: Any) -> tuple[Shard, Shard]:
    """Forty pictures to learn from and ten that are held out, of both labels."""
    train = shard("train.tfrecord", [record(number, number % 2) for number in range(40)])
    return train, shard("eval.tfrecord", [record(100 + number, number % 2) for number in range(10)])


def lines(models: MemoryObjectStore, found: Prepared) -> list[dict[str, Any]]:
    texts = [models.read(each.removeprefix("gs://models/")).data.decode() for each in found.files]
    return [json.loads(line) for text in texts for line in text.splitlines()]


def sets(models: MemoryObjectStore, found: Prepared) -> dict[str, str]:
    """The set of each picture, by its URI."""
    return {each["imageGcsUri"]: each["dataItemResourceLabels"][ML_USE] for each in lines(models, found)}


def test_every_line_is_one_picture_with_its_label_and_its_set(
    models: MemoryObjectStore, prepare: Any, shards: Any
) -> None:
    train, held_out = shards
    found = prepare([train], [held_out])

    written = lines(models, found)
    assert found.pictures == len(written) == len({each["imageGcsUri"] for each in written}) == 50
    told = collections.Counter(
        (each["classificationAnnotation"]["displayName"], each["dataItemResourceLabels"][ML_USE]) for each in written
    )
    assert told == {(label, each): count for label, counts in found.sets.items() for each, count in counts.items()}
    assert [found.sets[label]["test"] for label in LABELS] == [5, 5]
    assert all(found.sets[label]["validation"] >= 1 and found.sets[label]["training"] >= 10 for label in LABELS)
    for number in (0, 100):
        data = jpeg(number)
        (uri,) = (each["imageGcsUri"] for each in written if models.read(_name(each["imageGcsUri"])).data == data)
        assert uri.endswith(".jpg")


def _name(uri: str) -> str:
    return uri.removeprefix("gs://models/")


def test_the_result_is_written_last_and_says_where_everything_is(
    models: MemoryObjectStore, prepare: Any, shards: Any
) -> None:
    written: list[str] = []
    put = models.put
    models.put = lambda name, data, **more: (written.append(name), put(name, data, **more))[1]  # type: ignore[method-assign]
    train, held_out = shards
    found = prepare([train], [held_out])

    assert written[-1] == RESULT
    assert automl.parse_prepared(models.read(RESULT).data, source="x") == found
    assert (found.split, found.skipped_records, found.duplicates, found.refusal) == ("named", 0, 0, "")
    assert models.read(_name(found.labels)).data == b"daisy\ntulips\n"
    pictures = golden.decode(models.read(_name(found.golden)).data, labels=LABELS, source="x")
    assert [each.label for each in pictures] == ["daisy"] * 5 + ["tulips"] * 5
    assert all(each.probabilities is None for each in pictures)
    assert {each.image for each in pictures} == {jpeg(100 + number) for number in range(10)}


def test_without_held_out_shards_the_checksum_decides_as_it_does_for_the_trainer(prepare: Any, shard: Any) -> None:
    found = prepare([shard("all.tfrecord", [record(number, number % 2) for number in range(120)])])

    assert found.split == "hash"
    assert 10 <= found.count("test") <= 40


def test_a_copy_is_one_picture_and_one_that_is_held_out_is_not_learned_from(
    models: MemoryObjectStore, prepare: Any, shard: Any, shards: Any
) -> None:
    train, held_out = shards
    copies = shard("train-more.tfrecord", [record(100, 0), record(1, 1), record(2, 1)])
    found = prepare([copies, train], [held_out])

    assert (found.pictures, found.duplicates, found.conflicting) == (50, 3, 1)
    (uri,) = (uri for uri in sets(models, found) if models.read(_name(uri)).data == jpeg(100))
    assert sets(models, found)[uri] == "test"


def test_each_label_has_a_picture_to_validate_with_however_few_there_are(prepare: Any, shard: Any) -> None:
    train = shard("train.tfrecord", [record(number, number % 2) for number in range(18)])
    held_out = shard("eval.tfrecord", [record(100 + number, number % 2) for number in range(2)])
    found = prepare([train], [held_out])

    assert all(min(found.sets[label][each] for each in ("training", "validation", "test")) >= 1 for label in LABELS)


@pytest.mark.parametrize("tenth", [0, 1, 2])
def test_each_label_has_a_picture_to_learn_from_wherever_its_pictures_belong(
    prepare: Any, shard: Any, tenth: int
) -> None:
    """Of two pictures of a label so many have a checksum by which they are for validation."""

    def is_tenth(number: int) -> bool:
        return int(hashlib.sha256(jpeg(number)).hexdigest(), 16) % automl.VALIDATION_ONE_IN == 0

    numbers = [each for each in range(130, 250) if is_tenth(each)][:tenth]
    numbers += [each for each in range(130, 250) if not is_tenth(each)][: 2 - tenth]
    train = [record(number, 0) for number in numbers] + [record(number, 1) for number in range(20)]
    held_out = [record(100 + number, number % 2) for number in range(20)]
    found = prepare([shard("train.tfrecord", train)], [shard("eval.tfrecord", held_out)])

    assert found.sets["daisy"] == {"training": 1, "validation": 1, "test": 10}


def test_a_set_does_not_depend_on_the_order_of_the_shards(models: MemoryObjectStore, prepare: Any, shard: Any) -> None:
    parts = [shard(f"{number}.tfrecord", [record(number * 20 + i, i % 2) for i in range(20)]) for number in range(4)]
    forwards = sets(models, prepare(parts))

    assert sets(models, prepare(parts[::-1])) == forwards


def test_an_attempt_after_another_one_writes_only_what_is_not_there(
    models: MemoryObjectStore, prepare: Any, shards: Any
) -> None:
    train, held_out = shards
    models.faults.plan("put", *(Failing(ServiceUnavailable("503")) for _ in range(1)))
    with pytest.raises(ServiceUnavailable):
        prepare([train], [held_out])
    first = prepare([train], [held_out])
    files = {name: models.read(name).generation for name in models.names() if "/images/" in name}
    assert len(files) == 50

    assert prepare([train], [held_out]) == first
    assert {name: models.read(name).generation for name in files} == files


def test_import_files_have_so_many_lines_each(
    models: MemoryObjectStore, prepare: Any, shards: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "LINES", 20)
    train, held_out = shards
    found = prepare([train], [held_out])

    assert [each.rsplit("/", 1)[1] for each in found.files] == [f"import-0000{n}.jsonl" for n in range(3)]
    assert len(lines(models, found)) == 50


@pytest.mark.parametrize(
    ("records", "says"),
    [
        (([record(n, 0) for n in range(20)], [record(100, 0)]), "tulips has 0 different pictures, AutoML wants 10"),
        (([record(n, n % 2) for n in range(18)], [record(100, 0)]), "tulips has 9 different pictures"),
        (([record(5, 0)] * 20 + [record(n, 1) for n in range(20)], [record(100, 1)]), "daisy has 1 different pictures"),
        (([record(n, n % 2) for n in range(40)], [record(100, 0)]), "tulips has no held-out picture"),
        (
            (
                [record(n, 0) for n in range(20)] + [record(50, 1)],
                [record(100 + n, 1) for n in range(20)] + [record(200, 0)],
            ),
            "tulips has too few pictures to learn from",
        ),
        (([encode_example({"image": b"GIF89a", "class": 0})] * 3, [record(100, 0)]), "3 of 4 records cannot be used"),
        (([encode_example({"image": jpeg(1)[:300], "class": 0})], [record(100, 0)]), "1 of 2 records cannot be used"),
    ],
)
def test_what_automl_would_refuse_is_told_in_the_result(
    records: tuple[list[bytes], list[bytes]], says: str, models: MemoryObjectStore, prepare: Any, shard: Any
) -> None:
    train, held_out = records
    with pytest.raises(UnusableData, match=says):
        prepare([shard("train.tfrecord", train)], [shard("eval.tfrecord", held_out)])

    told = automl.parse_prepared(models.read(RESULT).data, source="x")
    assert says in told.refusal
    assert told.files == ()


@pytest.mark.parametrize(
    ("limit", "says"), [("MOST_PICTURES", "at most 49 different pictures"), ("MOST_PICTURE_BYTES", "bytes; AutoML")]
)
def test_more_than_automl_takes_is_refused(
    limit: str, says: str, prepare: Any, shards: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(automl, limit, 49)
    train, held_out = shards
    with pytest.raises(UnusableData, match=says):
        prepare([train], [held_out])


def test_the_program_prepares_by_a_job_description(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = tmp_path / "job.json"
    job.write_text('{"v": 1}')

    assert program.main(["prepare-automl", "--job", str(job)]) == failures.EXIT_USER_ERROR
    assert program.main(["prepare-automl"]) == failures.EXIT_USER_ERROR
    with pytest.raises(UnusableJob, match="does not say what is to be prepared"):
        preparation.parse(job.read_bytes(), source="job.json")

"""Where pictures, labels and splits come from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shard_writer import sources
from shard_writer.sources import UnusableSource


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"picture")
    return folder


def found(images: Path, **more) -> list[tuple[str, str, str | None]]:
    return [(each.name, each.label, each.side) for each in sources.read(images, **more).pictures]


def test_folders_are_classes(tmp_path: Path) -> None:
    fill(tmp_path, "roses/1.jpg", "roses/deep/2.JPEG", "tulips/x.png", "tulips/.hidden.png", "__MACOSX/roses/._1.jpg")
    fill(tmp_path, "tulips/notes.txt", "alone.png")
    source = sources.read(tmp_path)

    assert [(each.name, each.label, each.side) for each in source.pictures] == [
        ("roses/1.jpg", "roses", None),
        ("roses/deep/2.JPEG", "roses", None),
        ("tulips/x.png", "tulips", None),
    ]
    assert source.labels == ["roses", "tulips"]
    assert source.passed_over == ["alone.png", "tulips/notes.txt"]


@pytest.mark.parametrize(("train", "held_out"), [("train", "val"), ("Training", "test"), ("train", "validation")])
def test_folders_above_the_classes_may_name_the_split(tmp_path: Path, train: str, held_out: str) -> None:
    fill(tmp_path, f"{train}/roses/1.jpg", f"{train}/tulips/2.jpg", f"{held_out}/roses/3.jpg")

    assert [side for _, _, side in found(tmp_path)] == [
        "train" if name.startswith(train) else "eval" for name, _, _ in found(tmp_path)
    ]
    assert {label for _, label, _ in found(tmp_path)} == {"roses", "tulips"}


CSV = {
    "header": "path,label\na.jpg,roses\nb.jpg,tulips\n",
    "other names": "image_path;class\na.jpg;roses\nb.jpg;tulips\n",
    "more columns": "id,file_name,width,label\n1,a.jpg,9,roses\n2,b.jpg,9,tulips\n",
    "no header": "a.jpg,roses\nb.jpg,tulips\n",
    "names that no one knows": "image_id,breed\na.jpg,roses\nb.jpg,tulips\n",
    "tabs": "filename\tlabel\na.jpg\troses\nb.jpg\ttulips\n",
    "byte order mark, blank lines": "\ufeffpath,label\n\na.jpg,roses\n\nb.jpg,tulips\n",
}


@pytest.mark.parametrize("text", CSV.values(), ids=CSV)
def test_a_csv_lists_pictures_and_labels(tmp_path: Path, text: str) -> None:
    fill(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "list.csv").write_text(text, encoding="utf-8")

    assert found(tmp_path / "list.csv") == [("a.jpg", "roses", None), ("b.jpg", "tulips", None)]


@pytest.mark.parametrize(
    "text",
    [
        "path,label,split\na.jpg,roses,train\nb.jpg,tulips,test\n",
        "training,a.jpg,roses\ntest,b.jpg,tulips\n",
        "TRAINING,a.jpg,roses\nVALIDATION,b.jpg,tulips\n",
        "a.jpg,roses,train\nb.jpg,tulips,validation\n",
    ],
)
def test_a_csv_may_name_the_split(tmp_path: Path, text: str) -> None:
    fill(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "list.csv").write_text(text)

    assert [side for _, _, side in found(tmp_path / "list.csv")] == ["train", "eval"]


@pytest.mark.parametrize(
    "rows",
    [
        [{"file_name": "a.jpg", "label": "roses"}, {"file_name": "b.jpg", "label": "tulips"}],
        [{"Image": "a.jpg", "Class": "roses", "boxes": [1]}, {"Image": "b.jpg", "Class": "tulips"}],
        [
            {"imageGcsUri": "a.jpg", "classificationAnnotation": {"displayName": "roses"}},
            {"imageGcsUri": "b.jpg", "classificationAnnotation": {"displayName": "tulips"}},
        ],
    ],
)
def test_json_lines_list_pictures_and_labels(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    fill(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))

    assert found(tmp_path / "list.jsonl") == [("a.jpg", "roses", None), ("b.jpg", "tulips", None)]


@pytest.mark.parametrize(
    "text",
    [
        '[{"path": "a.jpg", "label": "roses"}, {"path": "b.jpg", "label": "tulips"}]',
        '{"path": "a.jpg", "label": "roses\u2028"}\n{"path": "b.jpg", "label": "tulips"}',
        '\ufeff{"path": "a.jpg", "label": "roses"}\r\n\r\n{"path": "b.jpg", "label": "tulips"}\r\n',
    ],
    ids=["one list", "other line breaks", "Windows"],
)
def test_json_is_read_as_programs_write_it(tmp_path: Path, text: str) -> None:
    fill(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "list.json").write_text(text, encoding="utf-8", newline="")
    assert found(tmp_path / "list.json") == [("a.jpg", "roses", None), ("b.jpg", "tulips", None)]


def test_what_is_not_a_picture_of_a_class_is_ignored_by_name(tmp_path: Path) -> None:
    fill(tmp_path, "train/roses/1.jpg", "train/tulips/2.jpg", "test/3.jpg", "train/roses/Thumbs.db")
    (tmp_path / "train" / "roses" / "away.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "train" / "roses" / "folder.jpg").mkdir()
    source = sources.read(tmp_path)
    assert [picture.name for picture in source.pictures] == ["train/roses/1.jpg", "train/tulips/2.jpg"]
    assert source.passed_over == ["test/3.jpg", "train/roses/Thumbs.db", "train/roses/away.jpg"]


def test_a_class_that_looks_hidden_does_not_vanish_without_a_word(tmp_path: Path) -> None:
    fill(tmp_path, "cats/1.jpg", "dogs/2.jpg", "_others/3.jpg", "__MACOSX/cats/._1.jpg", ".thumbs/1.jpg")
    assert sources.read(tmp_path).passed_over == ["_others/3.jpg"]


def test_a_list_may_be_written_on_windows(tmp_path: Path) -> None:
    fill(tmp_path, "x/a.jpg", "x/b.jpg")
    (tmp_path / "list.csv").write_text("path,label\nx\\a.jpg,roses\nx\\b.jpg,tulips\n", newline="\r\n")

    assert found(tmp_path / "list.csv") == [("x/a.jpg", "roses", None), ("x/b.jpg", "tulips", None)]


def test_a_split_that_a_list_leaves_open_is_none(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "list.csv").write_text("UNASSIGNED,a.jpg,roses\nUNASSIGNED,b.jpg,tulips\n")

    assert found(tmp_path / "list.csv") == [("a.jpg", "roses", None), ("b.jpg", "tulips", None)]


def test_classes_that_are_numbers_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{number}/a.jpg" for number in (0, 2, 10, 9)))

    assert sources.read(tmp_path).labels == ["0", "2", "9", "10"]


def test_the_order_of_classes_is_the_alphabet_or_a_list(tmp_path: Path) -> None:
    fill(tmp_path, "b/1.jpg", "a/2.jpg")
    assert sources.read(tmp_path).labels == ["a", "b"]
    assert sources.read(tmp_path, labels=["b", "a", "c"]).labels == ["b", "a", "c"]
    (tmp_path / "labels.txt").write_text("b\na\n")
    assert sources.read(tmp_path).labels == ["b", "a"]


@pytest.mark.parametrize(
    ("names", "text", "says"),
    [
        (["alone.jpg"], None, "holds no pictures in folders"),
        (["roses/1.jpg"], None, "a classifier needs two classes"),
        (["train/1.jpg", "test/2.jpg"], None, "has folders of a split, and no folders of classes in them"),
        (["train/a/1.jpg", "b/2.jpg"], None, "some folders name a split"),
        (["a.jpg"], "", "is empty"),
        (["a.jpg"], "a.jpg,x,y,z\n", "needs a first line that names its columns"),
        (["a.jpg"], "path,label\na.jpg,\n", "row 2 has no label (it has path, label)"),
        (["a.jpg"], "path,label\nb.jpg,x\n", "b.jpg does not exist"),
        (["a.jpg"], "image_id,breed\nb,x\n", "image_id does not exist"),
        (["a.jpg"], "path,label\ngs://x/a.jpg,x\n", "is not on this machine"),
        (["a.jpg"], "path,label,split\na.jpg,x,week 3\n", "'week 3' is not a split"),
        (["a.jpg"], "path,label\na.jpg,x\na.jpg,y\n", "lists pictures twice: a.jpg"),
        (["a.jpg"], "path,label\n", "list.csv lists no pictures"),
        (["a.jpg"], "path,label\na.jpg,rösen\n".encode("latin-1"), "list.csv is not text in UTF-8"),
        (["a.jpg"], "path,label\na.jpg,x\n".encode("utf-16"), "list.csv is not text in UTF-8"),
        (["a.jpg"], "path,label\na.jpg," + "x" * 200_000 + "\n", "list.csv is not a list of comma-separated values"),
        (["a.jpg", "b.jpg"], 'path,label\na.jpg,"x\ny"\nb.jpg,z\n', "a label is empty or has a line break: 'x\\ny'"),
        (["flowers/roses/1.jpg", "flowers/tulips/2.jpg"], None, "name the folder that holds the class folders"),
    ],
)
def test_what_cannot_be_used_is_told(tmp_path: Path, names: list[str], text: str | bytes | None, says: str) -> None:
    fill(tmp_path, *names)
    if text is not None:
        (tmp_path / "list.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UnusableSource) as caught:
        sources.read(tmp_path if text is None else tmp_path / "list.csv")
    assert says in str(caught.value)


def test_a_source_that_is_not_there_and_labels_that_are_not_listed_are_told(tmp_path: Path) -> None:
    with pytest.raises(UnusableSource, match="does not exist"):
        sources.read(tmp_path / "absent")
    fill(tmp_path, "a/1.jpg", "b/2.jpg")
    with pytest.raises(UnusableSource, match="labels that the list of labels lacks: b"):
        sources.read(tmp_path, labels=["a", "c"])

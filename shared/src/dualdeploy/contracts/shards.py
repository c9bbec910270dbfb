"""Which objects of a data set are shards, what the others are, and when a set of shards is whole."""

from __future__ import annotations

import dataclasses
import enum
import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence

from dualdeploy.contracts import split
from dualdeploy.contracts.split import BY_NAMES, SplitRule

#: TFRecord file names in the wild: `train-00003-of-00016.tfrecord`, `.tfrecords`, `.tfrec` (the public flowers data
#: set: `flowers00-230.tfrec`), each perhaps with `.gz`; TensorFlow Datasets write `flowers.tfrecord-00000-of-00004`.
_SHARD = re.compile(r"\.(tfrecords?|tfrec)([-_. ]\d+[-_ ]?of[-_ ]?\d+)?(\.gz)?$", re.IGNORECASE)
#: `-00003-of-00016`, `_3_of_16`, `.3of16`. Only the base name counts, and the last in it: a folder may be called
#: `batch-1-of-2`.
_NUMBERED = re.compile(
    r"(?P<stem>(.*/)?[^/]*)(?P<before>[-_. ])(?P<index>0*\d{1,6})"
    r"(?P<gap>[-_ ]?)of(?P=gap)(?P<count>0*\d{1,6})(?!\d)(?P<rest>[^/]*)",
    re.DOTALL,
)

#: What some writers give each shard of its own, behind its number: a digest, or a UUID.
_OWN_DIGEST = re.compile(
    r"[-_.](?=[-0-9a-f]*[a-f])(?=[-0-9a-f]*[0-9])[0-9a-f]{8,}(-[0-9a-f]{4,})*(?![0-9a-z])", re.IGNORECASE
)

#: An empty object of this name says "the batch is complete" (Hadoop and Spark write it last).
SUCCESS_MARKER = "_SUCCESS"

#: Folders of writers that are at work: Hadoop's and Spark's, Beam's in Python and Java, TensorFlow Datasets'.
_UNFINISHED = re.compile(r"_temporary|\.spark-staging|beam-temp-|\.?temp-beam|incomplete\.|.*\.incomplete")
#: These and what systems hide: macOS' `._x` and `__MACOSX`, checksums and statistics of Hadoop's relatives.
_HIDDEN = re.compile(rf"[._]|{_UNFINISHED.pattern}")

#: Pieces of an object that gcloud and gsutil upload side by side; they lie at the top of the bucket until it is whole.
_PIECES = re.compile(r"(gcloud|gsutil)/tmp/parallel_composite_uploads/")

#: What lies beside shards and is not data: notes, lists, checksums, folders made by hand.
_COMPANION = re.compile(
    r"(.*/|.*_\$folder\$|(.*/)?(README|LICENSE)|.*\.(txt|md|rst|json|jsonl|ya?ml|csv|tsv|pbtxt|xml|html?|pdf|log|py|ipynb|sh"
    r"|crc|crc32c|md5|sha1|sha256|sums?))",
    re.IGNORECASE | re.DOTALL,
)
_PICTURE = re.compile(r".*\.(jpe?g|png|gif|webp|bmp|tiff?|heic|avif)", re.IGNORECASE | re.DOTALL)
_OTHER_COMPRESSION = re.compile(r".*\.(zz|zlib|deflate|snappy|zstd?|bz2|lz4|xz)", re.IGNORECASE | re.DOTALL)

_NUMBER = re.compile(r"([0-9]+)")

_NAMED = 3


class Kind(enum.Enum):
    """What an object is, judged by its name."""

    SHARD = "shard"
    MARKER = "marker"
    HIDDEN = "hidden"
    COMPANION = "companion"
    UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True)
class ShardNames:
    """Which names below `prefix` are shards: those that a pattern takes, or without patterns those of TFRecord files.

    A pattern without a slash is matched with the name alone, one with a slash with the whole path below the prefix,
    where `*` takes slashes: as in `data.split`.
    """

    prefix: str = ""
    patterns: tuple[str, ...] = ()

    def kind(self, name: str) -> Kind:
        """What the object `name` is; what is hidden is nothing else, whatever a pattern says."""
        path = name.removeprefix(self.prefix)
        *folders, base = path.split("/")
        if any(map(_HIDDEN.match, folders)):
            return Kind.HIDDEN
        if base == SUCCESS_MARKER:
            return Kind.MARKER
        if _HIDDEN.match(base):
            return Kind.HIDDEN
        if self._takes(path, base):
            return Kind.SHARD
        return Kind.COMPANION if _COMPANION.fullmatch(path) else Kind.UNKNOWN

    def _takes(self, path: str, base: str) -> bool:
        if not self.patterns:
            return _SHARD.search(base) is not None
        return any(fnmatch.fnmatchcase(path if "/" in pattern else base, pattern) for pattern in self.patterns)


@dataclasses.dataclass(frozen=True)
class PassedOver:
    """The objects of a listing that are no part of the data, by name; `patterns` are what `data.shards` takes."""

    unknown: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    companions: tuple[str, ...] = ()
    markers: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self.unknown or self.hidden or self.companions or self.markers)

    def sentence(self) -> str:
        """`3 objects are not shards by their names: a, b and 1 more; …`; empty when every object is understood."""
        if not self.unknown:
            return ""
        are = "object is not a shard by its name" if len(self.unknown) == 1 else "objects are not shards by their names"
        return f"{len(self.unknown)} {are}: {_some(self.unknown)}; {_advice(self.unknown, self.patterns)}"

    def why_no_shards(self) -> str:
        """What there is instead of shards, and what to do."""
        if self.unknown:
            return self.sentence()
        if self.hidden:
            return (
                f"only hidden or unfinished objects are there: {_some(self.hidden)}; what begins with _ or . or"
                " beam-temp- is ignored: writers rename it when they are done"
            )
        if self.companions:
            return f"only {_some(self.companions)} is there; {_advice((), self.patterns)}"
        if self.markers:
            return f"only {_some(self.markers)} is there, without the shards that it speaks for: upload these below it"
        return "nothing is there"


def pass_over(names: Iterable[str], rule: ShardNames) -> PassedOver:
    """Sort out what `rule` does not take; folders that were made by hand are nothing."""
    found: dict[Kind, list[str]] = {kind: [] for kind in Kind}
    for name in names:
        if not name.endswith("/"):
            found[rule.kind(name)].append(name)
    return PassedOver(
        unknown=tuple(found[Kind.UNKNOWN]),
        hidden=tuple(found[Kind.HIDDEN]),
        companions=tuple(found[Kind.COMPANION]),
        markers=tuple(found[Kind.MARKER]),
        patterns=rule.patterns,
    )


def of_last_folders(names: Sequence[str], count: int | None, *, prefix: str = "") -> list[str]:
    """What `data.snapshot` takes of the shards: all, or those of the last folders directly under the prefix."""
    if count is None:
        return list(names)
    folders = {folder for name in names if (folder := _folder(name, prefix))}
    # Without any folder, what lies directly under the prefix is the one version there is.
    last = set(sorted(folders, key=natural_order)[-count:]) or {""}
    return [name for name in names if _folder(name, prefix) in last]


def natural_order(name: str) -> tuple[tuple[str | int, ...], str]:
    """A key that compares the numbers in names as numbers: `span-9` before `span-10`, `2026-2` before `2026-11`."""
    # Texts and numbers take turns, a text first, so that like is compared with like.
    parts = _NUMBER.split(name)
    return tuple(int(part) if index % 2 else part for index, part in enumerate(parts)), name


def _folder(name: str, prefix: str) -> str:
    """The folder directly under the prefix that `name` lies in, however deep; empty for none."""
    folder, slash, _ = name.removeprefix(prefix).partition("/")
    return folder if slash else ""


def is_of_a_writer_at_work(name: str) -> bool:
    """Whether the object lies in a folder that its writer removes when it is done."""
    return any(map(_UNFINISHED.match, name.split("/")))


def is_never_data(name: str) -> bool:
    """Whether `name`, in a whole bucket, is a folder made by hand, or of a writer or client that will remove it."""
    return name.endswith("/") or any(each.match(name) for each in (_PIECES, _UNFINISHED))


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _advice(names: Sequence[str], patterns: Sequence[str]) -> str:
    if patterns:
        return (
            f"data.shards takes {', '.join(patterns)} below data.prefix and nothing else: add a pattern for what is"
            " meant as data"
        )
    if names and all(map(_PICTURE.fullmatch, names)):
        return "pictures are not read one by one: `make shards` turns a folder of them into shards"
    if names and all(map(_OTHER_COMPRESSION.fullmatch, names)):
        return "of compressed shards only gzip is read: write them again with GZIP, or without compression"
    return (
        "names of shards end in .tfrecord, .tfrecords or .tfrec, perhaps with -00003-of-00016 and .gz; other names are"
        " taken when the configuration says so, such as data.shards: 'train-*'"
    )


@dataclasses.dataclass(frozen=True)
class NumberedShard:
    """One of a `-SSSSS-of-NNNNN` or `_S_of_N` set, counted from 0 or from 1; `set_name` is the same for all of them."""

    set_name: str
    index: int
    count: int


def is_shard(name: str) -> bool:
    """Whether the object `name` holds TFRecords, judged by its name alone: the rule of a data set may take others."""
    return ShardNames().kind(name) is Kind.SHARD


def numbered(name: str) -> NumberedShard | None:
    """The place of the shard `name` in its `-SSSSS-of-NNNNN` set, or None when its name gives none."""
    match = _NUMBERED.fullmatch(name)
    if match is None:
        return None
    count, index = int(match["count"]), int(match["index"])
    if count == 0 or index > count:
        return None
    rest = _OWN_DIGEST.sub("", match["rest"])
    set_name = f"{match['stem']}{match['before']}of{match['gap']}{match['count']}{rest}"
    return NumberedShard(set_name, index, count)


@dataclasses.dataclass(frozen=True)
class ShardSet:
    """The numbers that are there of a set of `count` shards."""

    count: int
    indices: frozenset[int]

    @property
    def counts_from_both(self) -> bool:
        """Whether 0 and `count` are there: two numberings in one set, so one of them was left by another writer."""
        return {0, self.count} <= self.indices

    @property
    def missing(self) -> list[int]:
        """The numbers to wait for; counted from 0 as long as neither 0 nor the last of a count from 1 is there."""
        first = 1 if self.count in self.indices and 0 not in self.indices else 0
        return sorted(set(range(first, first + self.count)) - self.indices)


def sets_of(names: Iterable[str]) -> dict[str, ShardSet]:
    """The numbered sets among the names of shards, by the name of each set."""
    seen: dict[str, tuple[int, set[int]]] = {}
    for name in names:
        if shard := numbered(name):
            seen.setdefault(shard.set_name, (shard.count, set()))[1].add(shard.index)
    return {name: ShardSet(count, frozenset(indices)) for name, (count, indices) in seen.items()}


def missing_from_sets(names: Iterable[str]) -> Mapping[str, list[int]]:
    """For every numbered set among `names` that is not whole: the numbers that are missing."""
    return {name: missing for name, each in sets_of(names).items() if (missing := each.missing)}


def why_incomplete(names: Iterable[str]) -> str:
    """`train-of-00016.tfrecord lacks 00003: upload …`; empty when every numbered set among the shards is whole."""
    faults = []
    for set_name, each in sorted(sets_of(names).items()):
        if each.counts_from_both:
            faults.append(
                f"{set_name} has both 00000 and {each.count:05d}, so two numberings are mixed: remove the shards of one"
            )
        elif missing := each.missing:
            shown = ", ".join(f"{index:05d}" for index in missing[:5])
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            either = f" (or {each.count:05d}, if counted from 1)" if 0 in missing and each.count > 1 else ""
            faults.append(
                f"{set_name} lacks {shown}{either}{more}: upload what is missing, or remove the rest of the set"
            )
    return f"the data is not complete: {'; '.join(faults)}" if faults else ""


def is_whole(names: Iterable[str], *, prefix: str = "", rule: SplitRule = BY_NAMES) -> bool:
    """Whether the names alone prove that a batch is complete.

    Every shard belongs to a numbered set, every set is whole, and both kinds (training and held out) are there.
    Without held-out shards nothing proves that none are still coming: then the quiet period decides.
    """
    shard_names = list(names)
    if not shard_names or any(numbered(name) is None for name in shard_names):
        return False
    found = split.divide(shard_names, prefix=prefix, rule=rule)
    return bool(found.train and found.eval) and not found.faults and not why_incomplete(shard_names)

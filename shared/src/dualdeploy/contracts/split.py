"""Which shards and which pictures are held out for evaluation: the one rule of validation, trainer and publisher.

By default folders and file names decide, by whole words that people use (`val/`, `flowers-test.tfrecord`). Where none
of them names a held-out shard, one picture in five is held out by a checksum of its own bytes; a feature of the record
(`data.features.split`) overrules that for its record. `data.split` replaces the names by patterns, or by the checksum.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import google_crc32c
import pydantic

Side = Literal["train", "eval"]

#: Without held-out shards one picture in five is held out, chosen by its own bytes: the choice survives reshuffled
#: shards and more data, and two copies of a picture are never on both sides.
HELD_OUT_ONE_IN = 5

_TRAIN_WORDS = frozenset({"train", "training", "trainval"})
_EVAL_WORDS = frozenset(
    {"eval", "evaluation", "val", "valid", "validation", "minival", "dev"}
    | {"test", "tests", "testing", "holdout", "heldout"}
)
_SIDES: Mapping[str, Side] = {**dict.fromkeys(_TRAIN_WORDS, "train"), **dict.fromkeys(_EVAL_WORDS, "eval")}

#: Words that may stand beside a split's word without making the name one of something else: `split=test`, `val_set`.
_NEUTRAL = frozenset(
    {"of", "and", "plus", "the", "my", "all", "set", "sets", "data", "dataset", "datasets", "split", "splits", "subset"}
    | {"partition", "usage", "phase", "mode", "part", "shard", "shards", "record", "records", "tfrecord", "tfrecords"}
    | {"tfrec", "tf", "gz", "image", "images", "img", "imgs", "picture", "pictures", "photos", "file", "files", "x"}
)
#: `train_no_minival`, `all_but_test`: the split's word behind one of these is what the name leaves out.
_LEAVES_OUT = frozenset({"no", "not", "non", "without", "minus", "except", "excluding", "but"})
#: `valset`, `traindata`: a split's word that another word was written onto.
_WRITTEN_ONTO = re.compile(r"(?P<word>[a-z]+?)(set|sets|data|split|images)")
#: Two words that are one: the first two name a split, cross validation none.
_PAIRS = {("hold", "out"): "holdout", ("held", "out"): "heldout"} | {
    ("cross", word): "crossvalidation" for word in ("val", "validation", "validated")
}

#: What people also call a split: taken for none, and said so. Where `invalid` stands, `valid` may be no split either.
_LOOKS_LIKE_A_SPLIT = re.compile(
    r"(train|test|eval|evaluat|validat|val|valid|dev)(s|a|b|e|ed)?|tr|te|va|trn|tst|vld|vali|invalid|devel|develop|development"
    r"|unseen|unlabell?ed|oos|quiz|query|gallery|holdback|heldback|benchmark|inference|predict|predictions?|submission|scoring"
    # German, French, Spanish, Portuguese, Italian; Russian, Chinese, Japanese and Korean.
    r"|validierung|testdaten|entra[iî]nement|apprentissage|entrenamiento|validaci[oó]n|pruebas?|treino|teste|valida[cç][aã]o"
    r"|addestramento|validazione|обучение|проверка|валидация|тест|训练集?|测试集?|验证集?|訓練|学習|評価|検証|テスト|훈련|검증|평가"
)
_LETTERS = re.compile(r"[^\W\d_]+")
_CAMEL = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")

_SAY_WHICH = "name the held-out shards as data.split: {eval: 'pattern'}, or write data.split: hash"
_SILENT = "nothing in the name says a split"
_NAMED = 4


class SplitRule(pydantic.BaseModel):
    """`data.split`: `names`, `hash`, or patterns of the names (below the prefix) of the shards that are held out.

    A pattern without a slash is matched with the name alone, one with a slash with the whole path; `*` takes slashes.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    by: Literal["names", "hash"] = "names"
    eval: tuple[str, ...] = ()

    @pydantic.model_validator(mode="before")
    @classmethod
    def _a_word_or_a_pattern_is_enough(cls, value: Any) -> Any:
        if isinstance(value, str):
            if value not in ("names", "hash"):
                raise ValueError("must be names, hash, or {eval: 'pattern'} such as {eval: 'val/*'}")
            return {"by": value}
        if isinstance(value, Mapping) and isinstance(value.get("eval"), str):
            return {**value, "eval": (value["eval"],)}
        return value

    @pydantic.model_validator(mode="after")
    def _is_one_rule(self) -> SplitRule:
        if self.by == "hash" and self.eval:
            raise ValueError("hash holds out no shards: leave eval out")
        if any(not pattern.strip() for pattern in self.eval):
            raise ValueError("eval has an empty pattern")
        return self


BY_NAMES = SplitRule()


def rule_of(config: Mapping[str, Any]) -> SplitRule:
    """The rule in a run's own copy of its configuration; those of older runs have none."""
    return SplitRule.model_validate(config.get("data", {}).get("split", BY_NAMES))


class Problem(NamedTuple):
    """What stands against training with this split, or what its owner may have meant otherwise; and what to do."""

    message: str
    remedy: str


@dataclasses.dataclass(frozen=True)
class Split:
    """The shards of each side in their order, and for each shard why.

    Without `eval` shards the checksum of each picture decides. `faults` must be mended before anything is spent;
    `doubts` are names that look like a split and were not taken for one.
    """

    train: tuple[str, ...]
    eval: tuple[str, ...]
    reasons: Mapping[str, str]
    faults: tuple[Problem, ...] = ()
    doubts: tuple[Problem, ...] = ()

    @property
    def by_hash(self) -> bool:
        return not self.eval

    def side(self, name: str) -> Side:
        return "eval" if name in self._held_out else "train"

    def describe(self) -> str:
        """One sentence for the report of a run: which shards are held out, and why."""
        if self.by_hash:
            return f"No shard is held out ({self._why(self.train)})"
        return (
            f"Held out: {len(self.eval)} of {len(self.reasons)} shards ({self._why(self.eval)}). "
            f"Trained on: {len(self.train)} ({self._why(self.train)})"
        )

    def _why(self, names: Sequence[str]) -> str:
        counts = Counter(self.reasons[name] for name in names)
        listed = [f"{count} {reason}" for reason, count in counts.most_common(_NAMED)]
        more = sum(counts.values()) - sum(count for _, count in counts.most_common(_NAMED))
        return "; ".join(listed + ([f"{more} for other reasons of the kind"] if more else [])) or "none"

    @functools.cached_property
    def _held_out(self) -> frozenset[str]:
        return frozenset(self.eval)


def divide(names: Iterable[str], *, prefix: str = "", rule: SplitRule = BY_NAMES) -> Split:
    """Divide the shards of a data set; `names` are object names that begin with `prefix`, or paths below a folder."""
    ordered = list(dict.fromkeys(names))
    below = {name: name.removeprefix(prefix) for name in ordered}
    if rule.by == "hash":
        return Split(tuple(ordered), (), dict.fromkeys(ordered, "by data.split: hash"))
    said = _by_patterns(below, rule.eval) if rule.eval else _by_names(below)
    if all(each.side == "eval" and each.inside for each in said.values()):
        # `crash-test-dummies-0001` and nothing else: a word that is part of the data set's name.
        said = dict.fromkeys(said, _Said(None, _SILENT))
    train = tuple(name for name in ordered if said[name].side != "eval")
    held_out = tuple(name for name in ordered if said[name].side == "eval")
    faults = [found.fault for found in said.values() if found.fault][:1]
    if not faults and rule.eval and ordered and not held_out:
        listed = ", ".join(rule.eval)
        remedy = "correct the pattern (it is held against names below data.prefix), or remove it"
        faults.append(Problem(f"no shard matches data.split.eval ({listed})", remedy))
    if not faults and held_out and not train:
        faults.append(_all_held_out(held_out, said))
    doubts = () if rule.eval else _doubts(below, said)
    return Split(train, held_out, {name: said[name].reason for name in ordered}, tuple(faults), doubts)


def is_held_out(image: bytes) -> bool:
    """Whether a picture is held out where no shard is."""
    return bool(held_out_by_checksum(int(google_crc32c.value(image))))


def held_out_by_checksum(checksum: Any) -> Any:
    """The same for the CRC32C of a picture's bytes, one or an array of them."""
    return checksum % HELD_OUT_ONE_IN == 0


def side_of_word(text: str) -> Side | None:
    """The side that a record's own feature names: one word of those that names are read for; None for any other."""
    words = _words(text)
    sides = {_SIDES[word] for word in words if word in _SIDES}
    return sides.pop() if len(sides) == 1 and all(word in _SIDES or word in _NEUTRAL for word in words) else None


# Names ---------------------------------------------------------------------------------------------------------


class _Said(NamedTuple):
    """What is known of one shard; no side where nothing says one. `inside`: by a word in the middle of its name."""

    side: Side | None
    reason: str
    fault: Problem | None = None
    inside: bool = False


class _Evidence(NamedTuple):
    """What one part of a path says: `exact` when it is a split's name and nothing else, `inside` with words around."""

    sides: frozenset[Side]
    word: str
    part: str
    exact: bool = False
    inside: bool = False

    def reason(self) -> str:
        return f"by {self.part}" if self.exact else f"by the word {self.word!r} in {self.part}"


def _by_patterns(below: Mapping[str, str], patterns: Sequence[str]) -> dict[str, _Said]:
    said = {}
    for name, path in below.items():
        matched = next((pattern for pattern in patterns if _matches(path, pattern)), None)
        said[name] = (
            _Said("eval", f"by data.split.eval {matched!r}") if matched else _Said("train", "not in data.split.eval")
        )
    return said


def _matches(path: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(path if "/" in pattern else path.rsplit("/", 1)[-1], pattern)


def _by_names(below: Mapping[str, str]) -> dict[str, _Said]:
    folders = [path.split("/")[:-1] for path in below.values()]
    common = _common(folders)
    return {name: _judge(path, common) for name, path in below.items()}


def _common(folders: Sequence[Sequence[str]]) -> int:
    """How many folders all shards lie in: these tell no shard from another."""
    count = 0
    for parts in zip(*folders, strict=False):
        if len(set(parts)) > 1:
            break
        count += 1
    return count


def _judge(path: str, common: int) -> _Said:
    *folders, base = path.split("/")
    found = [_evidence(folder, f"folder {folder}/") for folder in folders]
    # What all shards lie in (`dev/train-0`, `dev/val-0`) is only heard where nothing else in the path says a side.
    own = [each for each in (*found[common:], _evidence(base, _name_pattern(base))) if each]
    heard = own or [each for each in found[:common] if each]
    heard = [each for each in heard if each.exact] or heard
    sides = frozenset().union(*(each.sides for each in heard)) if heard else frozenset()
    if len(sides) > 1:
        says = " and ".join(dict.fromkeys(f"{each.part} ({each.word})" for each in heard))
        return _Said(None, "unclear", Problem(f"{path} says both, training and held out: {says}", _SAY_WHICH))
    if not sides:
        return _Said(None, f"in folder {folders[common]}/, which names no split" if folders[common:] else _SILENT)
    [side] = sides
    return _Said(side, heard[0].reason(), inside=all(each.inside for each in heard))


def _name_pattern(base: str) -> str:
    """The file's name with its numbers left out, so that a thousand shards are held out for one reason."""
    return re.sub(r"\d+", "*", base)


def _evidence(part: str, shown: str) -> _Evidence | None:
    words = _words(part)
    telling = [word for word in words if word in _SIDES]
    if not telling:
        return None
    if all(word in _SIDES or word in _NEUTRAL for word in words):
        return _Evidence(frozenset(_SIDES[word] for word in telling), "-".join(telling), shown, exact=True)
    # `crash-test-dummies-train`: writers put the split last, before the number.
    names = [word for word in words if word not in _NEUTRAL]
    inside = telling[-1] not in (names[0], names[-1])
    return _Evidence(frozenset({_SIDES[telling[-1]]}), telling[-1], shown, inside=inside)


def _words(text: str) -> list[str]:
    """The words of a name in lower case, without numbers; what only describes a splitting is left out."""
    return _words_between_numbers(_name_pattern(text))


@functools.lru_cache(maxsize=1024)
def _words_between_numbers(text: str) -> list[str]:
    # A thousand numbered shards have one name in here.
    joined: list[str] = []
    for word in (word for token in _LETTERS.findall(text) for word in _of_token(token)):
        pair = _PAIRS.get((joined[-1], word)) if joined else None
        if pair:
            joined[-1] = pair
        else:
            joined.append(word)
    return _without_phrases(joined)


def _of_token(token: str) -> list[str]:
    """The words in letters without a gap: one, or several in camel case; `TESTset` is the test set."""
    whole = token.lower()
    onto = _WRITTEN_ONTO.fullmatch(whole)
    if onto and onto["word"] in _SIDES:
        return [onto["word"]]
    if whole in _SIDES or not token.isascii():
        return [whole]
    return [word.lower() for word in _CAMEL.findall(token)]


def _without_phrases(words: list[str]) -> list[str]:
    """Leave out `train-test-split`: both sides in a row before `split` name the act, not a side; and `no-test`."""
    kept: list[str] = []
    for word in words:
        if word in _SIDES and kept and kept[-1] in _LEAVES_OUT:
            kept.pop()
            continue
        if word in ("split", "splits"):
            row = len(kept)
            while row and kept[row - 1] in _SIDES:
                row -= 1
            if len({_SIDES[each] for each in kept[row:]}) > 1:
                del kept[row:]
                continue
        kept.append(word)
    return kept


def _all_held_out(held_out: Sequence[str], said: Mapping[str, _Said]) -> Problem:
    reason = said[held_out[0]].reason
    message = f"all {len(held_out)} shards are held out, so there is nothing to train on ({held_out[0]}: {reason})"
    return Problem(message, f"upload the training shards; or, if that is not a split, {_SAY_WHICH}")


def _doubts(below: Mapping[str, str], said: Mapping[str, _Said]) -> tuple[Problem, ...]:
    """What looks like a split among the shards whose names say none."""
    silent = {name: path for name, path in below.items() if said[name].side is None and not said[name].fault}
    doubts = []
    alike_named = {_name_pattern(path): path for path in reversed(silent.values())}
    for path in reversed(alike_named.values()):
        alike = [word for word in _words(path) if word not in _TRAIN_WORDS and _LOOKS_LIKE_A_SPLIT.fullmatch(word)]
        if alike:
            message = f"{alike[0]!r} in {path} looks like a split and is not taken for one"
            doubts.append(Problem(message, f"nothing, if it is none; otherwise {_SAY_WHICH}"))
    return tuple(doubts[:_NAMED])

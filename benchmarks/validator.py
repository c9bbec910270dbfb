"""What a validation costs beside what none can do without: reading every byte and computing one checksum of it.

The validator checks both CRCs of every record, finds the picture and the label, judges the picture's header, decodes a
sample, and computes the checksum by which copies and the split are told. Each contender runs in a process of its own,
in turns, so that whatever else the machine does hits all. CPU seconds count, not wall seconds: other work shares the
cores. What Python costs for each record is the same for a small and a large picture, so sizes are measured one by one.

    python -m benchmarks.validator [--mebibytes 500] [--rounds 5] [--image-kilobytes 7 30 100 300 1000]
"""

from __future__ import annotations

import argparse
import io
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.report import Row, append_rows

ROOT = Path(__file__).resolve().parent.parent
for source in ("shared/src", "services/training_launcher"):
    sys.path.insert(0, str(ROOT / source))

CLASSES = 5
GOAL_RATIO = 0.8
GOAL_MEBIBYTES = 100


def main(arguments: Sequence[str] | None = None) -> None:
    """Generate a shard of pictures of each size, let all read it in turns, and write the rows of the report."""
    options = _options(arguments)
    if options.contender:
        print(json.dumps(_measured(options.contender, options.shard)))
        return
    for kilobytes in options.image_kilobytes:
        _compare(kilobytes, options)


def _compare(kilobytes: int, options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shard = Path(folder) / "train-00000-of-00001.tfrecord"
        records = generate(shard, options.mebibytes << 20, kilobytes * 1000)
        size = shard.stat().st_size
        how = f"{records} records, {size >> 20} MiB, {kilobytes} kB JPEGs, one thread"
        print(how)
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
        for _ in range(options.rounds):
            for name, results in runs.items():
                results.append(_run(name, shard))
                print(f"  {name:<22}{size / results[-1]['seconds'] / 1e6:>10,.0f} MB per CPU second")
    _report(kilobytes, size, runs, f"{how}; median of {options.rounds} alternated runs, CPU time")


def _report(kilobytes: int, size: int, runs: dict[str, list[dict[str, float]]], how: str) -> None:
    speed = {name: round(size / statistics.median(run["seconds"] for run in each) / 1e6) for name, each in runs.items()}
    peak = max(run["peak_mebibytes"] for run in runs["validator_with_sample"])
    floor = speed["read_and_checksum"]

    def row(contender: str, name: str, goal: float | None, what: str) -> Row:
        return Row(f"validator.{name}_{kilobytes}_kB", speed[contender], "MB/s", floor, goal, f"{what}; {how}")

    append_rows(
        [
            row("validator", "bytes_per_second", GOAL_RATIO, "all checks but the decoded sample, whose cost is fixed"),
            row("validator_with_sample", "with_decoded_sample_per_second", None, "all checks, 256 images decoded"),
            row("read_and_parse", "read_and_parse_per_second", None, "framing, CRC, image and label; nothing judged"),
            Row(f"validator.peak_rss_{kilobytes}_kB", round(peak), "MiB", None, GOAL_MEBIBYTES, how),
        ]
    )


def generate(path: Path, size: int, image_bytes: int) -> int:
    """Write a shard of about `size` bytes with distinct images that decode, and return its number of records."""
    from dualdeploy.images.tfrecord import encode_example, write_records  # noqa: PLC0415 (found through the path above)

    chance = random.Random(0)
    jpegs = [jpeg(chance, image_bytes) for _ in range(20)]

    def records() -> Iterator[bytes]:
        written = 0
        while written < size:
            label = chance.randrange(CLASSES)
            one_hot = [float(index == label) for index in range(CLASSES)]
            image = _variant(chance, chance.choice(jpegs))
            record = encode_example({"image": image, "class": label, "one_hot_class": one_hot})
            written += len(record) + 16
            yield record

    return write_records(path, records())


def jpeg(chance: random.Random, size: int) -> bytes:
    """A blurred noise picture, encoded with the quality that comes near the size."""
    from PIL import Image  # noqa: PLC0415 (only the generating process needs it)

    side = 224 if size < 40_000 else 640 if size < 200_000 else 2560
    noise = Image.frombytes("RGB", (side // 4, side // 4), chance.randbytes(3 * (side // 4) ** 2))
    noise = noise.resize((side, side), Image.Resampling.BICUBIC)
    encoded = []
    for quality in range(5, 96, 10):
        stream = io.BytesIO()
        noise.save(stream, "JPEG", quality=quality)
        encoded.append(stream.getvalue())
    return min(encoded, key=lambda data: abs(len(data) - size))


def _variant(chance: random.Random, jpeg: bytes) -> bytes:
    """The picture with a random comment before its pixels: another image of another length, encoded in no time."""
    comment = chance.randbytes(chance.randrange(8, 2000))
    pixels = jpeg.index(b"\xff\xda")
    return jpeg[:pixels] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2) + comment + jpeg[pixels:]


def read_and_parse(shard: Path) -> int:
    """Read, check and parse with our reader."""
    from dualdeploy.contracts.example import ExampleSchema  # noqa: PLC0415
    from dualdeploy.images.tfrecord import read_records  # noqa: PLC0415
    from training_launcher.example_reader import ExampleReader  # noqa: PLC0415

    read = ExampleReader(ExampleSchema(labels=tuple(f"class {index}" for index in range(CLASSES)))).read
    count = 0
    with shard.open("rb", buffering=0) as stream:
        for record in read_records(stream, name=shard.name):
            read(record.data)
            count += 1
    return count


def _validate(shard: Path, sample: int) -> int:
    from training_launcher.validation import FileShard, ValidationLimits, validate  # noqa: PLC0415

    verdict = validate(
        [FileShard(shard.name, shard)],
        labels=[f"class {index}" for index in range(CLASSES)],
        features={"image": "image", "label": "class"},
        limits=ValidationLimits(max_bytes=1 << 40, full_decode_sample=sample),
    )
    assert verdict.accepted, verdict.reason()
    return verdict.coverage.records


def read_and_checksum(shard: Path) -> int:
    """Read every byte and compute one CRC32C of it: what no validation can do without."""
    import google_crc32c  # noqa: PLC0415

    checksum = 0
    with shard.open("rb", buffering=0) as stream:
        while block := stream.read(1 << 17):
            checksum = google_crc32c.extend(checksum, block)
    return checksum


CONTENDERS: dict[str, Callable[[Path], int]] = {
    "read_and_checksum": read_and_checksum,
    "validator": lambda shard: _validate(shard, 0),
    "validator_with_sample": lambda shard: _validate(shard, 256),
    "read_and_parse": read_and_parse,
}


def _measured(name: str, shard: Path) -> dict[str, float]:
    """Run a contender twice; the second run counts, so that imports and first calls do not."""
    CONTENDERS[name](shard)
    started = time.process_time()
    CONTENDERS[name](shard)
    seconds = time.process_time() - started
    return {"seconds": seconds, "peak_mebibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def _run(name: str, shard: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.validator", "--contender", name, "--shard", str(shard)]

    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return result


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mebibytes", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--image-kilobytes", type=int, nargs="+", default=[7, 30, 100, 300, 1000])
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--shard", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()

"""A data set that fits nowhere: pictures a CPU second from an index of shards, against tf.data, and memory a picture.

Same work on both sides, in one process each and in turns: pictures are read from plain shards in the system's cache,
held against their checksums, decoded in full with the exact cosine transform, and brought to 224 px. tf.data
interleaves 8 shards, shuffles a buffer of 256, maps with two threads, and has autotuning off (its best case here); so
its order is approximate, and ours a global one. `crop` is tf.data decoding a part of each picture only, which is less
work and gives other pixels: it is reported, and no goal.

Memory: the index of pictures that do not exist, from 1,000 to 1,000,000, and an epoch's order of them.

    python -m benchmarks.trainer_scale [--rounds 3] [--pictures 1600]
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import Row, append_rows

ROOT = Path(__file__).resolve().parent.parent
for source in ("shared/src", "services/trainer"):
    sys.path.insert(0, str(ROOT / source))

SIDE, BATCH, SHARDS = 224, 32, 16
GOAL_RATIO = 0.95
GOAL_BYTES = 32


def main(arguments: Sequence[str] | None = None) -> None:
    """Make shards, let the contenders read them in turns, and write the rows of the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=1600)
    parser.add_argument("--contender", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.contender:
        print(json.dumps(CONTENDERS[options.contender](options.data)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        write_shards(Path(scratch), options.pictures)
        runs: dict[str, list[float]] = {name: [] for name in CONTENDERS}
        for _ in range(options.rounds):
            for name, results in runs.items():
                results.append(_run(name, Path(scratch)))
                print(f"  {name:<10}{results[-1]:>12,.1f}", flush=True)
    found = {name: statistics.median(results) for name, results in runs.items()}
    how = f"{options.pictures} JPEGs of 500 by 375 to {SIDE} px, {SHARDS} shards, median of {options.rounds}"
    append_rows(
        [
            Row("trainer scale: index", found["index"], "pictures a CPU s", found["tf.data"], GOAL_RATIO, how),
            Row("trainer scale: index against a crop", found["index"], "pictures a CPU s", found["crop"], None, how),
            Row("trainer scale: memory", found["memory"], "bytes a picture", None, GOAL_BYTES, "1,000 to 1,000,000"),
        ]
    )


def _run(contender: str, data: Path) -> float:
    command = [sys.executable, "-m", "benchmarks.trainer_scale", "--contender", contender, "--data", str(data)]
    environ = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environ)
    return float(json.loads(done.stdout.splitlines()[-1]))


def write_shards(folder: Path, pictures: int) -> None:
    """Smooth noise as JPEG, about 60 kB each."""
    import numpy as np  # noqa: PLC0415
    from PIL import Image  # noqa: PLC0415

    from dualdeploy.images.tfrecord import encode_example, write_records  # noqa: PLC0415

    def picture(number: int) -> bytes:
        noise = np.random.default_rng(number).integers(0, 256, (188, 250, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=85)
        return stream.getvalue()

    for shard in range(SHARDS):
        records = (
            encode_example({"image": [picture(number)], "class": [number % 5]})
            for number in range(shard, pictures, SHARDS)
        )
        write_records(folder / f"train-{shard:05}-of-{SHARDS:05}.tfrecord", records)


def _per_cpu_second(epoch: Callable[[], int]) -> float:
    """Pictures a CPU second of the second epoch: the first traces and fills caches."""
    epoch()
    began = time.process_time()
    return epoch() / (time.process_time() - began)


def index(data: Path) -> float:
    import numpy as np  # noqa: PLC0415

    from dualdeploy.contracts.training import FeatureNames  # noqa: PLC0415
    from trainer.data import examples  # noqa: PLC0415
    from trainer.data.decoding import ImageDecoder  # noqa: PLC0415
    from trainer.data.examples import Shard  # noqa: PLC0415
    from trainer.loop import recipe  # noqa: PLC0415

    shards = [Shard(path.name, path) for path in sorted(data.glob("*.tfrecord"))]
    with tempfile.TemporaryDirectory() as folder:
        found = examples.load(
            shards[1:],
            shards[:1],
            labels=list("abcde"),
            features=FeatureNames(),
            image_size=SIDE,
            max_bad_records=0,
            folder=Path(folder),
            decoders=ImageDecoder,
            disk=0,
        )
        return _per_cpu_second(
            lambda: sum(
                len(labels)
                for _, labels in recipe.batches(found.train.pixels, found.train.labels, BATCH, np.random.default_rng(0))
            )
        )


def tf_data(data: Path, *, crop: bool = False) -> float:
    import tensorflow as tf  # noqa: PLC0415

    features = {"image": tf.io.FixedLenFeature([], tf.string), "class": tf.io.FixedLenFeature([], tf.int64)}

    def parse(record: Any) -> Any:
        found = tf.io.parse_single_example(record, features)
        if crop:
            window = tf.stack([37, 50, 300, 400])
            image = tf.io.decode_and_crop_jpeg(found["image"], window, channels=3, dct_method="INTEGER_ACCURATE")
        else:
            image = tf.io.decode_jpeg(found["image"], channels=3, dct_method="INTEGER_ACCURATE")
        small = tf.cast(tf.round(tf.image.resize(image, [SIDE, SIDE])), tf.uint8)
        return tf.ensure_shape(small, [SIDE, SIDE, 3]), found["class"]

    files = [str(path) for path in sorted(data.glob("*.tfrecord"))[1:]]
    options = tf.data.Options()
    options.autotune.enabled = False
    dataset = tf.data.Dataset.from_tensor_slices(files).interleave(tf.data.TFRecordDataset, cycle_length=8)
    dataset = dataset.shuffle(256).map(parse, 2).batch(BATCH, drop_remainder=True).prefetch(2).with_options(options)
    return _per_cpu_second(lambda: sum(int(labels.shape[0]) for _, labels in dataset))


def memory(_: Path) -> float:
    """Bytes that a picture adds, from 1,000 to 1,000,000."""
    import numpy as np  # noqa: PLC0415

    from trainer.data.pictures import Index  # noqa: PLC0415

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    def grown(pictures: int) -> int:
        before = resident()
        found = Index()
        for number in range(pictures):
            found.append(file=number % 100, offset=number * 60_000, data=b"", label=number % 10, alone=False)
        encoded = found.finish([])
        order = np.random.default_rng(0).permutation(len(encoded.labels))
        assert len(order) == pictures
        return resident() - before

    few = grown(1000)
    return (grown(1_000_000) - few) / 999_000


CONTENDERS: dict[str, Callable[[Path], float]] = {
    "index": index,
    "tf.data": tf_data,
    "crop": lambda data: tf_data(data, crop=True),
    "memory": memory,
}

if __name__ == "__main__":
    main()

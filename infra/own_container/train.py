"""A training container of one's own: a small convolutional network in plain TensorFlow, without Keras and without us.

It does what docs/own-container.md asks of an image, and nothing of it is specific to Dual Deploy's trainer:

    python train.py --target cloud|mobile --job gs://MODELS/runs/<run>/<target>/job.json

    fetch the shards of the job ─► learn, keeping the state after each epoch ─► model, golden set ─► result, last of all
"""

from __future__ import annotations

import argparse
import base64
import csv
import datetime
import gzip
import hashlib
import io
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import requests
import tensorflow as tf
from google.api_core import exceptions
from google.cloud import storage
from google.cloud.storage.retry import DEFAULT_RETRY

DONE, DO_NOT_RETRY, RETRY = 0, 64, 134

#: Cloud Storage takes one write of an object a second.
SECONDS_BETWEEN_STATES = 1.0
GOLDEN_OF_EACH_CLASS = 5
HELD_OUT_WORDS = {"eval", "evaluation", "val", "valid", "validation", "dev", "test", "holdout"}


class Unusable(ValueError):
    """The job or its data cannot be trained: another attempt would end in the same way."""


# Cloud Storage -----------------------------------------------------------------------------------------------------


class Bucket:
    """Objects by their gs:// names; every call is repeated while Cloud Storage does not answer."""

    def __init__(self) -> None:
        self._client = storage.Client()

    def _blob(self, uri: str, generation: str = "") -> Any:
        bucket, _, name = uri.removeprefix("gs://").partition("/")
        return self._client.bucket(bucket).blob(name, generation=int(generation) if generation else None)

    def read(self, uri: str, generation: str = "") -> bytes | None:
        try:
            data: bytes = self._blob(uri, generation).download_as_bytes()
        except exceptions.NotFound:
            return None
        return data

    def write(self, uri: str, data: bytes) -> None:
        # The same bytes to the same place: repeating it does no harm.
        self._blob(uri).upload_from_string(data, retry=DEFAULT_RETRY)

    def write_folder(self, uri: str, folder: Path) -> None:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            self.write(f"{uri}/{path.relative_to(folder).as_posix()}", path.read_bytes())


# Pictures ----------------------------------------------------------------------------------------------------------


class Pictures:
    """The two sides of the split: files, decoded pixels uint8 [n, side, side, 3] and class indices."""

    def __init__(self) -> None:
        self.files: list[bytes] = []
        self.pixels: list[Any] = []
        self.labels: list[int] = []

    def add(self, file: bytes, pixels: Any, label: int) -> None:
        self.files.append(file)
        self.pixels.append(pixels)
        self.labels.append(label)

    def __len__(self) -> int:
        return len(self.labels)


def load(job: dict[str, Any], bucket: Bucket, folder: Path) -> tuple[Pictures, Pictures, int]:
    """What to learn from, what is held out, and how many records cannot be used."""
    learned, held_out, skipped = Pictures(), Pictures(), 0
    side = job["training"]["image_size"]
    for name in ("train", "eval"):
        for shard in job["shards"].get(name, ()):
            for record in records(shard, bucket, folder):
                try:
                    file, label, named = example(record, job)
                    pixels = decode(file, side).numpy()
                except (ValueError, tf.errors.InvalidArgumentError):
                    skipped += 1
                    continue
                # Without held-out shards the record's own word decides, or the checksum of the picture.
                by_itself = named if named is not None else google_crc32c.value(file) % 5 == 0
                is_held_out = by_itself if not job["shards"].get("eval") else name == "eval"
                (held_out if is_held_out else learned).add(file, np.asarray(pixels, np.uint8), label)
    everything = len(learned) + len(held_out) + skipped
    if skipped > job["training"].get("max_bad_records", 0.01) * everything:
        raise Unusable(f"{skipped} of {everything} records cannot be used: mend the shards, or raise max_bad_records")
    if not len(learned) or not len(held_out):
        raise Unusable(f"{len(learned)} pictures to learn from and {len(held_out)} held out: both sides need some")
    return learned, held_out, skipped


def records(shard: dict[str, Any], bucket: Bucket, folder: Path) -> Iterator[bytes]:
    """The records of exactly this version of the shard."""
    data = bucket.read(shard["uri"], shard["generation"])
    if data is None:
        raise Unusable(f"{shard['uri']} has no generation {shard['generation']} any more: ask for a new run")
    path = folder / "shard"
    path.write_bytes(data)
    try:
        yield from tf.data.TFRecordDataset(str(path), "GZIP" if data[:2] == b"\x1f\x8b" else "").as_numpy_iterator()
    except tf.errors.DataLossError as exc:
        raise Unusable(f"{shard['uri']} is damaged: {exc.message}") from exc


def example(record: bytes, job: dict[str, Any]) -> tuple[bytes, int, bool | None]:
    """The picture's file, its class, and whether the record itself says that it is held out."""
    names = job["features"]
    features = tf.train.Example.FromString(record).features.feature
    (file,) = features[names["image"]].bytes_list.value
    label = features[names["label"]]
    numbers = list(label.int64_list.value or label.float_list.value)
    if label.bytes_list.value:
        index = job["labels"].index(label.bytes_list.value[0].decode())
    else:
        index = numbers[0] - names["first_label"] if len(numbers) == 1 else numbers.index(1)
    if not 0 <= index < len(job["labels"]):
        raise ValueError("a class that is not configured")
    words = [word.decode().lower() for word in features[names["split"]].bytes_list.value]
    named = None if not words else words[0] in HELD_OUT_WORDS
    return file, int(index), named


def decode(file: Any, side: int) -> Any:
    """As phones and the endpoint do it: the exact transform, RGB, resized without keeping the aspect."""
    pixels = tf.io.decode_jpeg(file, channels=3, dct_method="INTEGER_ACCURATE")
    return tf.image.resize(pixels, [side, side], method="bilinear", antialias=False)


# The network -------------------------------------------------------------------------------------------------------


class Network(tf.Module):
    """Three convolutions, the mean over all places, and a softmax; Adam's two moments for each weight."""

    def __init__(self, classes: int, seed: int) -> None:
        super().__init__()
        random = np.random.default_rng(seed)
        shapes = [(3, 3, 3, 16), (3, 3, 16, 32), (3, 3, 32, 32), (32, classes)]
        self.weights = [
            tf.Variable(random.normal(0, (2 / np.prod(shape[:-1])) ** 0.5, shape).astype(np.float32))
            for shape in shapes
        ]
        self.biases = [tf.Variable(tf.zeros(shape[-1])) for shape in shapes]
        self.moments = [tf.Variable(tf.zeros(each.shape)) for each in self.learned for _ in range(2)]

    @property
    def learned(self) -> list[Any]:
        return [*self.weights, *self.biases]

    def scores(self, pixels: Any) -> Any:
        """Float32 pixels 0..255 [n, side, side, 3] to [n, classes], before the softmax."""
        found = pixels / 127.5 - 1
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            found = tf.nn.relu(tf.nn.conv2d(found, weight, 2, "SAME") + bias)
        return tf.reduce_mean(found, [1, 2]) @ self.weights[-1] + self.biases[-1]

    @tf.function
    def learn(self, pixels: Any, labels: Any, rate: Any, count: Any) -> Any:
        """One step of Adam, number `count` from 1; returns the loss."""
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, self.scores(pixels)))
        rate *= tf.sqrt(1 - 0.999**count) / (1 - 0.9**count)
        for place, (variable, gradient) in enumerate(zip(self.learned, tape.gradient(loss, self.learned), strict=True)):
            first, second = self.moments[2 * place : 2 * place + 2]
            first.assign(0.9 * first + 0.1 * gradient)
            second.assign(0.999 * second + 0.001 * gradient**2)
            variable.assign_sub(rate * first / (tf.sqrt(second) + 1e-7))
        return loss


def train(job: dict[str, Any], pictures: Pictures, bucket: Bucket) -> tuple[Network, list[int]]:
    """Go on after the last epoch that an earlier attempt left; returns the network and where it was gone on from."""
    asked, place = job["training"], f"{job['output']['directory']}/checkpoints/state.npz"
    network = Network(len(job["labels"]), asked["seed"])
    state, done, resumed = [*network.learned, *network.moments], 0, list[int]()
    if found := bucket.read(place):
        with np.load(io.BytesIO(found)) as earlier:
            done = int(earlier["epochs"])
            for number, variable in enumerate(state):
                variable.assign(earlier[str(number)])
        resumed = [done]
        print(f"going on after epoch {done}", flush=True)
    pixels, labels = np.stack(pictures.pixels), np.array(pictures.labels)
    size, written = min(asked["batch_size"], len(labels)), 0.0
    for epoch in range(done, asked["epochs"]):
        order = np.random.default_rng([asked["seed"], epoch]).permutation(len(labels))
        steps = len(order) // size
        for step in range(steps):
            chosen = order[step * size : (step + 1) * size]
            count = np.float32(epoch * steps + step + 1)
            rate = np.float32(asked["learning_rate"] * (1 - epoch / asked["epochs"]))
            loss = network.learn(pixels[chosen].astype(np.float32), labels[chosen], rate, count)
        print(f"epoch {epoch + 1} of {asked['epochs']}: loss {float(loss):.3f}", flush=True)
        if time.monotonic() - written > SECONDS_BETWEEN_STATES:
            stream = io.BytesIO()
            values = {str(number): variable.numpy() for number, variable in enumerate(state)}
            np.savez(stream, epochs=epoch + 1, **values)
            bucket.write(place, stream.getvalue())
            written = time.monotonic()
    return network, resumed


# What is left behind -----------------------------------------------------------------------------------------------


def save(network: Network, job: dict[str, Any], folder: Path) -> Any:
    """Write the SavedModel of the target; returns what answers a batch of files with probabilities."""
    side, labels = job["training"]["image_size"], job["labels"]
    model = tf.Module()
    model.variables_of_network = network.learned

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def of_files(image_bytes: Any) -> Any:
        spec = tf.TensorSpec([side, side, 3], tf.float32)
        pixels = tf.map_fn(lambda file: decode(file, side), image_bytes, fn_output_signature=spec)
        probabilities = tf.nn.softmax(network.scores(pixels))
        return {
            "label": tf.gather(tf.constant(labels), tf.argmax(probabilities, 1)),
            "confidence": tf.reduce_max(probabilities, 1),
            "probabilities": probabilities,
        }

    @tf.function(input_signature=[])
    def names() -> Any:
        return {"labels": tf.constant(labels)}

    @tf.function(input_signature=[tf.TensorSpec([1, side, side, 3], tf.float32, name="pixels")])
    def of_pixels(pixels: Any) -> Any:
        return {"probabilities": tf.nn.softmax(network.scores(pixels))}

    if job["target"] == "cloud":
        model.of_files, model.names = of_files, names
        signatures = {"serving_default": of_files, "labels": names}
    else:
        model.of_pixels = of_pixels
        signatures = {"serving_default": of_pixels}
    tf.saved_model.save(model, str(folder), signatures=signatures)
    return lambda files: of_files(tf.constant(files))["probabilities"].numpy()


def golden(pictures: Pictures, answers: Any) -> bytes:
    """Some held-out pictures of each class with what the model answers, to prove whatever is deployed."""
    examples, counted = list[dict[str, Any]](), dict[int, int]()
    for file, label, answer in zip(pictures.files, pictures.labels, answers, strict=True):
        counted[label] = counted.get(label, 0) + 1
        if counted[label] <= GOLDEN_OF_EACH_CLASS:
            picture = {"b64": base64.b64encode(file).decode()}
            examples.append({"image_bytes": picture, "probabilities": answer.tolist()})
    return json.dumps({"v": 1, "examples": examples}).encode()


def kept(pictures: Pictures, answers: Any, labels: list[str]) -> bytes:
    """answers.csv.gz: what the model says to each held-out picture, by which phones learn when to ask it."""
    rows = [
        (hashlib.sha256(file).hexdigest()[:16], labels[label], labels[int(row.argmax())], f"{row.max():.9g}")
        for file, label, row in zip(pictures.files, pictures.labels, answers, strict=True)
    ]
    text = io.StringIO()
    csv.writer(text).writerows([("picture", "label", "predicted", "confidence"), *sorted(rows)])
    return gzip.compress(text.getvalue().encode())


def measured(answers: Any, truth: list[int], labels: list[str]) -> dict[str, Any]:
    """How good the answers are on the held-out pictures."""
    said, true = answers.argmax(1), np.array(truth)
    per_class = {}
    for index, label in enumerate(labels):
        right = int(((said == index) & (true == index)).sum())
        precision, recall = right / max(1, (said == index).sum()), right / max(1, (true == index).sum())
        f1 = 2 * precision * recall / max(1e-9, precision + recall)
        examples = int((true == index).sum())
        per_class[label] = {"precision": precision, "recall": recall, "f1": f1, "examples": examples}
    likelihood = np.log(answers[np.arange(len(true)), true] + 1e-7)
    accuracy = float((said == true).mean())
    return {"accuracy": accuracy, "loss": float(-likelihood.mean()), "examples": len(true), "per_class": per_class}


def described(location: str, target: str, bucket: Bucket) -> dict[str, Any]:
    """The job description."""
    document = bucket.read(location)
    if document is None:
        raise Unusable(f"there is no {location}")
    job: dict[str, Any] = json.loads(document)
    if job.get("v") != 1 or job["target"] != target:
        raise Unusable(f"{location} is not a job of version 1 for target {target}")
    return job


def run(job: dict[str, Any], bucket: Bucket, work: Path) -> None:
    """Train what the job says; the result document is the last thing that is written."""
    learned, held_out, skipped = load(job, bucket, work)
    network, resumed = train(job, learned, bucket)
    directory, kind = job["output"]["directory"], {"cloud": "saved_model", "mobile": "pixels_model"}[job["target"]]
    ask = save(network, job, work / kind)
    answers = np.concatenate([ask(held_out.files[start : start + 64]) for start in range(0, len(held_out), 64)])
    bucket.write_folder(f"{directory}/{kind}", work / kind)
    bucket.write(f"{directory}/golden.json", golden(held_out, answers))
    bucket.write(f"{directory}/answers.csv.gz", kept(held_out, answers, job["labels"]))
    result = {
        "v": 1,
        **{name: job[name] for name in ("run_id", "dataset", "target", "labels")},
        "finished_at": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "architecture": "three convolutions in plain TensorFlow",
        "image_size": job["training"]["image_size"],
        "artifacts": {
            kind: f"{directory}/{kind}",
            "golden": f"{directory}/golden.json",
            "answers": f"{directory}/answers.csv.gz",
        },
        "metrics": measured(answers, held_out.labels, job["labels"]),
        "data": {
            "train_examples": len(learned),
            "eval_examples": len(held_out),
            "split": "named" if job["shards"].get("eval") else "hash",
            "skipped_records": skipped,
        },
        "course": {
            "epochs": job["training"]["epochs"],
            "epochs_trained": job["training"]["epochs"],
            "best_epoch": job["training"]["epochs"],
            "resumed_at": resumed,
        },
        "job": os.environ.get("CLOUD_ML_JOB_ID", ""),
    }
    bucket.write(job["output"]["result"], json.dumps(result).encode())


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=("cloud", "mobile"), required=True)
    parser.add_argument("--job", required=True)
    options = parser.parse_args()
    # Vertex AI takes the machine away: the state of the last epoch is written, and Vertex AI starts the job again.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(RETRY))
    try:
        bucket = Bucket()
        with tempfile.TemporaryDirectory() as work:
            run(described(options.job, options.target, bucket), bucket, Path(work))
    except Unusable as exc:
        print(exc, file=sys.stderr)
        return DO_NOT_RETRY
    except (exceptions.ServerError, exceptions.TooManyRequests, requests.ConnectionError) as exc:
        print(f"Cloud Storage does not answer: {exc}", file=sys.stderr)
        return RETRY
    return DONE


if __name__ == "__main__":
    sys.exit(main())

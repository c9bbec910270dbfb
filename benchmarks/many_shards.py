"""Validating thousands of small shards within one request of the launcher, against a Cloud Storage that takes its time.

The validator runs in a process of its own, and every answer of the local cloud's storage is 50 ms late, as across a
region's network. It reads through Google's client, as the service does.

    python -m benchmarks.many_shards [--shards 2000] [--answer-milliseconds 50]
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import Row, append_rows

ROOT = Path(__file__).resolve().parent.parent
for source in ("shared/src", "services/training_launcher", "infra/local_cloud/src"):
    sys.path.insert(0, str(ROOT / source))

BUCKET = "benchmark-many-shards"
#: A request of the launcher lives so long.
GOAL_SECONDS = 60
GOAL_REQUESTS, GOAL_BYTES, GOAL_MEBIBYTES = 1.1, 1.2, 100

#: Of the second case: what is read of shards that are larger than their share.
LARGE_SHARDS, LARGE_BYTES, MAX_BYTES = 64, 8 << 20, 64 << 20


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve shards, let a process of its own validate them, and write the rows of the report."""
    options = _options(arguments)
    if options.address:
        print(json.dumps(_measured(options)))
        return
    from local_cloud.faults import Faults  # noqa: PLC0415 (found through the path above)
    from local_cloud.storage import Storage  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder, Storage(faults=Faults(), state_dir=folder) as storage:
        _fill(storage.address, options.shards)
        small = _run(storage.address, options, prefix="small/", max_bytes=512_000_000)
        large = _run(storage.address, options, prefix="large/", max_bytes=MAX_BYTES)
    _report(small, large, options)


def _fill(address: str, shards: int) -> None:
    from dualdeploy.images.tfrecord import encode_example, write_records  # noqa: PLC0415

    bucket = _client(address).create_bucket(BUCKET)
    for number in range(shards):
        shard = io.BytesIO()
        write_records(shard, [encode_example({"image": _picture(number), "class": number % 2})])
        bucket.blob(f"small/{'eval' if number % 10 == 0 else 'train'}-{number:05d}.tfrecord").upload_from_string(
            shard.getvalue()
        )
    for number in range(LARGE_SHARDS):
        shard = io.BytesIO()
        record = encode_example({"image": _picture(number), "class": number % 2, "other": os.urandom(1 << 16)})
        write_records(shard, [record] * (LARGE_BYTES // len(record)))
        bucket.blob(f"large/{'eval' if number % 10 == 0 else 'train'}-{number:05d}.tfrecord").upload_from_string(
            shard.getvalue()
        )


def _picture(number: int) -> bytes:
    from PIL import Image  # noqa: PLC0415

    out = io.BytesIO()
    Image.new("RGB", (24, 24), (number % 256, number // 256, 9)).save(out, "PNG")
    return out.getvalue()


def _client(address: str) -> Any:
    os.environ["STORAGE_EMULATOR_HOST"] = f"http://{address}"
    from dualdeploy.google.object_store import shared_client  # noqa: PLC0415

    os.environ.setdefault("GOOGLE_CLOUD_PROJECT", "benchmark")
    return shared_client()


def _measured(options: argparse.Namespace) -> dict[str, float]:
    """Validate once, and count what goes over the wire."""
    from dualdeploy.contracts.split import divide  # noqa: PLC0415
    from dualdeploy.google.object_store import GcsObjectStore  # noqa: PLC0415
    from dualdeploy.ledger import Shard  # noqa: PLC0415
    from training_launcher.admission import StoredShard  # noqa: PLC0415
    from training_launcher.validation import ValidationLimits, validate  # noqa: PLC0415

    client = _client(options.address)
    store = GcsObjectStore(BUCKET, client=lambda: client)
    shards = [
        StoredShard(Shard(name=each.name, generation=each.generation, size=each.size, crc32c=each.crc32c), store)
        for each in store.list(options.prefix)
    ]
    requests, fetched, send = [0], [0], client._http.request

    def late(method: str, url: str, **more: Any) -> Any:
        time.sleep(options.answer_milliseconds / 1000)
        answer = send(method, url, **more)
        requests[0] += "alt=media" in url
        fetched[0] += int(answer.headers.get("Content-Length", 0)) * ("alt=media" in url)
        return answer

    client._http.request = late
    began = time.monotonic()
    verdict = validate(
        shards,
        labels=("a", "b"),
        features={"image": "image", "label": "class"},
        split=divide((shard.name for shard in shards), prefix=options.prefix),
        limits=ValidationLimits(max_bytes=options.max_bytes, max_leaked_images=1.0),
    )
    return {
        "seconds": time.monotonic() - began,
        "shards": verdict.coverage.shards_read,
        "requests": requests[0],
        "bytes": fetched[0],
        "peak_mebibytes": _peak_kibibytes() / 1024,
    }


def _peak_kibibytes() -> int:
    """Of this program alone: what getrusage tells includes the process that started it, which serves the shards."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1])


def _run(address: str, options: argparse.Namespace, *, prefix: str, max_bytes: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.many_shards", "--address", address, "--prefix", prefix]
    command += ["--max-bytes", str(max_bytes), "--answer-milliseconds", str(options.answer_milliseconds)]
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    print(prefix, {name: round(value, 1) for name, value in found.items()})
    return found


def _report(small: dict[str, float], large: dict[str, float], options: argparse.Namespace) -> None:
    how = f"{options.shards} shards of one picture, each answer {options.answer_milliseconds} ms late"
    part = f"{LARGE_SHARDS} shards of 8 MiB, max_bytes {MAX_BYTES >> 20} MiB"
    peak = max(small["peak_mebibytes"], large["peak_mebibytes"])
    rows = [
        Row("validator.many_shards_seconds", round(small["seconds"], 1), "s", None, GOAL_SECONDS, how),
        Row("validator.requests_per_shard", small["requests"] / small["shards"], "", None, GOAL_REQUESTS, how),
        Row("validator.requests_per_large_shard", large["requests"] / large["shards"], "", None, GOAL_REQUESTS, part),
        Row("validator.bytes_fetched_of_max_bytes", large["bytes"] / MAX_BYTES, "", None, GOAL_BYTES, part),
        Row("validator.peak_rss_over_the_network", round(peak), "MiB", None, GOAL_MEBIBYTES, f"{how}; {part}"),
    ]
    append_rows(rows)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=2000)
    parser.add_argument("--answer-milliseconds", type=int, default=50)
    parser.add_argument("--address", default="", help=argparse.SUPPRESS)
    parser.add_argument("--prefix", default="", help=argparse.SUPPRESS)
    parser.add_argument("--max-bytes", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()

"""The training container: learns a line through points, `python train.py --data /gcs/BUCKET/points.csv`."""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
from pathlib import Path

from google.cloud import storage


def main() -> None:
    parser = argparse.ArgumentParser()
    # Vertex AI mounts every bucket below /gcs.
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--scale", type=float, default=1.0)
    options = parser.parse_args()
    with options.data.open(newline="") as stream:
        rows = [(float(x), float(y)) for x, y in csv.reader(stream)]
    slope, intercept = statistics.linear_regression(*zip(*rows, strict=True))
    model = json.dumps({"slope": slope * options.scale, "intercept": intercept})
    # Where Vertex AI wants the model: base_output_directory of the job, and model/ below it.
    storage.Blob.from_uri(os.environ["AIP_MODEL_DIR"] + "model.json", client=storage.Client()).upload_from_string(model)
    print(f"learned y = {slope:.3f} x + {intercept:.3f} from {len(rows)} points")


if __name__ == "__main__":
    main()

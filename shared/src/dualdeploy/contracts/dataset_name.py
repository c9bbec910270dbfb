"""What a data set may be called: a folder of the data bucket, and part of run ids, addresses and labels."""

from __future__ import annotations

import re

#: Vertex AI label values allow `[a-z0-9_-]` and 63 characters; a run id adds `-<12 hex>-rNN` to this name.
DATASET_NAME = re.compile(r"[a-z][a-z0-9-]{0,38}")

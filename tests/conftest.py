"""What every test has in common: importable helpers (`chain`, `stories`), and property tests that judge no clock."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hypothesis

sys.path.insert(0, str(Path(__file__).parent))

# A busy machine makes one example slow, which says nothing about the code. In CI the same examples come every time:
# a new counterexample belongs to whoever changes the code, not to whoever happens to push.
hypothesis.settings.register_profile("steady", deadline=None, derandomize=os.environ.get("CI") == "true")
hypothesis.settings.load_profile("steady")

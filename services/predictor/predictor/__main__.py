"""`python -m predictor`: serve the model at AIP_STORAGE_URI until SIGTERM.

Exit codes: 0 asked to end · 2 wrong environment · 3 the model cannot be served · 1 the port cannot be opened.
"""

from __future__ import annotations

import logging
import os
import sys

from dualdeploy import logs, settings
from dualdeploy.settings import WrongSettings
from predictor.server import Server
from predictor.settings import PredictorSettings


def main() -> int:
    """Compose the server and run it."""
    logs.configure()
    # TensorFlow's own chatter is no JSON; its errors still come.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        chosen = settings.load(PredictorSettings, os.environ)
    except WrongSettings as exc:
        logging.getLogger("predictor").critical("cannot start: %s", exc)
        return 2
    Server(chosen).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())

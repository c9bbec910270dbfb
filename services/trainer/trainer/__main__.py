"""`python -m trainer`: train one model and leave; the exit code says whether another attempt makes sense."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

# Read by TensorFlow when it is imported: its banner about CPU features is no news to anybody.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

from dualdeploy.errors import DualDeployError
from trainer import arguments, failures, locations, progress, training_run

log = logging.getLogger("trainer")


def main(argv: Sequence[str] | None = None, *, on_workspace: Callable[[Path], None] = lambda _: None) -> int:
    """Train as the arguments say; returns the exit code. `on_workspace` is told the scratch folder."""
    with progress.reporting() as reporter, tempfile.TemporaryDirectory(prefix="trainer-") as work:
        on_workspace(Path(work))
        try:
            line = arguments.parse(argv)
            document = locations.read(line.job, locations.Patience(line.flags.patience)) if line.job else None
            training_run.run(arguments.order(line, document), work=Path(work), reporter=reporter)
        except DualDeployError as exc:
            log.error("%s", exc, extra={"error": type(exc).__name__})  # noqa: TRY400  # a trace would hide the advice
            return failures.exit_code(exc)
        except KeyboardInterrupt:
            log.warning("stopped; nothing was published as finished")
            return failures.EXIT_STOPPED
        except Exception as exc:
            log.exception("the trainer failed: this is a bug")
            return failures.exit_code(exc)
    return failures.EXIT_DONE


def leave_on_sigterm() -> Callable[[Path], None]:
    """Exit with 75 within a second of SIGTERM; returns a function that is told which folder to clean up.

    Vertex AI sends SIGTERM when it takes a spot machine away. Python runs handlers only between two of its own
    instructions, and compiling or saving a network is a single one that lasts many seconds. What C does at once is
    to write the signal's number into the wake-up pipe, and a thread of its own reads that.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    workspaces: list[Path] = []

    def wait() -> None:
        while os.read(reader, 1)[0] != signal.SIGTERM:
            continue
        log.warning("interrupted by SIGTERM: nothing was published as finished; start the job again")
        for workspace in workspaces:
            locations.remove_folder(workspace)
        os._exit(failures.exit_code(failures.Interrupted()))

    threading.Thread(target=wait, daemon=True, name="sigterm").start()
    return workspaces.append


if __name__ == "__main__":
    sys.exit(main(on_workspace=leave_on_sigterm()))

"""`python -m trainer`: train one model and leave; the exit code says whether another attempt makes sense."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

# Read by TensorFlow when it is imported: its banner about CPU features is no news to anybody.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

from dualdeploy.errors import DualDeployError
from trainer import preparation, training_run
from trainer.process import arguments, failures, progress, workers
from trainer.process import storage as locations
from trainer.process.shutdown import Departure

log = logging.getLogger("trainer")


def main(argv: Sequence[str] | None = None, *, departure: Departure | None = None) -> int:
    """Train as the arguments say; returns the exit code. `departure` is told what to do if the process must go."""
    departure = departure or Departure()
    with progress.reporting() as reporter, tempfile.TemporaryDirectory(prefix="trainer-") as work:
        departure.remove(Path(work))
        try:
            given = sys.argv[1:] if argv is None else list(argv)
            if given[:1] == [arguments.PREPARE]:
                _prepare(given[1:], Path(work))
                return failures.EXIT_DONE
            line = arguments.parse(given)
            where = workers.place(os.environ)
            document = locations.read(line.job, locations.Patience(line.flags.patience)) if line.job else None
            order = arguments.order(line, document)
            if line.flags.evaluate_live:
                training_run.evaluate_live(order, work=Path(work))
            else:
                training_run.run(order, where, work=Path(work), reporter=reporter, departure=departure)
        except DualDeployError as exc:
            log.error("%s", exc, extra={"error": type(exc).__name__})  # noqa: TRY400  # a trace would hide the advice
            return failures.exit_code(exc)
        except KeyboardInterrupt:
            log.warning("stopped: %s; the same call goes on from there", departure.conclude())
            return failures.EXIT_STOPPED
        except Exception as exc:
            log.exception("the trainer failed: this is a bug")
            return failures.exit_code(exc)
    return failures.EXIT_DONE


def _prepare(argv: Sequence[str], work: Path) -> None:
    job, seconds = arguments.parse_preparation(argv)
    patience = locations.Patience(seconds)
    preparation.run(preparation.parse(locations.read(job, patience), source=job), work=work, patience=patience)


def _leave(code: int) -> None:
    """End the process: Python would wait for threads that the file of a network began, and the machine be paid for."""
    if left := [each.name for each in threading.enumerate() if not each.daemon and each is not threading.main_thread()]:
        log.warning("the job ends while threads that it did not begin go on: %s", ", ".join(left))
        logging.shutdown()
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    leaving = Departure()
    leaving.listen()
    _leave(main(departure=leaving))

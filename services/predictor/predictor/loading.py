"""From the start of the process to the first prediction, in a thread beside the server."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from predictor import accelerators, artifact, threads
from predictor.batching import Batcher
from predictor.model import ImageModel, graph, tensorflow
from predictor.readiness import Readiness
from predictor.settings import PredictorSettings

_log = logging.getLogger("predictor")


def start(
    settings: PredictorSettings,
    readiness: Readiness,
    *,
    when_ready: Callable[[], None],
    when_failed: Callable[[], None],
) -> threading.Thread:
    """Load the model in the background; exactly one of the two callbacks is called when it is decided.

    Loading that takes longer than `settings.load_timeout` has failed, whatever it waits for.
    """
    decided = threading.Lock()
    overdue = threading.Timer(
        settings.load_timeout, lambda: fail(f"loading took more than {settings.load_timeout:g} s")
    )
    overdue.daemon = True

    def fail(reason: str, exc: Exception | None = None) -> None:
        if decided.acquire(blocking=False):
            _log.critical("cannot serve %s: %s", settings.storage_uri, reason, exc_info=exc)
            when_failed()

    def work() -> None:
        try:
            batcher = load(settings, readiness)
        except Exception as exc:  # noqa: BLE001 - whatever it is, a server without a model must end
            fail(f"{type(exc).__name__}: {exc}", exc)
            return
        if decided.acquire(blocking=False):
            overdue.cancel()
            fields = {"model": settings.storage_uri, "gpu": os.environ.get(accelerators.VISIBLE, "")}
            _log.info("ready after %.1f s", readiness.ready(batcher), extra=fields)
            when_ready()

    overdue.start()
    thread = threading.Thread(target=work, name="loading", daemon=True)
    thread.start()
    return thread


def load(settings: PredictorSettings, readiness: Readiness) -> Batcher:
    """Fetch, load and warm the model; raises what says why it cannot be served."""
    with _Step(readiness, "import", "importing TensorFlow"):
        tensorflow()
    with tempfile.TemporaryDirectory(prefix="model-") as scratch:
        with _Step(readiness, "fetch", f"fetching {settings.storage_uri}"):
            folder = artifact.fetch(settings.storage_uri, Path(scratch))
        with _Step(readiness, "load", "loading the model into TensorFlow"):
            # Before anything else: TensorFlow runs some of a graph while it loads it.
            found = graph(folder)
            config = tensorflow().config
            on_gpu = bool(config.list_physical_devices("GPU"))
            sharing = threads.choose(found, cores=settings.cores, on_gpu=on_gpu)
            if sharing.threads is not None:
                config.threading.set_intra_op_parallelism_threads(sharing.threads)
            model = ImageModel(folder, largest_batch=settings.max_batch)
        # Asset files are read by now; on some platforms the folder is memory.
    with _Step(readiness, "warm", "warming the model"):
        model.warm_up()
    _log.info("%s", sharing)
    return Batcher(
        model,
        parallel=sharing.batches,
        max_waiting=settings.max_queue,
        max_wait=settings.max_wait,
    )


class _Step:
    """Tells health what is going on, and the log how long it took."""

    def __init__(self, readiness: Readiness, name: str, what: str) -> None:
        self._readiness, self._name, self._what = readiness, name, what
        readiness.waiting_for(what)

    def __enter__(self) -> None:
        self._started = time.monotonic()

    def __exit__(self, *failure: object) -> None:
        if failure[0] is None:
            seconds = time.monotonic() - self._started
            self._readiness.took(self._name, seconds)
            _log.info("%s took %.2f s", self._what, seconds)

"""A training job small enough for a test: does what its arguments say, in order."""

import os
import signal
import sys
import time
from pathlib import Path


def main(words: list[str]) -> int:
    for word in words:
        verb, _, value = word.partition("=")
        if verb == "print":
            print(value, flush=True)
        elif verb == "complain":
            print(value, file=sys.stderr, flush=True)
        elif verb == "environment":
            print(f"{value}={os.environ.get(value)}", flush=True)
        elif verb == "copy":
            source, target = (Path(path) for path in value.split(","))
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
        elif verb in {"sleep", "until"}:
            wait(verb, value)
        elif verb == "ignore-terminate":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        elif verb == "kill-self":
            os.kill(os.getpid(), int(value))
        elif verb == "abort-first-time":
            marker = Path(value)
            if not marker.exists():
                marker.touch()
                os.abort()
        elif verb == "exit":
            return int(value)
    return 0


def wait(verb: str, value: str) -> None:
    """So many seconds, or until a file is there."""
    if verb == "sleep":
        time.sleep(float(value))
    while verb == "until" and not Path(value).exists():
        time.sleep(0.02)


sys.exit(main(sys.argv[1:]))

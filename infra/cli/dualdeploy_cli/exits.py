"""Exit codes, and the error of each: one sentence that says what to do. docs/cli.md has the table."""

from __future__ import annotations

import click

OK = 0
#: What was asked was looked at, and the answer is no: bad data, a refused release, a broken chain.
REFUSED = 1
#: The command line is wrong; click's own code for that.
USAGE = 2
#: Google, a service or the local cloud did not answer, or not to everything: the same command may work later.
UNREACHABLE = 3
#: A fault of this program.
BUG = 4
#: Ctrl-C, as shells count it.
STOPPED = 130


class Refused(click.ClickException):
    """What was asked cannot be done; the message says why."""

    exit_code = REFUSED


class Unreachable(click.ClickException):
    """Google, a service or the local cloud does not answer; the message says which."""

    exit_code = UNREACHABLE


class Stopped(click.ClickException):
    """Someone pressed Ctrl-C; the message says how to go on."""

    exit_code = STOPPED


class Bug(click.ClickException):
    """A fault of this program."""

    exit_code = BUG


def explained(error: Exception) -> click.ClickException:
    """What to tell people of an error that no command expected."""
    from dualdeploy.errors import CredentialsUnavailable, DualDeployError, RetryLater
    from dualdeploy.google import errors
    from shipping.tools import CannotShip

    ours = error if isinstance(error, DualDeployError) else errors.translate(error, "Google")
    if isinstance(ours, CredentialsUnavailable):
        return Unreachable(f"Google takes no credentials of this machine: {ours}\nLog in: {LOG_IN}")
    if isinstance(ours, RetryLater):
        return Unreachable(f"{ours}\nThe same command may work in a moment.")
    if isinstance(ours, DualDeployError):
        return Refused(str(ours))
    if isinstance(error, CannotShip):
        return Refused(str(error))
    if isinstance(error, OSError):
        return Refused(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    return Bug(
        f"a fault of this program: {type(error).__name__}: {error}\n"
        "Please report it; DUALDEPLOY_DEBUG=1 shows where it happened."
    )


#: How a person gives this machine credentials for Google's client libraries.
LOG_IN = "gcloud auth application-default login"

"""completion: the script that completes commands and options in a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that completes commands and options in SHELL.

    Completion works where `dualdeploy` is on PATH: source .venv/bin/activate, or link it from a folder that is.

    \b
    Examples:
      eval "$(dualdeploy completion bash)"    # in ~/.bashrc
      eval "$(dualdeploy completion zsh)"     # in ~/.zshrc
      dualdeploy completion fish | source     # in config.fish
    """
    kind = get_completion_class(shell)
    if kind is None:  # Choice allows none that click does not have
        raise click.UsageError(f"there is no completion for {shell}")
    # bash: its version is asked for, which is only wanted where it completes.
    script = kind(ctx.find_root().command, {}, "dualdeploy", "_DUALDEPLOY_COMPLETE")
    click.echo(script.source_template % script.source_vars())

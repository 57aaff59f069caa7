"""`rayhpc completion …`: the script by which a shell completes our commands with the Tab key."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script by which a shell completes our commands.

    bash must be 4.4 or newer.

    \b
      eval "$(rayhpc completion bash)"                                       # in ~/.bashrc
      eval "$(rayhpc completion zsh)"                                        # in ~/.zshrc, below compinit
      rayhpc completion fish > ~/.config/fish/completions/rayhpc.fish        # once
    """
    found = get_completion_class(shell)
    assert found is not None  # click has one for each of SHELLS
    click.echo(found(context.find_root().command, {}, "rayhpc", "_RAYHPC_COMPLETE").source())

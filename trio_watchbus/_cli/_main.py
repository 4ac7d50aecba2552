"""The group of all commands, each imported when it is asked for."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Never

import click

from ._errors import MissingExtraError, masked

# Where each command stands, and the extra of the distribution that it needs.
_COMMANDS = {
    "bench": ("trio_watchbus._bench._command:bench", "all"),
    "publish": ("trio_watchbus._cli._publish:publish", "client"),
    "serve": ("trio_watchbus._cli._serve:serve", "server"),
    "watch": ("trio_watchbus._cli._watch:watch", "client"),
}

_INTERRUPTED = 130


class _Commands(click.Group):
    """Imports a command when it is asked for, so that each runs without what others need."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return sorted(_COMMANDS)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002
        cmd_name: str,
    ) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        place, extra = _COMMANDS[cmd_name]
        module, _, attribute = place.partition(":")
        try:
            command: click.Command = getattr(import_module(module), attribute)
        except ImportError as error:
            if (error.name or "").startswith("trio_watchbus"):
                raise
            return _not_installed(cmd_name, extra)
        _name_variables(command, f"watchbus_{cmd_name}")
        return command


def _name_variables(command: click.Command, name: str) -> None:
    """Let options be given as environment variables, named as they are on the command line.

    Click would name them as the arguments of the functions are.
    """
    if isinstance(command, click.Group):
        for inner_name, inner in command.commands.items():
            _name_variables(inner, f"{name}_{inner_name}")
    for option in command.params:
        if isinstance(option, click.Option) and option.envvar is None:
            flag = option.opts[0].removeprefix("--").replace("-", "_")
            option.envvar = f"{name}_{flag}".upper()


def _not_installed(name: str, extra: str) -> click.Command:
    message = f"{name} is not installed; pip install 'trio-watchbus[{extra}]'"

    def fail() -> Never:
        raise MissingExtraError(message)

    return click.Command(
        name,
        callback=fail,
        help=f"({message})",
        add_help_option=False,
        # Whatever it is given, that is what is wrong.
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )


@click.command(cls=_Commands)
@click.version_option(package_name="trio-watchbus", prog_name="watchbus")
def watchbus() -> None:
    """Watch keys, and publish to them.

    Every option can be given as an environment variable too: --bind of watchbus serve as
    WATCHBUS_SERVE_BIND.
    """


def run(arguments: list[str]) -> int:
    """Run the command that `arguments` name, and return the status to exit with."""
    try:
        for argument in arguments:
            argument.encode()
        result = watchbus.main(arguments, prog_name="watchbus", standalone_mode=False)
    except UnicodeEncodeError:
        return _fail("arguments must be UTF-8", 2)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.UsageError as error:
        where = "watchbus" if error.ctx is None else error.ctx.command_path
        return _fail(f"{error.format_message()} (see {where} --help)", error.exit_code)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return _INTERRUPTED
    except SystemExit:
        # What Click does, with status 1, where whoever read the output has gone: to have seen
        # enough is no failure. What is still buffered goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return result if isinstance(result, int) else 0


def _fail(message: str, status: int) -> int:
    click.echo(f"watchbus: {masked(' '.join(message.split()))}", err=True)
    return status

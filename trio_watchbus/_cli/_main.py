"""The group of all commands, each imported when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple, Never

import click
from click.core import ParameterSource

from ._errors import MissingExtraError, say, source_of
from ._stop import StopRequests
from ._streams import OutputError, ReaderGoneError


class _Place(NamedTuple):
    """Where a command is, and what to say about it without importing it.

    Attributes:
        name: its module and its name in there.
        extra: the extra of the distribution that it needs.
        summary: the first sentence of its help.
    """

    name: str
    extra: str
    summary: str


COMMANDS = {
    "bench": _Place(
        "trio_watchbus._bench._command:bench",
        "all",
        "Measure how fast a bus or a served bus is on this machine.",
    ),
    "publish": _Place(
        "trio_watchbus._cli._publish:publish",
        "client",
        "Publish DATA to KEY, and print the message's id.",
    ),
    "serve": _Place(
        "trio_watchbus._cli._serve:serve",
        "server",
        "Serve a bus over HTTP: Server-Sent Events, WebSocket, and publishing with POST.",
    ),
    "watch": _Place(
        "trio_watchbus._cli._watch:watch",
        "client",
        "Print what is published to KEYs and prefixes, for ever.",
    ),
}


class _Commands(click.Group):
    """Imports a command when it is run, so that each works without what others need."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return sorted(COMMANDS)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002
        cmd_name: str,
    ) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        place = COMMANDS[cmd_name]
        module, _, attribute = place.name.partition(":")
        try:
            command: click.Command = getattr(import_module(module), attribute)
        except ImportError as error:
            if (error.name or "").startswith("trio_watchbus"):
                raise
            return _not_installed(cmd_name, place.extra)
        _name_variables(command, f"watchbus_{cmd_name}")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them, which would take most of a second."""
        listed = {
            name: click.Command(name, help=COMMANDS[name].summary)
            for name in self.list_commands(ctx)
        }
        click.Group(commands=listed).format_commands(ctx, formatter)


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


def run(arguments: list[str], stop: StopRequests | None = None) -> int:
    """Run the command that `arguments` name, and return the exit status.

    Args:
        arguments: those of the process, without its name.
        stop: hears requests to stop; commands that go on need it.
    """
    try:
        for argument in arguments:
            argument.encode()
        result = watchbus.main(arguments, prog_name="watchbus", standalone_mode=False, obj=stop)
    except UnicodeEncodeError:
        return _fail("arguments must be UTF-8", 2)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.UsageError as error:
        return _fail(_usage_message(error), error.exit_code)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except ReaderGoneError:
        # Having seen enough, as `head` has, is no failure.
        return 0
    except OutputError as error:
        return _fail(str(error), 1)
    return result if isinstance(result, int) else 0


def _usage_message(error: click.UsageError) -> str:
    """Return what is wrong; a value from the environment is blamed on its variable."""
    context = error.ctx
    if context is None:
        return f"{error.format_message()} (see watchbus --help)"
    if isinstance(error, click.BadParameter) and error.param is not None:
        name = error.param.name
        if context.get_parameter_source(name or "") is ParameterSource.ENVIRONMENT:
            error.param_hint = source_of(context, name or "")
    return f"{error.format_message()} (see {context.command_path} --help)"


def _fail(message: str, status: int) -> int:
    say(message)
    return status

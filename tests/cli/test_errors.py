"""What the commands say has no secret in it."""

from __future__ import annotations

import importlib
import re

import pytest
from command import command
from hypothesis import given
from hypothesis import strategies as st
from redis_bus.servers import free_port

from trio_watchbus import BusUnavailableError, HistoryLostError, PublishUnknownError
from trio_watchbus._cli._errors import masked, one_line
from trio_watchbus._cli._failures import failure_of
from trio_watchbus._cli._main import COMMANDS, run

SECRETS = st.text(st.characters(codec="utf-8", exclude_characters="/?#")).map(
    lambda text: f"SECRET{text}SECRET"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis://u:p@ss@host/0 is gone", "redis://***@host/0 is gone"),
        ("redis://:p@host", "redis://***@host"),
        ("unix://u:my p@/run/redis.sock", "unix://***@/run/redis.sock"),
        ("redis://host/0?password=secret is gone", "redis://host/0?*** is gone"),
        ("redis://u:p@host?db=1&password=a?b#c", "redis://***@host?***"),
        ("redis://a:p@b,redis://c:q@d", "redis://***@b,redis://***@d"),
        ("nobody at http://127.0.0.1:9; start it?", "nobody at http://127.0.0.1:9; start it?"),
        ("mail me@example.org", "mail me@example.org"),
    ],
)
def test_what_may_be_secret_in_a_url_is_masked_and_nothing_else(text: str, expected: str) -> None:
    assert masked(text) == expected
    assert one_line(OSError(text)) == expected


@given(SECRETS, SECRETS, st.sampled_from(["redis", "rediss", "unix", "https"]))
def test_no_user_and_no_password_is_left(user: str, password: str, scheme: str) -> None:
    """Whatever they consist of, but for what ends them in a URL."""
    text = masked(f"--bus: {scheme}://{user}:{password}@host/0: refused")
    assert text == f"--bus: {scheme}://***@host/0: refused"


@given(SECRETS.filter(lambda text: len(text.split()) == 1 and text.isprintable()))
def test_no_value_of_a_query_is_left(secret: str) -> None:
    """Up to a space: no program takes one there."""
    for query in (f"password={secret}", f"db=1&password={secret}", secret):
        assert masked(f"redis://host/0?{query} is gone") == "redis://host/0?*** is gone"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (BusUnavailableError("a: Connection refused."), "a: Connection refused; start it, or"),
        (BusUnavailableError("a: no bus there (404)"), "a: no bus there (404); check --bus"),
        (ExceptionGroup("", [BusUnavailableError("a")]), "a; check --bus"),
        (PublishUnknownError("Connection refused", idempotency_key="k"), "Connection refused"),
        (PublishUnknownError("gone", idempotency_key="k"), "gone"),
        (ValueError("a key is too long"), "a key is too long"),
    ],
    ids=["refused", "other", "group", "unknown", "gone", "no-matter-of-the-bus"],
)
def test_to_start_the_bus_is_advised_where_nothing_listens_alone(
    error: Exception, said: str
) -> None:
    message = failure_of(error).message
    assert message == said or message.startswith(f"{said} name another with --bus")


@pytest.mark.parametrize("group", [False, True])
def test_who_cannot_resume_is_told_from_where_they_can(group: bool) -> None:
    lost = HistoryLostError("future", "e-1")
    error = ExceptionGroup("", [lost]) if group else lost
    assert failure_of(error).message == f"{lost}; leave out --after, or give --after e-1"


@pytest.mark.parametrize(
    ("arguments", "variable", "value", "said"),
    [
        ("watch a", "WATCHBUS_BUS", "ftp://u:secret@h", "unknown bus URL 'ftp://***@h'; supported"),
        ("watch a", "WATCHBUS_BUS", "memory://", "exists only inside this command"),
        ("watch a", "WATCHBUS_TOKEN", "very secret", "a token"),
        ("watch a", "WATCHBUS_WATCH_AFTER", "nonsense", "not a position"),
        ("watch a", "WATCHBUS_WATCH_HISTORY", "x", "not a valid integer"),
        ("serve", "WATCHBUS_SERVE_BUS", "nonsense", "unknown bus URL 'nonsense'; supported"),
        ("serve", "WATCHBUS_SERVE_BIND", "nonsense", "host:port"),
        ("serve", "WATCHBUS_SERVE_BIND", "absent.invalid:1", "choose another with"),
        ("serve", "WATCHBUS_SERVE_MAX_KEYS", "0", "must be at least 1"),
        ("serve", "WATCHBUS_SERVE_ALLOWED_HOST", "https://x", "must be a name or an address"),
        ("serve", "WATCHBUS_SERVE_WORKERS", "0", "is not in the range"),
        ("bench redis", "WATCHBUS_BENCH_REDIS_BUS", "nonsense", "unknown bus URL"),
    ],
)
def test_a_bad_value_is_blamed_on_where_it_came_from(
    arguments: str,
    variable: str,
    value: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On the option where it was one, on the variable where it came from the environment."""
    name = arguments.split(maxsplit=1)[0].upper()
    option = "--" + re.sub(rf"WATCHBUS_({name}_(REDIS_)?)?", "", variable)
    option = option.lower().replace("_", "-")
    errors = []
    for more in ([option, value], []):
        if not more:
            monkeypatch.setenv(variable, value)
        assert run([*arguments.split(), *more]) in (1, 2)
        errors.append(capsys.readouterr().err)
    assert said in errors[0]
    assert option in errors[0]
    # A hint may name the option, too.
    assert errors[1].partition("(see")[0].replace(variable, option) == (
        errors[0].partition("(see")[0].replace(f"'{option}'", option)
    )
    assert variable in errors[1]
    assert "secret" not in "".join(errors)


def test_the_listed_help_is_that_of_the_commands() -> None:
    for name, place in COMMANDS.items():
        module, _, attribute = place.name.partition(":")
        found = getattr(importlib.import_module(module), attribute)
        assert " ".join(found.help.partition("\n\n")[0].split()) == place.summary, name


async def test_a_bus_that_is_not_there_is_blamed_on_the_variable() -> None:
    bus = f"http://127.0.0.1:{free_port()}"
    ended = await command("publish", "a", "x", environment={"WATCHBUS_BUS": bus})
    assert ended.status == 1
    assert ended.err.endswith("refused; start it, or name another with WATCHBUS_BUS\n")

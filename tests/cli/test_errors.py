"""What the commands say has no secret in it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_watchbus import BusUnavailableError, HistoryLostError, PublishUnknownError
from trio_watchbus._cli._errors import masked, one_line
from trio_watchbus._cli._failures import failure_of

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

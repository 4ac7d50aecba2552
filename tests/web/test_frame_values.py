"""How many values a long frame may have before it is parsed."""

from __future__ import annotations

import json

import pytest
import trio

from trio_watchbus._protocol import RequestError
from trio_watchbus.web._session import check_values


@pytest.mark.parametrize(
    "data", ["x" * 300_000, ",[{" * 100_000, '\\",' * 300_000, "\\" * 250_001, ',"' * 150_000]
)
async def test_what_is_in_strings_counts_for_nothing(data: str) -> None:
    """Data may have any number of commas, quotes and backslashes."""
    await check_values(json.dumps({"op": "publish", "id": 1, "key": "a", "data": data}), 4)


@pytest.mark.parametrize(
    "text", ["[" + "1," * 51 + "1]", "[" + '"",' * 51, '"",' * 51, '"a"' * 101, "{" + "," * 51]
)
async def test_more_values_are_refused(text: str) -> None:
    """Also where the text is not JSON."""
    with pytest.raises(RequestError, match="at most 50 values"):
        await check_values(text, 50)


@pytest.mark.parametrize("text", ['"' + "\\a" * 500_000, '"\\' * 500_000, '"a', '"\\', ""])
async def test_a_string_that_does_not_end(text: str) -> None:
    """It is looked at once, and left to the parser."""
    with trio.fail_after(10):
        await check_values(text, 1)

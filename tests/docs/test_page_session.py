"""A page that says what is not so fails."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import page_session
import pytest
from page_blocks import Shown
from page_session import run_page


async def run_text(folder: Path, text: str) -> str:
    """Run a page with this text; return why something could not be done."""
    page = folder / "page.md"
    page.write_text(dedent(text))
    return await run_page(page, folder)


async def test_a_page_that_says_what_is_so_passes(tmp_path: Path) -> None:
    not_done = await run_text(
        tmp_path,
        """
        ```python
        # greet.py
        print("hello")
        ```

        ```shell
        python greet.py
        ```

        ```text
        h…o
        ```
        """,
    )
    assert not_done == ""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("```python\n1 / 0\n```\n", "ZeroDivisionError"),
        ("```shell\necho before; false\necho after\n```\n", "before"),
        ("<!-- goes on -->\n```shell\nexit 3\n```\n\n```text\nready\n```\n", "ended with 3"),
        ("```shell\necho a\n```\n\n```text\nb\n```\n", "not what was printed"),
        ("```shell\necho a; echo b\n```\n\n```text\na\n```\n", "not what was printed"),
        ("```json\n{\n```\n", "Expecting"),
        ("```cobol\nSTOP RUN.\n```\n", "nothing runs 'cobol'"),
        ("- in a list\n\n  ```python\n  1 / 0\n  ```\n", "ZeroDivisionError"),
    ],
    ids=["raises", "status", "goes-on", "other", "more", "json", "language", "indented"],
)
async def test_a_page_that_says_what_is_not_so_fails(
    text: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_session, "SECONDS", 1)
    # What pytest.fail raises is no Exception.
    with pytest.raises(BaseException, match=told) as raised:
        await run_text(tmp_path, text)
    assert any("in the block at page.md:" in note for note in raised.value.__notes__)


async def test_a_block_with_a_reason_is_let_be(tmp_path: Path) -> None:
    text = "<!-- not run: it fails -->\n```python\n1 / 0\n```\n"
    assert await run_text(tmp_path, text) == ""


@pytest.mark.parametrize(
    ("shown", "printed", "is_all", "is_among"),
    [
        ("a\nb\n", ["a", "b"], True, True),
        ("a\nb\n", ["x", "a", "b", "x"], False, True),
        ("a\nb\n", ["a", "x", "b"], False, False),
        ("a…c\n", ["abbbc"], True, True),
        ("a.c\n", ["abc"], False, False),
        ("a\n", [], False, False),
    ],
)
def test_lines_are_shown_in_order_and_nothing_between(
    shown: str, printed: list[str], is_all: bool, is_among: bool
) -> None:
    assert Shown(shown).is_all(printed) is is_all
    assert Shown(shown).is_among(printed) is is_among

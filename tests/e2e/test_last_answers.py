"""A connection that is closed after an answer is closed when the client has it."""

from __future__ import annotations

import contextlib
import ssl
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme
from served import SECONDS, Client, Server, served

MORE = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 25_000
"""A megabyte of requests, far beyond what is read in one go."""


def request(target: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([b"POST %b HTTP/1.1" % target, b"Host: 127.0.0.1", *headers, b"", body])


REFUSED = {
    "ambiguous": (
        400,
        request(
            b"/publish?key=a",
            b"Content-Length: 5",
            b"Transfer-Encoding: chunked",
            body=b"0\r\n\r\n",
        ),
    ),
    "no host": (400, b"GET /healthz HTTP/1.1\r\n\r\n"),
    "bad header": (400, request(b"/publish?key=a", b"Foo : bar")),
    "too large": (413, request(b"/publish?key=a", b"Content-Length: 9000000")),
    "bad chunk behind a refusal": (
        404,
        request(b"/nothing", b"Transfer-Encoding: chunked", body=b"1\r\nx\r\nbad\r\n"),
    ),
    "closing": (
        200,
        b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
    ),
}


async def answer(client: Client, status: int, data: bytes) -> None:
    """Send all of `data` before anything is read; the status and the end come, and no reset."""
    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                # The server stops reading once the client had its time.
                with contextlib.suppress(trio.BrokenResourceError):
                    await client.send(data)

            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked(0.05)
            response = await client.response()
            assert response.status == status
            await client.is_closed()


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("size", [0, 200, len(MORE)])
async def test_an_answer_comes_whatever_else_was_sent(server: Server, name: str, size: int) -> None:
    """Bytes behind the last request are neither served nor a reason to cut the answer short."""
    status, data = REFUSED[name]
    async with await server.connect() as client:
        await answer(client, status, data + MORE[:size])
    assert server.bus.statistics().journal_messages == 0


async def test_an_answer_comes_over_tls_whatever_else_was_sent(tmp_path: Path) -> None:
    """There, too, a reset would discard it."""
    authority = trustme.CA()
    pem = tmp_path / "server.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(pem)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with served(context=context, certfile=str(pem), keyfile=str(pem)) as server:
        for status, data in REFUSED.values():
            async with await server.connect() as client:
                await answer(client, status, data + MORE)

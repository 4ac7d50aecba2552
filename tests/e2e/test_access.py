"""Which hosts and origins are served."""

from __future__ import annotations

import pytest
from served import Server, served

from trio_watchbus import InMemoryWatchBus
from trio_watchbus.web import ServerOptions, serve

SHOP = "https://shop.example"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1234", "127.0.0.1", "[::1]:80"])
async def test_loopback_names(server: Server, host: str) -> None:
    """The names of this machine are those of the server, whatever the port."""
    assert (await server.ask("/healthz", headers={"Host": host})).status == 200


async def test_an_allowed_host() -> None:
    """A name that a proxy passes on can be allowed, and only that."""
    async with served(allowed_hosts=["Shop.example"]) as server:
        for host in ("shop.example", "SHOP.example:443"):
            assert (await server.ask("/healthz", headers={"Host": host})).status == 200
        assert (await server.ask("/healthz", headers={"Host": "example"})).status == 403


@pytest.mark.parametrize("allowed", ["2001:db8::1", "[2001:DB8::1]"])
async def test_an_allowed_address_of_ipv6(allowed: str) -> None:
    """In the header it is in brackets; where it is allowed it may be."""
    async with served(allowed_hosts=[allowed]) as server:
        for host in ("[2001:db8::1]", "[2001:DB8::1]:443"):
            assert (await server.ask("/healthz", headers={"Host": host})).status == 200
        assert (await server.ask("/healthz", headers={"Host": "[2001:db8::2]"})).status == 403


async def test_the_name_that_was_bound() -> None:
    """The server goes by the name that it was told to listen at."""
    async with served(bind="localhost:0") as server:
        assert (await server.ask("/healthz", headers={"Host": "localhost"})).status == 200


async def test_the_address_that_a_client_connected_to() -> None:
    """Listening on every address, the server goes by each."""
    async with served(bind="0.0.0.0:0", allow_anonymous=True) as server:
        headers = {"Host": f"127.0.0.5:{server.port}"}
        assert (await server.ask("/healthz", headers=headers)).status == 403
        async with await server.connect(address="127.0.0.5") as client:
            await client.request("/healthz", headers=headers)
            assert (await client.response()).status == 200


async def test_the_same_origin(server: Server) -> None:
    """A page of the server's own may use it; nothing is said about origins."""
    host = f"localhost:{server.port}"
    headers = {"Host": host, "Origin": f"http://{host}"}
    response = await server.ask("/publish?key=a", "POST", b"1", headers)
    assert response.status == 200
    assert "access-control-allow-origin" not in response.headers
    async with await server.connect() as client:
        assert (await client.upgrade("/ws?key=a", **headers)).status == 101


@pytest.mark.parametrize("origin", [SHOP, "null", "http://localhost:1", "https://127.0.0.1:1"])
async def test_a_foreign_origin(server: Server, origin: str) -> None:
    """A page of another origin may not: neither read nor publish."""
    for target, method in (("/sse?key=a", "GET"), ("/publish?key=a", "POST")):
        response = await server.ask(target, method, headers={"Origin": origin})
        assert (response.status, response.error) == (403, "origin_not_allowed")
        assert "--allowed-origin" in response.json["error"]["detail"]
        assert "access-control-allow-origin" not in response.headers
    assert server.bus.statistics().journal_messages == 0


async def test_an_allowed_origin() -> None:
    """An allowed origin is told so on every answer, so that its EventSource works."""
    async with served(allowed_origins=[SHOP]) as server:
        headers = {"Origin": SHOP}
        async with await server.connect() as client:
            await client.request("/sse?key=a", headers=headers)
            head = await client.head()
            assert head.status == 200
            assert head.headers["access-control-allow-origin"] == SHOP
            assert head.headers["vary"] == "Origin"
        response = await server.ask("/sse", headers=headers)
        assert response.status == 400
        assert response.headers["access-control-allow-origin"] == SHOP
        async with await server.connect() as client:
            assert (await client.upgrade("/ws?key=a", **headers)).status == 101
        for other in ("null", "https://shop.example.evil.example", "http://shop.example"):
            response = await server.ask("/sse?key=a", headers={"Origin": other})
            assert response.status == 403
            assert "access-control-allow-origin" not in response.headers
        assert (await server.ask("/healthz")).headers["vary"] == "Origin"


async def test_a_preflight() -> None:
    """A page of an allowed origin may send what the routes take, if it asks before."""
    async with served(allowed_origins=[SHOP]) as server:
        headers = {"Origin": SHOP, "Access-Control-Request-Method": "POST"}
        response = await server.ask("/publish", "OPTIONS", headers=headers)
        assert response.status == 200
        assert response.headers["access-control-allow-origin"] == SHOP
        assert "POST" in response.headers["access-control-allow-methods"]
        assert "Idempotency-Key" in response.headers["access-control-allow-headers"]
        response = await server.ask("/publish", "OPTIONS", headers={"Origin": "https://b.example"})
        assert response.status == 403


async def test_other_machines_are_not_served_unasked() -> None:
    """Listening where others reach it is refused, with what to do."""
    with pytest.raises(ValueError, match="reached from other machines"):
        await serve(InMemoryWatchBus(), bind="0.0.0.0:0")
    with pytest.raises(TypeError, match="into a list"):
        ServerOptions(allowed_origins=SHOP)

"""What is private to hypercorn and Quart-Trio, and relied on here, is still there."""

from __future__ import annotations

import inspect
from typing import Any

import h11
import pytest
from hypercorn.config import Config
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.ws_stream import Handshake, WebsocketBuffer, WSStream
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from quart import Blueprint
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection, TrioASGILifespan, TrioASGIWebsocketConnection

FUNCTIONS = [
    (TCPServer, "_read_data", ["self"]),
    (TCPServer, "protocol_send", ["self", "event"]),
    (TCPServer, "__init__", ["self", "app", "config", "context", "state", "stream"]),
    (ProtocolWrapper, "handle", ["self", "event"]),
    (H11Protocol, "_check_protocol", ["self", "event"]),
    (H11Protocol, "_create_stream", ["self", "request"]),
    (WSStream, "handle", ["self", "event"]),
    (WSStream, "_send_wsproto_event", ["self", "event"]),
    (WebsocketBuffer, "extend", ["self", "event"]),
    (WebsocketBuffer, "to_message", ["self"]),
    (WebsocketBuffer, "clear", ["self"]),
    (Blueprint, "register", ["self", "app", "options"]),
    (TrioASGIHTTPConnection, "handle_messages", ["self", "nursery", "request", "receive"]),
    (TrioASGIHTTPConnection, "handle_request", ["self", "nursery", "request", "send"]),
    (TrioASGIWebsocketConnection, "handle_websocket", ["self", "nursery", "websocket", "send"]),
    (TrioASGILifespan, "__call__", ["self", "receive", "send"]),
]


@pytest.mark.parametrize(
    ("owner", "name", "parameters"),
    FUNCTIONS,
    ids=[f"{owner.__name__}.{name}" for owner, name, _ in FUNCTIONS],
)
def test_a_function(owner: type, name: str, parameters: list[str]) -> None:
    """It takes what is given to it, or what it overrides takes."""
    assert list(inspect.signature(getattr(owner, name)).parameters) == parameters


def h11_protocol(wrapper: ProtocolWrapper) -> H11Protocol:
    assert isinstance(wrapper.protocol, H11Protocol)
    return wrapper.protocol


@pytest.mark.parametrize("name", ["connection", "stream"])
def test_what_hypercorn_keeps_of_a_connection(name: str) -> None:
    nothing: Any = None
    wrapper = ProtocolWrapper(
        nothing, Config(), WorkerContext(None), nothing, nothing, False, None, None, nothing
    )
    protocol = h11_protocol(wrapper)
    assert hasattr(protocol, name)
    assert isinstance(protocol.connection, h11.Connection)


@pytest.mark.parametrize("name", ["app_put", "buffer", "closed", "send", "stream_id"])
def test_what_hypercorn_keeps_of_a_websocket(name: str) -> None:
    nothing: Any = None
    stream = WSStream(
        nothing, Config(), WorkerContext(None), nothing, False, None, None, nothing, 1
    )
    assert hasattr(stream, name)
    assert hasattr(Handshake([], "1.1"), "accepted")
    assert hasattr(Handshake([], "1.1"), "extensions")


@pytest.mark.parametrize(
    "name",
    [
        *("alpn_protocols", "keep_alive_max_requests", "keep_alive_timeout", "max_app_queue_size"),
        *("include_server_header", "logger_class", "ssl_handshake_timeout"),
        "websocket_max_message_size",
    ],
)
def test_an_option_of_hypercorn(name: str) -> None:
    """One that is not there would be set to no effect."""
    assert hasattr(Config(), name)


@pytest.mark.parametrize(
    "name", ["asgi_http_class", "asgi_lifespan_class", "asgi_websocket_class", "view_functions"]
)
def test_an_attribute_of_an_application(name: str) -> None:
    assert hasattr(QuartTrio(__name__), name)

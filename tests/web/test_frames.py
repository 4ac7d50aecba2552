"""The frames that a server sends are what a WebSocket library makes of a message."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol, Opcode

from trio_watchbus.web._websocket import frame_of


def frame_by_wsproto(message: str | bytes) -> bytes:
    """The same message, by a library that is not ours."""
    opcode = Opcode.TEXT if isinstance(message, str) else Opcode.BINARY
    payload = message.encode() if isinstance(message, str) else message
    return bytes(FrameProtocol(client=False, extensions=[])._serialize_frame(opcode, payload))


@given(st.text() | st.binary())
def test_text_is_text_and_bytes_are_binary(message: str | bytes) -> None:
    assert frame_of(message) == frame_by_wsproto(message)


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_each_form_of_a_length_begins_where_it_should(size: int) -> None:
    assert frame_of(bytes(size)) == frame_by_wsproto(bytes(size))

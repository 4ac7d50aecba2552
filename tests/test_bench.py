"""`watchbus bench` does the work that it is asked for, and counts it right."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_watchbus._bench._connections import masked_text
from trio_watchbus._bench._figures import Figures, Latency, Load, as_table
from trio_watchbus._bench._processes import served_bus
from trio_watchbus._bench._stamp import LEAST_SIZE, MarkReader, sent_at, stamped
from trio_watchbus._cli._main import run

SERVED = ["sse", "ws", "ws --raw"]


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    """A server that a bench did not start."""
    with served_bus() as (url, _):
        yield url


def rows_of(capsys: pytest.CaptureFixture[str], command: str) -> list[dict[str, Any]]:
    """Run `watchbus bench` with a command's words, and return what it prints as JSON."""
    assert run(["bench", *command.split(), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert isinstance(rows, list)
    return rows


def a_load(**changes: Any) -> Load:
    """A small load."""
    usual = {"clients": 2, "keys": 1, "size": 16, "rate": 0, "messages": 3, "seconds": 1}
    return Load(**{**usual, **changes})


# What it counts with


@given(
    st.lists(st.integers(LEAST_SIZE, 40), max_size=8),
    st.lists(st.integers(1, 50), min_size=1, max_size=20),
)
def test_every_message_is_counted_once_wherever_reads_cut_the_stream(
    sizes: list[int], cuts: list[int]
) -> None:
    stream = b"".join(b"data: " + stamped(size) + b"\n\n" for size in sizes)
    reader = MarkReader()
    while stream:
        for cut in cuts:
            reader.feed(stream[:cut])
            stream = stream[cut:]
    assert reader.count == len(sizes)


def test_a_reader_tells_when_the_first_message_of_a_read_was_sent() -> None:
    first, second = stamped(16), stamped(30)
    assert len(second) == 30
    assert MarkReader().feed(b"data: " + first + b"\n\ndata: " + second) == sent_at(first)
    assert MarkReader().feed(b"nothing") is None


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 30))
def test_the_deliveries_expected_are_those_of_clients_and_messages_in_turn(
    clients: int, keys: int, messages: int
) -> None:
    watched = [number % keys for number in range(clients)]
    counted = sum(watched.count(number % keys) for number in range(messages))
    assert a_load(clients=clients, keys=keys, messages=messages).expected() == counted


def test_percentiles_are_of_all_samples_in_order() -> None:
    seconds = [number / 1000 for number in range(1000, 0, -1)]
    assert Latency.of(seconds) == Latency(
        samples=1000, p50=0.501, p90=0.901, p99=0.991, highest=1.0
    )
    assert Latency.of([]) is None


def test_a_table_says_what_was_lost_and_leaves_out_what_is_not_known() -> None:
    figures = Figures(
        bench="sse",
        load=a_load(rate=2.5),
        expected=6000,
        delivered=5998,
        seconds=2.0,
        latency=None,
        cpu=None,
        memory=None,
    )
    head, line = as_table([figures]).splitlines()
    assert head.split() == [
        *("bench", "clients", "keys", "bytes", "rate", "delivered", "lost", "per", "second"),
        *("p50", "ms", "p90", "ms", "p99", "ms", "max", "ms", "CPU", "memory"),
    ]
    assert line.split() == ["sse", "2", "1", "16", "2.5", "5,998", "2", "2,999", *6 * ["-"]]
    assert len(head) == len(line)


@pytest.mark.parametrize(
    ("seconds", "cpu", "share"), [(0.0001, 0.01, "-"), (0.49, 0.3, "-"), (2.0, 1.5, "75%")]
)
def test_the_share_of_a_processor_is_left_out_of_a_short_run(
    seconds: float, cpu: float, share: str
) -> None:
    """It is measured in hundredths of a second, so a short run would take thousands of percent."""
    figures = Figures(
        bench="sse",
        load=a_load(),
        expected=1,
        delivered=1,
        seconds=seconds,
        latency=None,
        cpu=cpu,
        memory=None,
    )
    assert as_table([figures]).split()[-2] == share


def test_a_frame_of_a_client_is_masked_and_short() -> None:
    assert masked_text(b"hi") == b"\x81\x82\0\0\0\0hi"
    with pytest.raises(ValueError, match="126 bytes"):
        masked_text(bytes(126))


# What it runs


def test_memory_delivers_every_message_to_each_watch_of_its_key(
    capsys: pytest.CaptureFixture[str],
) -> None:
    [row] = rows_of(capsys, "memory --watchers 5 --keys 2 --messages 301 --size 20")
    assert row["load"] == {
        "clients": 5,
        "keys": 2,
        "size": 20,
        "rate": 0.0,
        "messages": 301,
        "seconds": 60.0,
    }
    # 151 messages to the key with three watches, 150 to the one with two.
    assert row["delivered"] == row["expected"] == 753
    assert row["per_second"] == row["delivered"] / row["seconds"] > 0
    assert row["latency"]["samples"] > 0
    assert 0 <= row["latency"]["p50"] <= row["latency"]["p99"] <= row["latency"]["highest"]
    assert row["memory"] > 2**20


def test_each_size_at_each_rate_is_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(
        capsys, "memory --watchers 2 --messages 5 --size 16 --size 64 --rate 0 --rate 1000"
    )
    assert [(row["load"]["size"], row["load"]["rate"]) for row in rows] == [
        *((16, 0), (16, 1000), (64, 0), (64, 1000)),
    ]


def test_a_run_ends_when_its_time_is_up_and_tells_what_is_missing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    [row] = rows_of(capsys, "memory --watchers 1 --keys 1 --messages 9 --rate 0.1 --seconds 1")
    assert (row["expected"], row["delivered"]) == (9, 1)


@pytest.mark.parametrize("kind", SERVED)
def test_streams_of_a_server_that_it_starts_get_everything(
    capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    [row] = rows_of(capsys, f"{kind} --watchers 5 --keys 2 --messages 301 --size 200")
    assert row["delivered"] == row["expected"] == 753
    assert row["cpu"] is not None
    assert row["memory"] > 2**20


@pytest.mark.parametrize("kind", SERVED)
def test_streams_of_a_server_that_it_is_given_get_everything(
    capsys: pytest.CaptureFixture[str], server_url: str, kind: str
) -> None:
    [row] = rows_of(capsys, f"{kind} --bus {server_url} --watchers 3 --messages 20 --rate 400")
    assert row["delivered"] == row["expected"] == 60
    assert row["latency"]["samples"] > 0
    # Nothing is known of a process that is another's.
    assert (row["cpu"], row["memory"]) == (None, None)


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("rate", [0, 1000])
def test_publishing_is_done_when_all_is_accepted(
    capsys: pytest.CaptureFixture[str], server_url: str, batch: int, rate: int
) -> None:
    [row] = rows_of(
        capsys,
        f"publish --bus {server_url} --connections 3 --messages 50 --batch {batch} --rate {rate}",
    )
    assert row["delivered"] == row["expected"] == 50
    if not rate:
        assert row["latency"]["samples"] == -(-50 // batch)


def test_publishing_goes_on_where_a_connection_is_for_one_request_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As behind a proxy that closes connections: the next request goes by another one."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"

    def serve(listening: socket.socket) -> None:
        for _ in range(5):
            connection, _ = listening.accept()
            with connection:
                request = b""
                while len(request.partition(b"\r\n\r\n")[2]) < LEAST_SIZE:
                    request += connection.recv(65536)
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as threads:
        listening.settimeout(30)
        serving = threads.submit(serve, listening)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        [row] = rows_of(capsys, f"publish --bus {url} --connections 1 --messages 5")
        assert row["delivered"] == 5
        serving.result()


def test_a_table_is_printed_unless_json_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "memory", "--watchers", "2", "--messages", "3", "--keys", "1"]) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert head.split()[0] == "bench"
    assert line.split()[:7] == ["memory", "2", "1", "16", "full", "6", "0"]


# What it cannot do


def test_a_server_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{holder.getsockname()[1]}"
        assert run(["bench", "sse", "--bus", url]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "refused" in line


def test_a_server_that_refuses_is_told_with_its_answer(
    capsys: pytest.CaptureFixture[str], server_url: str
) -> None:
    too_large = 2 * 1024 * 1024
    command = f"bench publish --bus {server_url} --messages 1 --size {too_large}"
    assert run(command.split()) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "413" in line


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("sse --bus https://127.0.0.1:1", "plain http"),
        ("publish --bus redis://127.0.0.1:1", "plain http"),
    ],
)
def test_a_url_that_load_clients_do_not_speak_is_refused(
    capsys: pytest.CaptureFixture[str], command: str, says: str
) -> None:
    assert run(["bench", *command.split()]) == 1
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", ["memory --size 15", "sse --watchers 0", "ws --rate -1", "publish --seconds 0"]
)
def test_a_number_out_of_range_is_refused(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert run(["bench", *command.split()]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_redis_says_what_to_install_where_there_is_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    assert run(["bench", "redis"]) == 1
    assert "redis-server" in capsys.readouterr().err

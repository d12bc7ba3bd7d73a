"""Before JAX joins them processes meet, or each says in one line and in time why they do not."""

import contextlib
import functools
import socket
import threading
import time

import pytest
from memory_store import in_threads

from hsproto.errors import UserError
from hsproto.parallel import rendezvous
from hsproto.parallel.rendezvous import Address


def free_port():
    with socket.socket() as sock:
        sock.bind(("localhost", 0))
        return sock.getsockname()[1]


def meet(*numbers, seconds=10, host="localhost", port=None):
    """What processes of these (count, index) say."""
    address = Address(host, port or free_port())
    calls = [
        functools.partial(rendezvous.meet, address, count, index, seconds, lambda _: None)
        for count, index in numbers
    ]
    return in_threads(*calls)


def test_all_meet_and_the_port_is_free_again():
    port = free_port()
    for _ in range(2):
        assert meet((4, 2), (4, 1), (4, 3), (4, 0), port=port) == [None] * 4
    assert meet((1, 0)) == [None]


def test_who_is_missing_is_named_to_all():
    began = time.monotonic()
    first, second = meet((4, 0), (4, 2), seconds=1)
    assert time.monotonic() - began < 3
    assert first == second
    assert "processes 1, 3 of 4 did not join at localhost:" in first and "within 1 s" in first


def test_other_numbers_are_named_to_all():
    first, second = meet((2, 0), (3, 2))
    assert first == second
    assert "--num_processes=2 in process 0, 3 in process 2" in first
    said = meet((3, 0), (3, 1), (3, 1))
    assert set(said) == {"two processes were started with --process_id=1"}


@pytest.mark.parametrize(
    ("host", "reason"),
    [("localhost", "Connection refused"), ("no.such.host.invalid", ""), ("x" * 300, "")],
)
def test_a_coordinator_that_is_not_there_is_waited_for_as_long_as_stated(host, reason):
    said = []
    with pytest.raises(UserError) as error:
        rendezvous.meet(Address(host, free_port()), 2, 1, 0.8, said.append)
    assert "could not be reached within 0.8 s (--startup_timeout): " in str(error.value)
    assert reason in str(error.value)
    assert len(said) == 1 and "waiting up to 0.8 s for process 0" in said[0]


def test_a_port_in_use_is_a_users_error():
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        (text,) = meet((2, 0), port=port)
        assert f"process 0 cannot listen on port {port} (Address already in use)" in text
        (text,) = meet((2, 1), port=port, seconds=0.5)
        assert "it does not answer as process 0 of a run" in text


def call(port, greeting):
    """Call process 0 as soon as it listens, and hang up."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        with contextlib.suppress(ConnectionRefusedError):
            with socket.create_connection(("localhost", port)) as caller:
                caller.sendall(greeting)
            return


def test_strangers_and_a_process_that_starts_again_are_no_mistake():
    port = free_port()
    address = Address("localhost", port)
    called = threading.Event()

    def first():
        # Not the last to come: a process that leaves just as all are there counts as having come.
        for greeting in (b"", b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b'{"index": 1, "count": 3}\n'):
            call(port, greeting)
        called.set()
        rendezvous.meet(address, 3, 1, 30, print)

    def second():
        called.wait(30)
        rendezvous.meet(address, 3, 2, 30, print)

    answers = in_threads(lambda: rendezvous.meet(address, 3, 0, 30, print), first, second)
    assert answers == [None, None, None]


@pytest.mark.parametrize("text", ["host", "host:", "host:x", ":5", "host:0", "host:99999", ""])
def test_an_address_needs_a_host_and_a_port(text):
    with pytest.raises(UserError, match=r"must be HOST:PORT with a port in 1\.\.65535"):
        rendezvous.parse_address(text)


def test_addresses_may_be_of_version_6():
    assert rendezvous.parse_address("[::1]:80") == Address("::1", 80)
    assert str(Address("::1", 80)) == "[::1]:80"


@pytest.mark.parametrize(
    ("count", "index"), [(0, 0), (-1, 0), (10**9, 0), (2, -1), (2, 2), (2, 10**9)]
)
def test_absurd_numbers_are_refused(count, index):
    with pytest.raises(UserError, match="must be in"):
        rendezvous.check_numbers(count, index)

"""Unit tests reach this machine only: a test that asks the internet fails, on every machine and not only offline."""

from __future__ import annotations

import socket
import urllib.request

import pytest

#: The plugin warns before it raises, and warnings are errors here.
REFUSED = "tried to use socket.socket.connect"


@pytest.mark.parametrize("address", ["192.0.2.1", "8.8.8.8", "2001:db8::1"])
def test_a_connection_to_another_machine_is_refused(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as one, pytest.raises(UserWarning, match=REFUSED):
        one.connect((address, 443))


def test_a_client_library_is_refused_too() -> None:
    with pytest.raises(UserWarning, match=REFUSED):
        urllib.request.urlopen("http://192.0.2.1/")


def test_a_server_of_the_test_itself_can_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()

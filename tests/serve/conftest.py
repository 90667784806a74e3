"""The demo's stories as a model that chats, served in this very process."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from balcony_edge.control.budgets import parse_budget
from balcony_edge.control.loaded import Loaded
from balcony_edge.telemetry import FakeSensors
from helpers.served import chatting

# Without the extra [serve] and a client there is nothing to test.
collect_ignore_glob = [] if all(map(find_spec, ("starlette", "uvicorn", "httpx"))) else ["test_*.py"]
if not collect_ignore_glob:
    import uvicorn
    from starlette.testclient import TestClient

    from balcony_edge.serve.app import application
    from balcony_edge.serve.server import Server
    from balcony_edge.serve.service import Service
    from balcony_edge.serve.slots import Slots


@pytest.fixture(scope="session")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    """The demo with a chat template, in memory once."""
    with Loaded(chatting(tmp_path_factory.mktemp("chats")), provider="cpu", sensors=FakeSensors()) as found:
        yield found


@pytest.fixture
def service(loaded: Loaded) -> Service:
    """A server's state with two slots and room for two that wait."""
    return Service(loaded, Slots(loaded, 2, parse_budget("full"), queue=2), "stories")


@pytest.fixture
def address(service: Service) -> Iterator[str]:
    """Where a real HTTP server serves it, in a thread: ``http://127.0.0.1:PORT``."""
    server = Server(uvicorn.Config(application(service, patience_s=5.0), log_level="warning"), service)
    sock = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    sock.close()


@pytest.fixture
def client(service: Service) -> Iterator[TestClient]:
    """A client of a server without a key."""
    with TestClient(application(service, patience_s=5.0)) as found:
        yield found

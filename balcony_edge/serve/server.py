"""Run the application until it is told to stop. uvicorn serves; replies that run may end."""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence

import uvicorn

from balcony_edge.errors import BalconyError
from balcony_edge.serve.app import PATIENCE_S, application
from balcony_edge.serve.service import Service


class Server(uvicorn.Server):
    """uvicorn, that ends what would never end by itself before it waits for the rest."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As in uvicorn, once no further request is taken."""
        self._service.slots.refuse()
        await super().shutdown(sockets)


def serve(
    service: Service,
    host: str,
    port: int,
    api_key: str | None = None,
    origins: Sequence[str] = (),
    access_log: bool = True,
) -> None:
    """Serve until SIGINT or SIGTERM. Raises BalconyError if the address cannot be had."""
    log = (lambda line: print(line, file=sys.stderr, flush=True)) if access_log else None
    app = application(service, api_key, origins, log=log)
    config = uvicorn.Config(
        app,
        host,
        port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(PATIENCE_S) + 5,
    )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        # Bound here: uvicorn would end the process with a log line.
        sock = socket.create_server((host, port), family=family)
    except OSError as error:
        raise BalconyError(
            f"cannot listen on {host}:{port}: {error.strerror or error}", "choose another --host or --port"
        ) from error
    shown = f"[{host}]" if ":" in host else host
    # Connections wait in the queue of the socket until the server takes them.
    print(f"serving {service.name} at http://{shown}:{sock.getsockname()[1]}/v1", file=sys.stderr, flush=True)
    with sock:
        Server(config, service).run(sockets=[sock])

"""HAProxy before the instances of an installation, with the checks that docs/production.md recommends."""

from collections.abc import Mapping
from dataclasses import dataclass

_DEFAULTS = """
global
    maxconn 4000
    log stdout format raw local0
defaults
    mode tcp
    log global
    option tcplog
    option redispatch
    retries 3
    timeout connect 2s
    timeout check 2s
    timeout client 1h
    timeout server 1h
    default-server inter 250ms fall 1 rise 2 on-marked-down shutdown-sessions
"""


@dataclass(frozen=True, slots=True)
class Service:
    """A listening address (host:port) and its servers, each checked by an HTTP request that must return 200."""

    listening: str
    path: str
    servers: Mapping[str, str]
    """Addresses (host:port) by name."""
    options: str = "check"
    """Of each server."""
    by_source: bool = False
    """Whether a client stays with one server."""


def configuration(services: Mapping[str, Service]) -> str:
    """Return the configuration. A server of ours that answers 404 is stopping: it keeps its connections."""
    text = _DEFAULTS
    for name, service in services.items():
        text += f"listen {name}\n    bind {service.listening}\n    option httpchk GET {service.path}\n"
        text += "    http-check expect status 200\n"
        text += "    http-check disable-on-404\n" if service.path == "/readyz" else ""
        text += "    balance source\n" if service.by_source else ""
        for server, address in service.servers.items():
            text += f"    server {server} {address} {service.options}\n"
    return text

"""The network interface that carries a node's address.

Gloo and NCCL otherwise take what the host's name resolves to, which on many machines is 127.0.0.1,
or one of several interfaces that the other nodes do not reach.
"""

import fcntl
import os
import socket
import struct
from contextlib import suppress
from pathlib import Path

VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
_GET_ADDRESS = 0x8915


def use(address: str) -> None:
    """Tells both libraries, unless somebody has told them already."""
    name = carrying(address)
    if name:
        for variable in VARIABLES:
            os.environ.setdefault(variable, name)


def carrying(address: str) -> str | None:
    table = _version_6() if ":" in address else _version_4()
    return table.get(address)


def _version_4() -> dict[str, str]:
    found: dict[str, str] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        for _, name in socket.if_nameindex():
            with suppress(OSError):
                asked = struct.pack("256s", name.encode()[:15])
                answer = fcntl.ioctl(s.fileno(), _GET_ADDRESS, asked)
                found.setdefault(socket.inet_ntoa(answer[20:24]), name)
    return found


def _version_6() -> dict[str, str]:
    table = Path("/proc/net/if_inet6")
    rows = [line.split() for line in table.read_text().splitlines()] if table.is_file() else []
    return {socket.inet_ntop(socket.AF_INET6, bytes.fromhex(row[0])): row[-1] for row in rows}

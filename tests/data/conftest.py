"""A cache of its own for each test, a small web server, and the real files where they are."""

import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest


class Server:
    """Serves `files` (name -> bytes) on 127.0.0.1 and notes what was asked for.

    `promised` (name -> length) declares more bytes than are sent, as a broken connection does.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.promised: dict[str, int] = {}
        self.asked: list[str] = []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.lstrip("/")
                server.asked.append(name)
                if name not in server.files:
                    self.send_error(404)
                    return
                body = server.files[name]
                self.send_response(200)
                self.send_header("Content-Length", str(server.promised.get(name, len(body))))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        """From then on nothing answers at the address; stopping twice is fine."""
        if self._thread.is_alive():
            self._http.shutdown()
            self._thread.join()
            self._http.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no data folder but the one that a test names."""
    monkeypatch.setenv("MEMJAX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("MEMJAX_DATA_DIR", raising=False)
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def real_folder() -> Path:
    """The folder of real files, or a skip."""
    named = os.environ.get("MEMJAX_DATA_DIR")
    folder = Path(named or "")
    if not named or not folder.is_dir():
        pytest.skip("no data folder: set MEMJAX_DATA_DIR to one with mnist.npz and the others")
    return folder

"""An S3 server on loopback, which answers nobody while it is told to be out."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

KEYS = {
    "AWS_ACCESS_KEY_ID": "a",
    "AWS_SECRET_ACCESS_KEY": "b",
    "AWS_DEFAULT_REGION": "us-east-1",
}


class ObjectStore:
    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from moto.server import MotoRequestHandler
        from werkzeug.serving import make_server

        self.out, self.refused = False, 0
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server: Any = make_server(
            "127.0.0.1", 0, self._answer, threaded=True, request_handler=MotoRequestHandler
        )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def _answer(self, environ: Any, start: Any) -> Iterable[bytes]:
        if not self.out:
            answer: Iterable[bytes] = self._app(environ, start)
            return answer
        self.refused += 1
        start("503 Service Unavailable", [("Content-Length", "0")])
        return [b""]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """With an environment in which clients of this process, and its children, find it."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    import s3fs

    server = ObjectStore()
    with pytest.MonkeyPatch.context() as patch:
        for key, value in {**KEYS, "AWS_ENDPOINT_URL": server.url}.items():
            patch.setenv(key, value)
        # One that an earlier test left would still call that test's server.
        s3fs.S3FileSystem.clear_instance_cache()
        try:
            yield server
        finally:
            server.close()

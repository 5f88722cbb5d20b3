"""The location of `docs/deploy.md` for calls without a token, in a real nginx."""

import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme
from conftest import serve
from documents import read, snippets
from flask import Flask
from processes import free_port, granian, gunicorn, wait_until
from werkzeug.middleware.proxy_fix import ProxyFix

from bakrypt_proxy import Settings, create_api_blueprint
from bakrypt_proxy.sandbox import Sandbox

PAGE = "docs/deploy.md"
NGINX = shutil.which("nginx")
MAX_UPLOAD = 3 * 2**20
BIG = bytes(40_000_000)
(LOCATION,) = [code for code in snippets(PAGE, "nginx") if "location /bakrypt/" in code]
AROUND = """
daemon off; user root; pid FOLDER/pid; worker_processes 1; error_log stderr; events {}
http {
  access_log off; client_body_temp_path FOLDER/body; proxy_temp_path FOLDER/proxy;
  fastcgi_temp_path FOLDER/fastcgi; scgi_temp_path FOLDER/scgi; uwsgi_temp_path FOLDER/uwsgi;
  server {
    listen 127.0.0.1:PORT ssl;
    ssl_certificate FOLDER/server.pem; ssl_certificate_key FOLDER/server.pem;
    LOCATION
  }
}
"""
needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")


def seconds(directive: str) -> float:
    """Return the time in a line of nginx's."""
    (found,) = re.findall(rf"{directive} (\d+)s;", LOCATION)
    return float(found)


def is_open(port: int) -> bool:
    """Return whether something listens on a port."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@pytest.fixture
def app_url(sandbox: Sandbox) -> Iterator[str]:
    """A host app that believes its proxy, as its operator would have it."""
    app = Flask("host")
    app.config.from_mapping(sandbox.environ, BAKRYPT_MAX_UPLOAD=MAX_UPLOAD)
    app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1, x_host=1)  # type: ignore[method-assign]
    app.register_blueprint(create_api_blueprint(authorize=lambda: True))
    with serve(app) as url:
        yield url


@pytest.fixture
def page(tmp_path: Path, app_url: str, authority: trustme.CA) -> Iterator[requests.Session]:
    """A browser's session; `page.base` is the address of nginx."""
    with behind_nginx(tmp_path, app_url, authority) as session:
        yield session


@contextmanager
def behind_nginx(tmp_path: Path, app_url: str, authority: trustme.CA) -> Iterator[Any]:
    """Run nginx before an app."""
    port = free_port()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        str(tmp_path / "server.pem")
    )
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    location = LOCATION.replace("http://127.0.0.1:8000", app_url)
    config = AROUND.replace("LOCATION", location).replace("PORT", str(port))
    (tmp_path / "nginx.conf").write_text(config.replace("FOLDER", str(tmp_path)))
    command = [str(NGINX), "-e", "stderr", "-p", str(tmp_path), "-c", "nginx.conf"]
    with subprocess.Popen(command) as process, requests.Session() as session:
        session.verify = str(tmp_path / "ca.pem")
        session.base = f"https://127.0.0.1:{port}/bakrypt"  # type: ignore[attr-defined]
        try:
            wait_until(lambda: is_open(port))
            yield session
        finally:
            process.terminate()
            process.wait(10)


@needs_nginx
def test_an_upload_that_nginx_would_refuse_by_default(page: Any) -> None:
    """A file of 2 MiB goes up."""
    response = page.post(f"{page.base}/v1/files/", files={"file": bytes(2 * 2**20)}, timeout=20)
    assert (response.status_code, response.json()["size"]) == (201, 2 * 2**20)


@needs_nginx
def test_a_file_above_the_limit(page: Any) -> None:
    """The app answers in JSON, before nginx does in HTML."""
    response = page.post(f"{page.base}/v1/files/", data=bytes(MAX_UPLOAD + 1), timeout=20)
    assert (response.status_code, response.json()["error"]) == (413, "invalid_request")


@needs_nginx
def test_a_receipt_behind_tls(page: Any) -> None:
    """The app knows that the page came by https: it sets the receipt and takes it back."""
    made = page.post(f"{page.base}/v1/assets/", json=[{"name": "Gold"}], timeout=20).json()
    assert [cookie.name.startswith("__Host-Http-") for cookie in page.cookies] == [True]
    response = page.get(f"{page.base}/v1/transactions/{made[0]['transaction']}/", timeout=20)
    assert response.status_code == 200


@needs_nginx
@pytest.mark.parametrize(
    "serve_app",
    [
        lambda environ: gunicorn(environ, "--pythonpath", "tests", app="api_app:create_app()"),
        lambda environ: granian(environ, app="api_app:create_app"),
    ],
    ids=["gunicorn", "granian"],
)
def test_a_refusal_is_not_lost(
    tmp_path: Path,
    sandbox: Sandbox,
    authority: trustme.CA,
    serve_app: Callable[[dict[str, str]], AbstractContextManager[str]],
) -> None:
    """Nginx is still sending the body that no app reads, and does not make a 502 of the answer."""
    environ = {**sandbox.environ, "BAKRYPT_MAX_UPLOAD": str(MAX_UPLOAD)}
    with serve_app(environ) as url, behind_nginx(tmp_path, url, authority) as page:
        made = page.post(f"{page.base}/v1/assets/", json=[{"name": "Gold"}], timeout=20).json()
        own = f"v1/transactions/{made[0]['transaction']}"
        found = {
            path: [page.post(f"{page.base}/{path}/", data=BIG, timeout=20) for _ in range(8)]
            for path in ("v1/files", "v1/assets", f"{own}/mint", "v1/nothing")
        }
    statuses = {path: {answer.status_code for answer in answers} for path, answers in found.items()}
    assert statuses == {
        "v1/files": {413},
        "v1/assets": {400},
        f"{own}/mint": {200, 400},
        "v1/nothing": {404},
    }


def test_the_numbers_are_above_the_defaults() -> None:
    """Of size and time, those of nginx and those of a stop."""
    settings = Settings()
    (size,) = re.findall(r"client_max_body_size (\d+)m;", LOCATION)
    assert int(size) * 2**20 > settings.max_upload
    longest = settings.upload_timeout + 2 * settings.timeout
    assert seconds("proxy_read_timeout") > longest
    section = read(PAGE).partition("## Calls without a token")[2].partition("\n## ")[0]
    kills = re.findall(r"--(?:workers-kill|graceful)-timeout\s+(\d+)", section)
    assert len(kills) == 2
    assert all(float(kill) > longest for kill in kills)

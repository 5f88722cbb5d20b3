"""The Dockerfile: what it builds serves, is healthy and stops, without write access to itself."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from dockerfile import context, instructions, last
from image import Image, built
from processes import free_port, wait_until

from bakrypt_proxy.sandbox import Sandbox
from bakrypt_proxy.server import __main__ as server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]  # pip may download slowly
DOCKER_STOP = 10  # seconds until `docker stop` kills a container


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    """What the Dockerfile builds."""
    with built() as image:
        yield image


def health(image: Image, port: int) -> int:
    """Return the exit code of the image's own health check."""
    (check,) = [found for found in instructions() if found.keyword == "HEALTHCHECK"]
    command = [part.replace("8000", str(port)) for part in check.command]
    assert command != check.command
    # As in a container whose calls to bakrypt go through a proxy.
    return image.run(command, {"HTTP_PROXY": "http://127.0.0.1:9"}).returncode


def test_the_base_is_slim_and_known() -> None:
    """Both stages use the same Python, one that the project is tested with."""
    bases = {found.value.split()[0] for found in instructions() if found.keyword == "FROM"}
    assert bases == {"python:3.13-slim"}


def test_what_the_image_says_of_itself() -> None:
    """It is not root, by number; its port is the server's; it stops as the server does."""
    assert last("USER").value == "10001:10001"
    assert last("EXPOSE").value == "8000"
    assert last("STOPSIGNAL").value == "SIGTERM"
    timeout = server._DEFAULTS["workers_kill_timeout"]  # noqa: SLF001 - it has no public name
    assert isinstance(timeout, int)
    assert timeout < DOCKER_STOP


def test_no_secret_reaches_a_build() -> None:
    """The context has the sources of the package and the app, and nothing else."""
    assert context() - {"**/__pycache__"} == {
        *("_bakrypt_proxy_pytest.py", "app.py", "bakrypt_proxy"),
        *("LICENSE", "pyproject.toml", "README.md"),
    }


def test_no_build_tool_is_left(image: Image) -> None:
    """There is no pip, no backend and no source tree, only what was installed and `app.py`."""
    assert {path.name for path in image.root.iterdir()} == {"app", "venv"}
    assert [path.name for path in (image.root / "app").iterdir()] == ["app.py"]
    (packages,) = (image.root / "venv").glob("lib/python3*/site-packages")
    installed = {path.name.partition("-")[0] for path in packages.iterdir()}
    assert {"bakrypt_proxy", "granian", "redis", "prometheus_client"} <= installed
    assert not installed & {"pip", "setuptools", "wheel", "hatchling", "build"}


def test_the_command_is_there(image: Image) -> None:
    """`docker run bakrypt_proxy bakrypt check` and the like."""
    result = image.run(["bakrypt", "--help"], {})
    assert (result.returncode, "check" in result.stdout) == (0, True)


def test_it_serves_and_stops(image: Image, sandbox: Sandbox, tmp_path: Path) -> None:
    """Its command serves, its health check tells, and SIGTERM ends it within the time of Docker."""
    port, log = free_port(), tmp_path / "log"
    environ = {**sandbox.environ, "BAKRYPT_NETWORK": "sandbox", "GRANIAN_PORT": str(port)}
    assert health(image, port) != 0
    with image.start(last("CMD").command, environ, log) as process:
        wait_until(lambda: health(image, port) == 0, 60)
        token = requests.post(f"http://127.0.0.1:{port}/auth/exchange/", timeout=20).json()
        assert sandbox.store.owner(token["access_token"]) == "account"
        process.terminate()
        assert process.wait(DOCKER_STOP) == 0
    assert health(image, port) != 0
    assert "Traceback" not in log.read_text()


def test_nothing_in_it_can_be_written(image: Image) -> None:
    """The user of the image cannot change what runs, as with a read-only root."""
    result = image.run(["sh", "-c", f"touch {image.root}/app/x {image.root}/venv/bin/x"], {})
    assert result.returncode != 0
    assert result.stderr.count("Permission denied") == 2

"""`compose.yaml`: what it mounts is there, and its nginx and Redis run with our app."""

import os
import re
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme
import yaml
from dockerfile import last
from documents import ROOT, read, snippets
from processes import free_port, granian, wait_until
from real_redis import answers
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError
from test_deploy_api import is_open
from test_deploy_proxies import PROXIES, SERVED, Running
from test_settings_page import ROWS

from bakrypt_proxy import Settings
from bakrypt_proxy.sandbox import Sandbox

PAGE = "docs/deploy.md"
SH, GIT = "/bin/sh", str(shutil.which("git"))
PID = "/tmp/nginx.pid"  # noqa: S108 - of the container
COMPOSE = yaml.safe_load(read("compose.yaml"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
NGINX = read("deploy/nginx.conf")
SECTION = read(PAGE).partition("\n## Containers\n")[2].partition("\n## ")[0]
(MAKE_SECRETS,) = [code for code in snippets(PAGE, "sh") if "secrets/redis_password" in code][:1]
FILE = (
    '--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nCONTENT\r\n--b--\r\n'
)
needs = {
    name: pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} is not installed")
    for name in ("nginx", "openssl", "redis-server")
}


def words(configuration: str) -> list[str]:
    """Return a configuration of nginx without comments and layout."""
    return re.sub(r"#.*", "", configuration).split()


def seconds(text: str) -> float:
    """Return a time such as `150s`."""
    return float(text.removesuffix("s"))


@pytest.mark.parametrize("name", SERVICES)
def test_each_container_can_do_little(name: str) -> None:
    """It is not root, has no capability, cannot change its files, and tells whether it is well."""
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.keys() & {"privileged", "cap_add", "pid", "network_mode"}
    own_user = {"app": last("USER").value, "nginx": "that of the unprivileged image"}
    assert service.get("user", own_user.get(name)) not in {None, "root", "0", "0:0"}
    assert "healthcheck" in service or name == "app"


def test_only_nginx_is_reached_from_outside() -> None:
    """By TLS; and Redis has a network that only the app shares."""
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert ports == {"nginx": ["443:8443"]}
    assert COMPOSE["networks"]["store"]["internal"] is True
    assert SERVICES["redis"]["networks"] == ["store"]
    assert SERVICES["app"]["networks"] == ["default", "store"]
    assert "networks" not in SERVICES["nginx"]


def test_each_mounted_file_is_there_or_documented() -> None:
    """Files of this repository are mounted read-only; the operator makes the secrets."""
    mounts = [
        mount.split(":") for service in SERVICES.values() for mount in service.get("volumes", [])
    ]
    files = [mount for mount in mounts if mount[0].startswith(".")]
    assert files
    assert all((ROOT / source).is_file() and mode == ["ro"] for source, _, *mode in files)
    assert {mount[0] for mount in mounts if mount not in files} == set(COMPOSE["volumes"])
    secrets = {secret["file"] for secret in COMPOSE["secrets"].values()}
    assert secrets == {f"./{name}" for name in re.findall(r"secrets/\w+(?:\.\w+)?", MAKE_SECRETS)}


def test_git_ignores_the_secrets() -> None:
    """None of them is committed by accident."""
    for secret in COMPOSE["secrets"].values():
        assert (
            subprocess.run(
                [GIT, "check-ignore", "-q", secret["file"]], check=False, cwd=ROOT
            ).returncode
            == 0
        )


@pytest.mark.parametrize("name", SERVICES)
def test_each_secret_is_mounted_where_it_is_read(name: str) -> None:
    """Every file of `/run/secrets` that a service or its configuration names, and no other."""
    service = SERVICES[name]
    text = str(service.get("environment", "")) + str(service.get("command", ""))
    text += NGINX if name == "nginx" else ""
    assert set(re.findall(r"/run/secrets/(\w+)", text)) == set(service["secrets"])
    assert set(service["secrets"]) <= set(COMPOSE["secrets"])


def test_the_settings_exist() -> None:
    """Each of the app's environment, and each path is one that the container can write or read."""
    environment = SERVICES["app"]["environment"]
    named = {name for name in environment if name.startswith("BAKRYPT_")}
    assert named <= set(ROWS)
    assert all(isinstance(value, str) for value in environment.values())
    writable = [mount.partition(":")[0] for mount in SERVICES["app"]["tmpfs"]]
    assert environment["PROMETHEUS_MULTIPROC_DIR"] in writable


def test_a_stop_waits_for_uploads() -> None:
    """A worker has time for the longest call, and its container and nginx have more."""
    settings, environment = Settings(), SERVICES["app"]["environment"]
    kill = seconds(environment["GRANIAN_WORKERS_KILL_TIMEOUT"])
    assert kill > settings.upload_timeout + 2 * settings.timeout
    for name in ("app", "nginx"):
        assert seconds(SERVICES[name]["stop_grace_period"]) > kill


def test_its_nginx_is_that_of_the_page() -> None:
    """Both servers and both locations, with the ports and paths of the container."""
    server, location = [
        code for code in snippets(PAGE, "nginx") if "server {" in code or "location" in code
    ]
    for page, container in {
        "http://127.0.0.1:8000": "http://$app:8000",
        "/etc/ssl/shop.pem": "/run/secrets/tls_certificate",
        "/etc/ssl/shop.key": "/run/secrets/tls_key",
        "listen 443": "listen 8443",
    }.items():
        server, location = server.replace(page, container), location.replace(page, container)
    ours = " ".join(words(NGINX.replace("set $app app;", "")))
    expected = " ".join(words(server)).removesuffix("}").strip()
    assert f"{expected} {' '.join(words(location))} }}" in ours
    (limits,) = [code for code in snippets(PAGE, "nginx") if "worker_rlimit_nofile" in code]
    assert all(line in NGINX.splitlines() for line in limits.splitlines())


def test_its_acl_is_that_of_the_page() -> None:
    """The same rights, with the password from a file."""
    page = " ".join(re.findall(r"^ACL SETUSER bakrypt (.*)$", read(PAGE), re.MULTILINE))
    (ours,) = re.findall(r"^user bakrypt (.*?[^\\])$", redis_script(), re.MULTILINE | re.DOTALL)
    rights = ours.replace("\\\n", "").replace("$(cat /run/secrets/redis_password)", "password")
    assert rights.split() == page.split()


def redis_script() -> str:
    """Return what the container of Redis runs, as a shell reads it."""
    *shell, script = SERVICES["redis"]["command"]
    assert shell == ["sh", "-c"]
    return str(script).replace("$$", "$")


@pytest.fixture
def mounted(tmp_path: Path, sandbox: Sandbox, authority: trustme.CA) -> Path:
    """The secrets as the page makes them, under the names of `/run/secrets`."""
    subprocess.run([SH, "-euc", MAKE_SECRETS], cwd=tmp_path, check=True)
    filled = tmp_path / "secrets"
    assert filled.stat().st_mode & 0o077 == 0
    (filled / "bakrypt_token").write_text(sandbox.environ["BAKRYPT_TOKEN"])
    (filled / "bakrypt_client_secret").write_text(sandbox.environ["BAKRYPT_CLIENT_SECRET"])
    certificate = authority.issue_cert(SERVED)
    for name, blobs in {
        "shop.pem": certificate.cert_chain_pems,
        "shop.key": [certificate.private_key_pem],
    }.items():
        (filled / name).write_bytes(b"".join(blob.bytes() for blob in blobs))
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    for name, secret in COMPOSE["secrets"].items():
        (mounted / name).symlink_to(tmp_path / secret["file"])
    return mounted


@pytest.fixture
def redis_port(mounted: Path, tmp_path: Path) -> Iterator[int]:
    """The port of a real Redis that runs as its container would."""
    port = free_port()
    script = redis_script().replace("/run/secrets", str(mounted))
    script = script.replace('save ""', f'save ""\nbind 127.0.0.1\nport {port}\ndir {tmp_path}')
    with subprocess.Popen([SH, "-c", script], stdout=subprocess.DEVNULL) as process:
        try:
            with Redis(port=port, username="bakrypt", password=password(mounted)) as redis:
                wait_until(lambda: answers(redis))
            yield port
        finally:
            process.terminate()
            assert process.wait(10) == 0, "the shell is in between, and SIGTERM ends only the shell"


def password(mounted: Path) -> str:
    """Return the password of Redis."""
    return (mounted / "redis_password").read_text().strip()


@pytest.fixture
def environ(mounted: Path, redis_port: int, sandbox: Sandbox) -> dict[str, str]:
    """The environment of the app's container, with the ports and folders of this test."""
    url = mounted / "bakrypt_redis_url"
    assert "@redis:6379/" in url.read_text()
    url.write_text(url.read_text().replace("redis:6379", f"127.0.0.1:{redis_port}"))
    environ = {
        name: value.replace("/run/secrets", str(mounted))
        for name, value in SERVICES["app"]["environment"].items()
    }
    (mounted.parent / "metrics").mkdir()
    environ["PROMETHEUS_MULTIPROC_DIR"] = str(mounted.parent / "metrics")
    environ["BAKRYPT_CLIENT_ID"] = sandbox.environ["BAKRYPT_CLIENT_ID"]
    return {**environ, "BAKRYPT_URL": sandbox.url}


@needs["openssl"]
@needs["redis-server"]
class TestRedis:
    """The Redis of the container."""

    def test_a_password_is_needed(self, redis_port: int) -> None:
        """The default user of Redis is off; the health check succeeds all the same."""
        with Redis(port=redis_port) as anybody, pytest.raises(AuthenticationError):
            anybody.get("x")
        (kind, check) = SERVICES["redis"]["healthcheck"]["test"]
        check = check.replace("redis-cli", f"redis-cli -p {redis_port}")
        assert kind == "CMD-SHELL"
        assert subprocess.run([SH, "-c", check], check=False).returncode == 0
        gone = check.replace(str(redis_port), str(free_port()))
        assert subprocess.run([SH, "-c", gone], check=False).returncode != 0

    def test_the_app_reaches_only_its_own_keys(self, redis_port: int, mounted: Path) -> None:
        """Neither other keys nor the server itself."""
        with Redis(port=redis_port, username="bakrypt", password=password(mounted)) as app:
            assert app.set("bakrypt_proxy:x", "1")
            with pytest.raises(NoPermissionError):
                app.get("another")
            with pytest.raises(NoPermissionError):
                app.flushall()

    def test_check_is_content(self, environ: dict[str, str]) -> None:
        """`bakrypt check` finds nothing wrong, with the environment of the app's container."""
        command = [sys.executable, "-m", "bakrypt_proxy", "check"]
        result = subprocess.run(
            command,
            env={**os.environ, **environ},
            cwd=environ["PROMETHEUS_MULTIPROC_DIR"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        assert re.search(r"^redis +ok", result.stdout, re.MULTILINE)
        assert re.search(r"^token +ok", result.stdout, re.MULTILINE)
        assert result.stderr == ""


def nginx_command(mounted: Path, app: str, port: int) -> list[str]:
    """Return the command that runs nginx as its container would, for another app and port."""
    folder = mounted.parent
    text = NGINX.replace("/run/secrets", str(mounted)).replace("$app:8000", app)
    text = text.replace("8443", f"127.0.0.1:{port}").replace("/var/cache/nginx", str(folder))
    more = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("fastcgi", "scgi", "uwsgi"))
    text = text.replace("http {", f"http {{ {more}").replace(PID, f"{folder}/pid")
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(f"daemon off; {user}\n{text}")
    return ["nginx", "-e", "stderr", "-p", str(folder), "-c", "nginx.conf"]


@needs["openssl"]
@needs["nginx"]
def test_nginx_accepts_its_configuration(mounted: Path) -> None:
    """With the name of the app as it is in the network of Compose."""
    command = nginx_command(mounted, "$app:8000", free_port())
    result = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "warn" not in result.stderr


@contextmanager
def nginx(mounted: Path, app: str, authority: trustme.CA) -> Iterator[Running]:
    """Run nginx in front of an app."""
    port, trust = free_port(), ssl.create_default_context()
    authority.configure_trust(trust)
    with subprocess.Popen(
        nginx_command(mounted, app.removeprefix("http://"), port), stdout=subprocess.DEVNULL
    ) as process:
        try:
            wait_until(lambda: is_open(port))
            yield Running(PROXIES["nginx"], port, trust)
        finally:
            process.terminate()
            process.wait(20)


@pytest.mark.slow
@pytest.mark.timeout(180)  # three servers start
@needs["openssl"]
@needs["redis-server"]
@needs["nginx"]
def test_all_of_it(mounted: Path, environ: dict[str, str], authority: trustme.CA) -> None:
    """A visitor signs in and uploads through nginx; the app works with this Redis."""
    public = {"BAKRYPT_EXCHANGE_PUBLIC": "false", "BAKRYPT_API_PUBLIC": "true"}
    page = {"Origin": f"https://{SERVED}", "Sec-Fetch-Site": "same-origin"}
    with granian({**environ, **public}) as app, nginx(mounted, app, authority) as site:
        assert requests.get(f"{app}/readyz", timeout=20).json() == {"status": "ok"}
        assert site.guess({}, caller="127.0.0.1") == 400
        assert site.post("/auth/exchange/", page)[0] == 403
        kind = {"Content-Type": "multipart/form-data; boundary=b"}
        body = FILE.replace("CONTENT", "x" * 2**21)  # more than nginx accepts by default
        assert site.post("/bakrypt/v1/files/", {**page, **kind}, body=body)[0] == 201
        assert site.post("/readyz", page)[0] == 404
        assert site.post("/auth/exchange/", {"Host": "evil.example"})[0] == 421

"""`docs/existing-apps.md`: its snippets and its sentences, with the real extensions."""

import re
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from browsing import CHROMIUM, browser
from cachelib import FileSystemCache
from conftest import serve
from documents import read, snippet
from flask import Blueprint, Flask, abort, request, session
from flask.testing import FlaskClient
from flask_cors import CORS
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from flask_login import LoginManager, login_user, logout_user
from flask_talisman import Talisman
from flask_wtf import CSRFProtect
from flask_wtf.csrf import generate_csrf
from playwright.sync_api import Browser
from real_redis import REDIS_SERVER, RedisServer
from redis import Redis

from bakrypt_proxy import create_api_blueprint, create_blueprint
from bakrypt_proxy.sandbox import CREDENTIALS, Sandbox
from bakrypt_proxy.web.api import CALLS

__all__ = ["browser"]  # a fixture is used by its name
PAGE = "docs/existing-apps.md"
UUID = "0d0d39e4-b979-40ed-a844-243693aab17f"
ALICE = {"username": "alice", "password": "alice-password"}
SECURE = {"base_url": "https://shop.example.com"}
HTML = """<!doctype html><title>host</title>
<script src="/bakrypt/passthrough.js"></script><script type="module" src="/page.js"></script>
<script>window.inline = true</script>"""
MODULE = """import { BakryptSession } from "/auth/bakrypt.js";
window.session = new BakryptSession({ base: "/auth" });"""
FOREIGN, LISTED = "https://evil.example", "https://shop.example.com"


def run(code: str, app: Flask | None = None) -> dict[str, Any]:
    """Run a snippet and return its names."""
    names: dict[str, Any] = {"__name__": "snippet", "app": app}
    exec(code, names)  # noqa: S102 - our own page
    return names


@pytest.fixture
def app(bakrypt_sandbox: Sandbox) -> Flask:
    """An app of a host's, whose bakrypt is the sandbox."""
    app = Flask("host")
    app.secret_key = "planted"
    return app


def add_both(app: Flask) -> FlaskClient:
    """Register both blueprints, open to everybody."""
    app.register_blueprint(create_blueprint(authorize=lambda: True))
    app.register_blueprint(create_api_blueprint(authorize=lambda: True))
    return app.test_client()


def make(client: FlaskClient, prefix: str = "/bakrypt", **options: Any) -> str:
    """Make an asset and return its transaction."""
    response = client.post(f"{prefix}/v1/assets/", json=[{"name": "Gold"}], **options)
    assert response.status_code == 201
    return str(response.get_json()[0]["transaction"])


def status_of(client: FlaskClient, transaction: str, prefix: str = "/bakrypt") -> int:
    """Ask for a transaction."""
    return client.get(f"{prefix}/v1/transactions/{transaction}/").status_code


def send_file(client: FlaskClient, **options: Any) -> Any:
    """Upload a file."""
    form = {"file": (BytesIO(b"x"), "x.txt")}
    return client.post("/bakrypt/v1/files/", data=form, **options)


class User:
    """A visitor, as Flask-Login knows one."""

    is_active = is_authenticated = True
    is_anonymous = False

    def __init__(self, name: str) -> None:
        self._name = name

    def get_id(self) -> str:
        """Return the name."""
        return self._name


def add_login(app: Flask) -> None:
    """Set up Flask-Login, with a way to sign in and out."""
    login = LoginManager(app)
    login.login_view = "in"
    login.user_loader(User)
    app.add_url_rule("/in/<name>", "in", lambda name: str(login_user(User(name))))
    app.add_url_rule("/out", "out", lambda: str(logout_user()))


class TestFlaskLogin:
    """The snippet, with the users of an app."""

    @pytest.fixture(params=["before", "after"])
    def client(self, app: Flask, request: pytest.FixtureRequest) -> FlaskClient:
        """A browser; Flask-Login is set up before the blueprints or after them."""
        if request.param == "before":
            add_login(app)
        run(snippet(PAGE, "Flask-Login"), app)
        if request.param == "after":
            add_login(app)
        return app.test_client()

    def test_who_gets_the_token(self, client: FlaskClient) -> None:
        """Who is signed in; others get a 403 in JSON."""
        response = client.post("/auth/exchange/")
        assert (response.status_code, response.get_json()["error"]) == (403, "access_denied")
        client.get("/in/ada")
        assert client.post("/auth/exchange/").status_code == 200
        client.get("/out")
        assert client.post("/auth/exchange/").status_code == 403

    def test_who_reaches_what(self, client: FlaskClient) -> None:
        """What ada made is hers only; what was made before signing in stays reachable."""
        before = make(client)
        client.get("/in/ada")
        made = make(client)
        assert [status_of(client, before), status_of(client, made)] == [200, 200]
        client.get("/in/bob")
        assert [status_of(client, before), status_of(client, made)] == [200, 404]
        client.get("/out")
        assert [status_of(client, before), status_of(client, made)] == [200, 404]
        client.get("/in/ada")
        assert status_of(client, made) == 200


class TestFlaskWtf:
    """With and without the exemption; `tests/browser/test_csrf.py` has the module."""

    def test_exempt(self, app: Flask) -> None:
        """Each route takes what it took before, and the host's own are protected."""
        add_login(app)
        app.add_url_rule("/own", "own", lambda: "", methods=["POST"])
        run(snippet(PAGE, "Flask-WTF"), app)
        client = app.test_client()
        client.get("/in/ada")
        assert client.post("/auth/exchange/").status_code == 200
        assert client.post("/auth/token/", data=ALICE).status_code == 200
        assert send_file(client).status_code == 201
        assert make(client)
        assert client.post("/own").status_code == 400

    @pytest.fixture
    def protected(self, app: Flask) -> FlaskClient:
        """Both blueprints, not exempt."""
        CSRFProtect(app)
        app.add_url_rule("/csrf", "csrf", generate_csrf)
        return add_both(app)

    def test_without_either(self, protected: FlaskClient) -> None:
        """Our form, with the words of the protection."""
        for response in (protected.post("/auth/exchange/"), send_file(protected)):
            assert response.status_code == 400
            assert response.get_json() == {
                "error": "invalid_request",
                "error_description": "The CSRF token is missing.",
            }

    def test_the_header(self, protected: FlaskClient) -> None:
        """It is enough for tokens, and not for an upload: the body has been read."""
        header = re.findall(r'"(X-[\w-]+)"', snippet(PAGE, "Flask-WTF", "js"))
        headers = {header[0]: protected.get("/csrf").text}
        assert protected.post("/auth/exchange/", headers=headers).status_code == 200
        assert protected.post("/auth/token/", headers=headers, data=ALICE).status_code == 200
        response = send_file(protected, headers=headers)
        assert response.status_code == 500
        assert "read the body" in response.get_json()["error_description"]

    @pytest.mark.parametrize(("limit", "status"), [(-1, 400), (None, 200)])
    def test_an_old_header(
        self, app: Flask, protected: FlaskClient, limit: int | None, status: int
    ) -> None:
        """It is refused after the limit, which is an hour unless the app sets another."""
        assert app.config["WTF_CSRF_TIME_LIMIT"] == 3600
        app.config["WTF_CSRF_TIME_LIMIT"] = limit
        headers = {"X-CSRFToken": protected.get("/csrf").text}
        assert protected.post("/auth/exchange/", headers=headers).status_code == status

    @pytest.mark.parametrize("member", ["form", "files"])
    def test_a_hook_that_reads_the_body(self, app: Flask, member: str) -> None:
        """The same."""
        client = add_both(app)
        app.before_request(lambda: str(getattr(request, member))[:0] or None)
        assert "read the body" in send_file(client).get_json()["error_description"]


class TestFlaskTalisman:
    """Its policy in a browser, its redirect, and its headers."""

    @pytest.fixture
    def client(self, app: Flask) -> FlaskClient:
        """An app with the snippet and both blueprints."""
        run(snippet(PAGE, "Flask-Talisman"), app)
        return add_both(app)

    def test_https(self, client: FlaskClient) -> None:
        """The routes work, with our headers and Talisman's."""
        response = client.post("/auth/exchange/", base_url="https://localhost")
        assert response.status_code == 200
        assert response.headers["Cache-Control"] == "no-store"
        assert "connect-src" in response.headers["Content-Security-Policy"]
        assert make(client, **SECURE)
        assert 'base_url="https://localhost"' in read(PAGE)

    def test_http(self, client: FlaskClient) -> None:
        """A redirect, also of a preflight; what a browser makes of a POST then is a 405."""
        response = client.post("/auth/exchange/", base_url="http://shop.example.com")
        assert (response.status_code, response.location[:8]) == (302, "https://")
        assert client.options("/auth/exchange/").status_code == 302
        assert client.get(response.location).status_code == 405

    def test_behind_a_proxy(self, client: FlaskClient) -> None:
        """Talisman believes the header, and receipts do not."""
        options = {
            "headers": {"X-Forwarded-Proto": "https"},
            "base_url": "http://shop.example.com",
        }
        assert client.post("/auth/exchange/", **options).status_code == 200
        response = client.get("/bakrypt/receipts/", **options)
        assert response.status_code == 403
        assert "https" in response.get_json()["error_description"]

    @pytest.mark.slow
    @pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
    @pytest.mark.filterwarnings("ignore::ResourceWarning")  # playwright's own pipes
    @pytest.mark.parametrize("is_listed", [True, False])
    def test_the_policy(
        self, browser: Browser, app: Flask, bakrypt_sandbox: Sandbox, is_listed: bool
    ) -> None:
        """A page of files gets a token; its call of bakrypt needs `connect-src`.

        The default policy is enough for everything else. Scripts in the page do not run.
        """
        if is_listed:
            code = snippet(PAGE, "Flask-Talisman")
            code = code.replace("https://testnet.bakrypt.io", bakrypt_sandbox.url)
            run(code.replace("    app,", "    app, force_https=False,"), app)
        else:
            Talisman(app, force_https=False)
        add_both(app)
        app.add_url_rule("/page.js", "js", lambda: (MODULE, {"Content-Type": "text/javascript"}))
        app.add_url_rule("/", "page", lambda: HTML)
        with serve(app) as url, browser.new_context(base_url=url) as context:
            page = context.new_page()
            page.goto("/")
            page.wait_for_function("window.session")
            assert page.evaluate("window.inline") is None
            assert page.evaluate("session.exchange()") is None
            receipts = "fetch('/bakrypt/receipts/').then((response) => response.status)"
            assert page.evaluate(receipts) == 200
            call = "(url) => session.fetch(url).then((reply) => reply.status, (e) => e.name)"
            address = f"{bakrypt_sandbox.url}/v1/assets/"
            assert page.evaluate(call, address) == (200 if is_listed else "TypeError")
            page.close()


class TestFlaskSession:
    """Sessions that are kept on the server."""

    def sign_in(self, app: Flask) -> FlaskClient:
        """Run the snippet and sign in."""
        run(snippet(PAGE, "Flask-Session"), app)
        app.register_blueprint(create_api_blueprint(authorize=lambda: True))
        app.add_url_rule("/in", "in", lambda: session.update(user="ada") or "")
        app.add_url_rule("/names", "names", lambda: [sorted(session), sorted(request.cookies)])
        client = app.test_client()
        assert client.post("/auth/exchange/").status_code == 403
        client.get("/in")
        return client

    def test_files(self, app: Flask, tmp_path: Path) -> None:
        """`authorize` reads the session, and nothing of ours is in it."""
        cache = FileSystemCache(str(tmp_path))
        app.config.from_mapping(SESSION_TYPE="cachelib", SESSION_CACHELIB=cache)
        client = self.sign_in(app)
        assert client.post("/auth/exchange/").status_code == 200
        make(client)
        members, cookies = client.get("/names").get_json()
        assert members == ["_permanent", "user"]  # the first is Flask's own
        assert [name.partition("-")[0] for name in cookies] == ["bakrypt", "session"]

    @pytest.mark.skipif(REDIS_SERVER is None, reason="redis-server is not installed")
    def test_one_redis(self, app: Flask, redis_server: RedisServer, redis: "Redis") -> None:
        """No key of one is a key of the other."""
        app.config.from_mapping(
            SESSION_TYPE="redis", SESSION_REDIS=redis, BAKRYPT_REDIS_URL=redis_server.url
        )
        client = self.sign_in(app)
        assert client.post("/auth/exchange/").status_code == 200
        prefixes = {re.split("[: ]", key.decode())[0] for key in redis.scan_iter()}
        assert prefixes == {"bakrypt_proxy", "session"}


class TestFlaskCors:
    """`CORS(app)` of the host's."""

    @pytest.mark.parametrize("options", [{}, {"origins": [FOREIGN]}], ids=["all", "listed there"])
    def test_a_page_of_another_origin(
        self, app: Flask, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
    ) -> None:
        """The host's own routes are open to it, ours only to those of the setting."""
        monkeypatch.setenv("BAKRYPT_ALLOWED_ORIGINS", LISTED)
        CORS(app, **options)
        app.add_url_rule("/own", "own", lambda: "")
        client = add_both(app)
        allowed = "Access-Control-Allow-Origin"
        assert allowed in client.get("/own", headers={"Origin": FOREIGN}).headers
        for method, path in (
            ("POST", "/auth/exchange/"),
            ("OPTIONS", "/auth/exchange/"),
            ("GET", "/bakrypt/receipts/"),
        ):
            response = client.open(path, method=method, headers={"Origin": FOREIGN})
            assert (response.status_code, response.headers.get(allowed)) == (403, None)
            response = client.open(
                path, method=method, headers={"Origin": LISTED}, base_url="https://localhost"
            )
            assert response.status_code < 300
            assert response.headers[allowed] == LISTED
        assert allowed not in client.get("/auth/bakrypt.js", headers={"Origin": FOREIGN}).headers


class TestFlaskLimiter:
    """The snippet, and the default limits of a host."""

    def test_the_snippet(self, app: Flask) -> None:
        """20 POSTs a minute, counted together and said with Retry-After; GETs are not counted."""
        client = add_both(app)
        run(snippet(PAGE, "Flask-Limiter"), app)
        for path in [call.path for call in CALLS if call.method == "POST"] * 5:
            client.post("/bakrypt" + path.replace("<uuid:transaction>", UUID), data=b"x")
            assert client.get("/bakrypt/receipts/").status_code == 200
        response = client.post("/bakrypt/v1/files/", data=b"x")
        assert (response.status_code, response.get_json()["error"]) == (429, "too_many_requests")
        assert int(response.headers["Retry-After"]) > 0
        assert client.get("/bakrypt/receipts/").status_code == 200

    def limiter(self, app: Flask, *default: str) -> Limiter:
        """A limiter of the host's, whose own handler answers in HTML."""
        app.register_error_handler(429, lambda error: ("<h1>Slow down</h1>", 429))
        return Limiter(
            get_remote_address, app=app, default_limits=list(default), storage_uri="memory://"
        )

    @pytest.mark.parametrize("path", ["/auth/bakrypt.js", "/auth/exchange/"])
    def test_default_limits(self, app: Flask, path: str) -> None:
        """They count our routes; the error has our form."""
        self.limiter(app, "2 per minute")
        client = add_both(app)
        method = "GET" if path.endswith(".js") else "POST"
        responses = [client.open(path, method=method) for _ in range(3)]
        assert [response.status_code for response in responses] == [200, 200, 429]
        assert responses[2].get_json()["error"] == "too_many_requests"

    @pytest.mark.parametrize(
        ("line", "statuses"),
        [
            ("limiter.exempt(blueprint)", [200] * 62),
            ('limiter.limit("60 per minute")(blueprint)', [200] * 60 + [429] * 2),
        ],
    )
    def test_one_blueprint(self, app: Flask, line: str, statuses: list[int]) -> None:
        """Both lines of the page."""
        assert line in read(PAGE)
        limiter = self.limiter(app, "2 per minute")
        blueprint = create_blueprint(authorize=lambda: True)
        eval(line, {"limiter": limiter, "blueprint": blueprint})  # noqa: S307 - our own page
        app.register_blueprint(blueprint)
        client = app.test_client()
        assert [client.post("/auth/exchange/").status_code for _ in statuses] == statuses


class TestApiFlask:
    """What its document says of a foreign blueprint."""

    @pytest.fixture(params=[True, False])
    def client(self, bakrypt_sandbox: Sandbox, request: pytest.FixtureRequest) -> FlaskClient:
        """The snippet with a route of the host's, with `json_errors` and without."""
        code = snippet(PAGE, "APIFlask").replace(
            "(__name__)", f"(__name__, json_errors={request.param})"
        )
        app: Flask = run(code)["app"]
        app.add_url_rule("/own", "own", lambda: {"status": "ok"})
        return app.test_client()

    def test_the_documents(self, client: FlaskClient) -> None:
        """Each has its own routes."""
        assert list(client.get("/openapi.json").get_json()["paths"]) == ["/own"]
        assert "/exchange/" in client.get("/auth/openapi.json").get_json()["paths"]

    def test_errors(self, client: FlaskClient) -> None:
        """Ours have our form."""
        for response in (client.post("/auth/exchange/"), client.get("/auth/exchange/")):
            assert set(response.get_json()) == {"error", "error_description"}

    def test_without_the_attribute(self, bakrypt_sandbox: Sandbox) -> None:
        """The host's document is a 500."""
        app: Flask = run(
            snippet(PAGE, "APIFlask").replace("blueprint.enable_openapi = False\n", "")
        )["app"]
        assert app.test_client().get("/openapi.json").status_code == 500


class TestParentsAndPrefixes:
    """The snippet of a nested blueprint."""

    @pytest.fixture
    def nested(self, app: Flask) -> Flask:
        """An app with the snippet."""
        run(snippet(PAGE, "Parents and prefixes"), app)
        return app

    def test_the_routes(self, nested: Flask) -> None:
        """Both answer below the parent; the scripts are where the page says."""
        client = nested.test_client()
        assert client.post("/shop/tokens/exchange/").status_code == 403
        assert send_file_at(client, "/shop/bakrypt") == 201
        assert status_of(client, make(client, "/shop/bakrypt"), "/shop/bakrypt") == 200
        (module,) = re.findall(r'from "(\S+)"', snippet(PAGE, "Parents and prefixes", "js"))
        (base,) = re.findall(r'base: "(\S+)"', snippet(PAGE, "Parents and prefixes", "js"))
        assert client.get(module).status_code == 200
        assert client.post(f"{base}/token/", json=ALICE).status_code == 200

    @pytest.mark.parametrize("mount", ["", "/mounted"])
    def test_the_names(self, nested: Flask, mount: str) -> None:
        """Those of the page, also under a mount."""
        found = re.findall(r'url_for\("(\S+)"\)', read(PAGE))
        with nested.test_request_context(base_url=f"http://localhost{mount}"):
            addresses = [nested.url_for(name) for name in found]
        assert addresses == [
            f"{mount}/shop/tokens/bakrypt.js",
            f"{mount}/shop/bakrypt/passthrough.js",
        ]
        assert "shop.bakrypt.token" in nested.view_functions

    def test_the_command(self, nested: Flask) -> None:
        """It has the parent's name, too."""
        (name,) = re.findall(r"`flask (shop\S+) check`", read(PAGE))
        result = nested.test_cli_runner().invoke(args=[name, "check"])
        assert result.exit_code == 0, result.output

    def test_the_parents_hooks(self, app: Flask) -> None:
        """They run first."""
        parent = Blueprint("parent", __name__, url_prefix="/parent")
        parent.before_request(lambda: abort(401))
        parent.register_blueprint(create_blueprint(authorize=lambda: True))
        app.register_blueprint(parent)
        assert app.test_client().post("/parent/auth/exchange/").status_code == 401


def send_file_at(client: FlaskClient, prefix: str) -> int:
    """Upload a file below a prefix."""
    form = {"file": (BytesIO(b"x"), "x.txt")}
    return client.post(f"{prefix}/v1/files/", data=form).status_code


class TestTwoNetworks:
    """The snippet, with a sandbox for each network."""

    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Where the secrets of the snippet are."""
        (tmp_path / "secrets").mkdir()
        for network in ("mainnet", "testnet"):
            (tmp_path / "secrets" / network).write_text(CREDENTIALS["BAKRYPT_TOKEN"])
        monkeypatch.chdir(tmp_path)
        return tmp_path

    def test_as_it_is(self, app: Flask, folder: Path) -> None:
        """Routes, commands and scripts, and the environment takes no part."""
        run(snippet(PAGE, "Two networks"), app)
        client = app.test_client()
        assert client.post("/mainnet/auth/exchange/").status_code == 403
        for network, host in (("mainnet", "bakrypt.io"), ("testnet", "testnet.bakrypt.io")):
            assert "check" in app.cli.commands[network].commands  # type: ignore[attr-defined]
            script = client.get(f"/{network}/bakrypt/passthrough.js").text
            assert f'OURS = "{host}".split' in script

    def test_tokens_and_receipts(self, app: Flask, folder: Path) -> None:
        """Each network has its own."""
        with Sandbox().listen() as mainnet, Sandbox().listen() as testnet:
            urls = {"mainnet": mainnet.url, "testnet": testnet.url}
            code = snippet(PAGE, "Two networks").replace(
                '"BAKRYPT_NETWORK": network', '"BAKRYPT_URL": urls[network]'
            )
            run(f"urls = {urls!r}\n{code}", app)
            client = app.test_client()
            made = make(client, "/mainnet/bakrypt")
            assert status_of(client, made, "/mainnet/bakrypt") == 200
            assert status_of(client, made, "/testnet/bakrypt") == 404
            assert mainnet.calls["/auth/exchange/"] == 1
            assert not testnet.calls

    def test_what_agreeing_blueprints_share(self, app: Flask, bakrypt_sandbox: Sandbox) -> None:
        """One token for two blueprints that differ in `authorize`."""
        app.register_blueprint(create_blueprint(name="a", authorize=lambda: True), url_prefix="/a")
        app.register_blueprint(create_blueprint(name="b", authorize=lambda: None), url_prefix="/b")
        app.register_blueprint(create_blueprint(name="c", authorize=lambda: True), url_prefix="/c")
        client = app.test_client()
        statuses = [client.post(f"/{name}/exchange/").status_code for name in "abc"]
        assert statuses == [200, 403, 200]
        assert bakrypt_sandbox.calls == {"/auth/exchange/": 1}

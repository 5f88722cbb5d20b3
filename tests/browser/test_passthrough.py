"""`passthrough.js` in Chromium: which calls go to the server, and how."""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from browsing import browser, needs_chromium
from conftest import serve
from flask import Flask, Response, request
from flask.testing import FlaskClient
from flask.typing import ResponseReturnValue
from packages import needs_npm, npm, packages
from playwright.sync_api import Browser, BrowserContext, Page, Route
from processes import wait_until

from bakrypt_proxy import create_api_blueprint, create_blueprint
from bakrypt_proxy.sandbox import Sandbox

__all__ = ["browser", "packages"]  # a fixture is used by its name
SCRIPT = Path(__file__).parents[2] / "bakrypt_proxy" / "browser" / "passthrough.js"
PAGE = '<!doctype html><title>test</title><script src="{}"></script>'
FILES = "https://testnet.bakrypt.io/v1/files/"
# The rejection of a promise as JSON, for a test to compare.
ATTEMPT = """async (work) => {
    try {
        return await work();
    } catch (error) {
        return { name: error.name, message: error.message };
    }
}"""


class Recorder:
    """An app that serves the script of a network and returns what a page's calls look like.

    `busy` is how many calls it answers with 503 first, `received` counts all of them.
    """

    def __init__(self, prefix: str = "/bakrypt", **settings: str) -> None:
        self.busy = 0
        self.busy_error = "temporarily_unavailable"
        self.retry_after: str | None = "0"
        self.received: list[str] = []
        self.app = Flask("host")
        self.app.config.from_mapping({"BAKRYPT_TOKEN": "planted", **settings})
        self.app.register_blueprint(create_api_blueprint(), url_prefix=prefix)
        self.app.add_url_rule("/", view_func=lambda: PAGE.format(f"{prefix}/passthrough.js?v=1"))
        self.app.before_request(self._answer)

    def _answer(self) -> ResponseReturnValue | None:
        if "/v1/" not in request.path:
            return None
        self.received.append(f"{request.method} {request.full_path.rstrip('?')}")
        if len(self.received) <= self.busy:
            headers = {} if self.retry_after is None else {"Retry-After": self.retry_after}
            return {"error": self.busy_error}, 503, headers
        sent = {name.lower(): value for name, value in request.headers}
        files = {name: file.read().decode() for name, file in request.files.items()}
        body = request.get_data(as_text=True)
        return {
            "path": request.full_path.rstrip("?"),
            "method": request.method,
            "headers": sent,
            "files": files,
            "body": body,
        }


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A browser for which no address of bakrypt's can be reached."""
    with browser.new_context() as context:
        context.leaked = []  # type: ignore[attr-defined]
        context.route("**/*bakrypt.io/**", lambda route: route.abort())
        context.on("request", lambda sent: remember(context, sent.url))
        yield context
        for page in context.pages:
            page.close()


def remember(context: BrowserContext, url: str) -> None:
    """Note a request to one of bakrypt's hosts."""
    if "bakrypt.io" in url.split("/")[2]:
        context.leaked.append(url)  # type: ignore[attr-defined]


def leaked(page: Page) -> list[str]:
    """The requests of the page to bakrypt's hosts."""
    found: list[str] = page.context.leaked  # type: ignore[attr-defined]
    return found


@contextmanager
def opened(context: BrowserContext, app: Flask) -> Iterator[Page]:
    """Serve an app and open its page."""
    with serve(app) as url:
        page = context.new_page()
        page.goto(url)
        yield page
        page.close()


@pytest.fixture
def recorder() -> Recorder:
    """The recorder of testnet, the default network."""
    return Recorder()


@pytest.fixture
def page(context: BrowserContext, recorder: Recorder) -> Iterator[Page]:
    """Its page."""
    with opened(context, recorder.app) as page:
        yield page


def call(page: Page, code: str) -> Any:
    """Await an expression; its response's JSON, or its error."""
    read = f"""async () => {{
        const response = await {code};
        return {{ status: response.status, ...(await response.json()) }};
    }}"""
    return page.evaluate(f"({ATTEMPT})({read})")


class TestServing:
    """The script as the blueprint serves it."""

    def test_headers(self) -> None:
        """A classic script, which a browser may keep if it asks whether it has changed."""
        client = Recorder().app.test_client()
        response = client.get("/bakrypt/passthrough.js")
        assert response.content_type == "text/javascript; charset=utf-8"
        assert response.headers["Cache-Control"] == "no-cache"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        again = {"If-None-Match": response.headers["ETag"]}
        assert client.get("/bakrypt/passthrough.js", headers=again).status_code == 304

    def test_another_network_is_another_script(self) -> None:
        """A browser that asks with the ETag of the former network gets the new script."""
        testnet, mainnet = (
            Recorder(BAKRYPT_NETWORK=network).app.test_client().get("/bakrypt/passthrough.js")
            for network in ("testnet", "mainnet")
        )
        assert testnet.headers["ETag"] != mainnet.headers["ETag"]

    def test_it_is_for_everybody(self, client: FlaskClient) -> None:
        """A page of another site may load it; its calls are checked, the script is not."""
        foreign = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
        response = Recorder().app.test_client().get("/bakrypt/passthrough.js", headers=foreign)
        assert response.status_code == 200

    @pytest.mark.parametrize("_", [pytest.param(None, marks=needs_npm)])
    def test_size(self, packages: Path, _: None) -> None:
        """Minified it has less than 1.6 kB, and compressed less than 1 kB."""
        script = npm(packages, "exec", "--", "esbuild", "--minify", str(SCRIPT))
        assert len(script.encode()) < 1600
        assert len(gzip.compress(script.encode())) < 1000


class TestCalls:
    """Calls to the host of the server's network."""

    pytestmark = needs_chromium

    @pytest.fixture(autouse=True)
    def nothing_reaches_bakrypt(self, page: Page) -> Iterator[None]:
        """Whatever a test does."""
        yield
        assert leaked(page) == []

    @pytest.mark.parametrize(
        "code",
        [
            f"fetch('{FILES}')",
            f"window.fetch('{FILES}')",
            f"fetch.call(undefined, '{FILES}')",
            f"fetch(new URL('{FILES}'))",
            f"fetch(new Request('{FILES}'))",
            f"fetch({{ toString: () => '{FILES}' }})",
            "fetch('//testnet.bakrypt.io/v1/files/')",
            "fetch('HTTPS://TestNet.Bakrypt.IO:443/v1/files/')",
            "fetch('http://testnet.bakrypt.io/v1/files/')",
            "fetch('https://testnet.bakrypt.io/v1/x/../files/')",
            f"fetch('{FILES}#part')",
        ],
    )
    def test_spellings(self, page: Page, code: str) -> None:
        """Each way to name the address is led to the server."""
        found = call(page, code)
        assert (found["path"], found["method"]) == ("/bakrypt/v1/files/", "GET")

    def test_a_query_is_kept(self, page: Page) -> None:
        """It is the server that refuses it."""
        assert call(page, f"fetch('{FILES}?force=true')")["path"] == (
            "/bakrypt/v1/files/?force=true"
        )

    def test_a_path_of_two_slashes_stays_on_the_server(self, page: Page) -> None:
        """It does not become another host."""
        call(page, "fetch('https://testnet.bakrypt.io//evil.test/v1/')")
        assert page.evaluate("performance.getEntriesByType('resource').at(-1).name").startswith(
            page.url
        )

    @pytest.mark.parametrize(
        "code",
        [
            "fetch(url, { headers: { Authorization: 'Bearer true', Accept: 'a/b' } })",
            "fetch(url, { headers: { authorization: 'Bearer true', Accept: 'a/b' } })",
            "fetch(url, { headers: [['AUTHORIZATION', 'x'], ['Accept', 'a/b']] })",
            "fetch(url, { headers: new Headers({ Authorization: 'x', Accept: 'a/b' }) })",
            "fetch(new Request(url, { headers: { Authorization: 'x', Accept: 'a/b' } }))",
            "fetch(new Request(url), { headers: { Authorization: 'x', Accept: 'a/b' } })",
            "fetch(url, new Request('/', { headers: { Authorization: 'x', Accept: 'a/b' } }))",
        ],
    )
    def test_authorization_is_removed(self, page: Page, code: str) -> None:
        """In each form of headers; the others stay."""
        headers = call(page, code.replace("url", f"'{FILES}'"))["headers"]
        assert "authorization" not in headers
        assert headers["accept"] == "a/b"

    @pytest.mark.parametrize(
        ("body", "content_type"),
        [
            ("'words'", "text/plain;charset=UTF-8"),
            ("new Blob(['words'], { type: 'image/png' })", "image/png"),
            ("new TextEncoder().encode('words')", None),
        ],
    )
    @pytest.mark.parametrize(
        "form",
        [
            "fetch('{url}', {{ method: 'POST', body: {body} }})",
            "fetch(new Request('{url}', {{ method: 'POST', body: {body} }}))",
            "fetch(new Request('{url}', {{ method: 'POST', body: 'x' }}), {{ body: {body} }})",
            "fetch('{url}', new Request('/', {{ method: 'POST', body: {body} }}))",
        ],
    )
    def test_bodies(self, page: Page, form: str, body: str, content_type: str | None) -> None:
        """They arrive whole, as the browser would have sent them, with their length."""
        found = call(page, form.format(url=FILES, body=body))
        assert (found["method"], found["body"]) == ("POST", "words")
        assert found["headers"]["content-length"] == "5"
        if content_type is not None and "body: 'x'" not in form:
            assert found["headers"]["content-type"].lower() == content_type.lower()

    @pytest.mark.parametrize(
        "init",
        [
            "Object.create(options)",
            "Object.freeze(options)",
            "Object.create(Object.freeze(options))",
            "new Getters()",
            "new Private()",
            "Object.freeze(new Private())",
            "new Proxy(options, {})",
            "new Proxy(Object.freeze(options), {})",
            "Object.assign(() => {}, options)",
            "Object.assign(Object.create(null), options)",
        ],
    )
    def test_options_of_each_kind(self, page: Page, init: str) -> None:
        """Inherited, unchangeable and computed members: `fetch` reads those, too."""
        page.evaluate("""() => {
            window.options = {
                method: "POST",
                body: "words",
                headers: { Accept: "a/b", Authorization: "x" },
                credentials: "omit",
            };
            window.Getters = class {
                get method() { return options.method; }
                get body() { return options.body; }
                get headers() { return options.headers; }
                get credentials() { return options.credentials; }
            };
            window.Private = class {
                #options = options;
                get method() { return this.#options.method; }
                get body() { return this.#options.body; }
                get headers() { return this.#options.headers; }
                get credentials() { return this.#options.credentials; }
            };
            document.cookie = "receipt=1";
        }""")
        found = call(page, f"fetch('{FILES}', {init})")
        assert (found["method"], found["body"]) == ("POST", "words")
        assert found["headers"]["accept"] == "a/b"
        assert found["headers"]["cookie"] == "receipt=1"
        assert "authorization" not in found["headers"]

    @pytest.mark.parametrize(
        "wrapper",
        [
            "(url, options) => native(url, { ...options, headers: trace(options.headers) })",
            "(url, options) => native(url, Object.assign({}, options))",
            "(url, options) => {"
            " options.headers = trace(options.headers); return native(url, options); }",
            "(...sent) => native(new Request(...sent))",
        ],
    )
    @pytest.mark.parametrize(
        "form",
        [
            "fetch('{url}', {{ method: 'POST', body: 'words' }})",
            "fetch('{url}', Object.freeze({{ method: 'POST', body: 'words' }}))",
            "fetch('{url}', Object.create({{ method: 'POST', body: 'words' }}))",
            "fetch(new Request('{url}', {{ method: 'POST', body: 'words' }}))",
        ],
    )
    def test_behind_a_monitoring_tool(
        self, context: BrowserContext, recorder: Recorder, wrapper: str, form: str
    ) -> None:
        """It has replaced `fetch` before us, and copies the options or writes to them."""
        context.add_init_script(f"""
            const native = window.fetch;
            const trace = (headers) => {{
                const own = new Headers(headers);
                own.set("Traceparent", "00-planted");
                return own;
            }};
            window.fetch = {wrapper};
        """)
        with opened(context, recorder.app) as page:
            page.evaluate("document.cookie = 'receipt=1'")
            found = call(page, form.format(url=FILES))
        assert (found["method"], found["body"]) == ("POST", "words")
        assert found["headers"]["cookie"] == "receipt=1"
        assert found["headers"].get("traceparent", "00-planted") == "00-planted"

    @pytest.mark.parametrize("init", ["undefined", "null", "{}"])
    def test_no_options(self, page: Page, init: str) -> None:
        """It is a GET then."""
        assert call(page, f"fetch('{FILES}', {init})")["method"] == "GET"

    @pytest.mark.parametrize(
        ("body", "content_type"),
        [
            ("new URLSearchParams({ a: 'b' })", "application/x-www-form-urlencoded;charset=UTF-8"),
            ("new Blob(['a=b'], { type: 'text/x' })", "text/x"),
        ],
    )
    def test_the_type_of_a_frozen_body(self, page: Page, body: str, content_type: str) -> None:
        """The browser finds it out from the body."""
        found = call(page, f"fetch('{FILES}', Object.freeze({{ method: 'POST', body: {body} }}))")
        assert found["headers"]["content-type"] == content_type
        assert found["headers"]["content-length"] == "3"

    def test_a_signal_in_frozen_options(self, page: Page) -> None:
        """It ends the call."""
        init = "Object.freeze({ signal: AbortSignal.abort() })"
        assert call(page, f"fetch('{FILES}', {init})")["name"] == "AbortError"

    @pytest.mark.parametrize(
        "form",
        [
            "fetch('{url}', {{ method: 'POST', body: form }})",
            "fetch(new Request('{url}', {{ method: 'POST', body: form }}))",
            "fetch('{url}', Object.freeze({{ method: 'POST', body: form }}))",
        ],
    )
    def test_a_form(self, page: Page, form: str) -> None:
        """It arrives with a boundary that fits."""
        page.evaluate("""() => {
            window.form = new FormData();
            form.append("file", new File(["words"], "a.txt"));
        }""")
        assert call(page, form.format(url=FILES))["files"] == {"file": "words"}

    def test_a_request_without_a_body(self, page: Page) -> None:
        """As the invoice's "Submit Refund" sends it, and as a Request."""
        for code in ("fetch(url, { method: 'POST' })", "fetch(new Request(url, {method: 'POST'}))"):
            found = call(page, code.replace("url", f"'{FILES}'"))
            assert (found["method"], found["body"]) == ("POST", "")

    def test_a_request_is_used_up(self, page: Page) -> None:
        """As fetch itself uses it; a second attempt is refused as fetch refuses it."""
        page.evaluate(f"window.made = new Request('{FILES}', {{ method: 'POST', body: 'x' }})")
        assert call(page, "fetch(made)")["body"] == "x"
        assert page.evaluate("made.bodyUsed") is True
        assert call(page, "fetch(made)")["name"] == "TypeError"

    def test_a_request_of_another_frame(self, page: Page) -> None:
        """It is not an instance of this window's Request."""
        page.evaluate("document.body.append(document.createElement('iframe'))")
        assert call(page, f"fetch(new frames[0].Request('{FILES}'))")["status"] == 200

    def test_faults_are_rejections(self, page: Page) -> None:
        """Never thrown at once, as fetch never does."""
        code = f"""() => {{
            const calls = [
                fetch("{FILES}", {{ headers: {{ "a b": "c" }} }}),
                fetch("{FILES}", {{ body: "x" }}),
                fetch("{FILES}", {{ method: "a b" }}),
                fetch("{FILES}", "words"),
            ];
            return Promise.all(calls.map((sent) => sent.catch(({{ name }}) => name)));
        }}"""
        assert page.evaluate(code) == ["TypeError"] * 4


class TestEverythingElse:
    """Calls to other hosts pass through untouched."""

    pytestmark = needs_chromium

    def test_own_addresses(self, page: Page) -> None:
        """Relative ones, with their headers."""
        code = "fetch('v1/own/?a=1', { headers: { Authorization: 'Bearer own' } })"
        found = call(page, code)
        assert found["path"] == "/v1/own/?a=1"
        assert found["headers"]["authorization"] == "Bearer own"

    def test_other_hosts(self, page: Page) -> None:
        """Also those that only look like bakrypt's, and its gateway."""
        urls = [
            "https://gateway.bakrypt.io/ipfs/Qm",
            "https://testnet.bakrypt.io.other.test/v1/",
            "https://other.test/?https://testnet.bakrypt.io/v1/files/",
            "https://testnet.bakrypt.io@other.test/",
            "https://testnet.bakrypt.io:8443/v1/files/",
        ]
        sent: list[tuple[str, str | None]] = []

        def answer(route: Route) -> None:
            sent.append((route.request.url, route.request.headers.get("authorization")))
            route.fulfill(json={}, headers={"Access-Control-Allow-Origin": "*"})

        page.route(lambda url: "127.0.0.1" not in url, answer)
        for url in urls:
            call(page, f"fetch('{url}', {{ headers: {{ Authorization: 'own' }} }})")
        assert sent == [(url, "own") for url in urls if "@" not in url]

    def test_data_and_blob_addresses(self, page: Page) -> None:
        """The component reads its icons from data addresses."""
        read = "fetch({}).then((response) => response.text())"
        assert page.evaluate(read.format("'data:,words'")) == "words"
        assert page.evaluate(read.format("URL.createObjectURL(new Blob(['words']))")) == "words"

    @pytest.mark.parametrize("code", ["fetch()", "fetch('http://[')", "fetch({}, 1)"])
    def test_faults_are_those_of_fetch(
        self, page: Page, context: BrowserContext, code: str
    ) -> None:
        """Word by word."""
        with opened(context, Flask("bare")) as bare:
            assert call(page, code) == call(bare, code)


class TestNetworks:
    """Which hosts are led to the server."""

    pytestmark = needs_chromium

    @pytest.mark.parametrize(
        ("settings", "led", "refused"),
        [
            ({}, ["testnet.bakrypt.io"], ["bakrypt.io"]),
            ({"BAKRYPT_NETWORK": "testnet"}, ["testnet.bakrypt.io"], ["bakrypt.io"]),
            ({"BAKRYPT_NETWORK": "mainnet"}, ["bakrypt.io"], ["testnet.bakrypt.io"]),
            ({"BAKRYPT_URL": "https://bakrypt.io"}, ["bakrypt.io"], ["testnet.bakrypt.io"]),
            ({"BAKRYPT_URL": "https://own.test"}, ["bakrypt.io", "testnet.bakrypt.io"], []),
        ],
    )
    def test_hosts(
        self,
        context: BrowserContext,
        settings: dict[str, str],
        led: list[str],
        refused: list[str],
    ) -> None:
        """A call to the other network is refused in clear words and reaches nobody."""
        recorder = Recorder(**settings)
        with opened(context, recorder.app) as page:
            for host in led:
                assert call(page, f"fetch('https://{host}/v1/files/')")["status"] == 200
            for host in refused:
                error = call(page, f"fetch('https://{host}/v1/files/', {{ method: 'POST' }})")
                assert error == {
                    "name": "TypeError",
                    "message": f"This page calls {host}, but its server uses {led[0]}: "
                    'set "testnet" on the component or BAKRYPT_NETWORK',
                }
            assert len(recorder.received) == len(led)
            assert leaked(page) == []

    def test_another_prefix(self, context: BrowserContext) -> None:
        """The script knows where it comes from."""
        recorder = Recorder(prefix="/shop/mint")
        with opened(context, recorder.app) as page:
            assert call(page, f"fetch('{FILES}')")["path"] == "/shop/mint/v1/files/"

    def test_a_page_of_another_origin(self, context: BrowserContext, sandbox: Sandbox) -> None:
        """Of the same site: it gets its receipt as a cookie and reads its transaction."""
        page_app = Flask("page")
        with serve(page_app) as url:
            app = Flask("host")
            app.config.from_mapping(sandbox.environ, BAKRYPT_ALLOWED_ORIGINS=url)
            app.register_blueprint(create_api_blueprint(authorize=lambda: True))
            with serve(app) as server:
                html = PAGE.format(f"{server}/bakrypt/passthrough.js")
                page_app.add_url_rule("/", view_func=lambda: Response(html, mimetype="text/html"))
                page = context.new_page()
                page.goto(url)
                assert self.make_and_read(page)["status"] == "waiting"
                page.close()

    def make_and_read(self, page: Page) -> Any:
        """Create an asset and return its transaction, in the component's own way."""
        return page.evaluate("""async () => {
            const api = "https://testnet.bakrypt.io/v1";
            const headers = { "content-type": "application/json", Authorization: "Bearer true" };
            const body = JSON.stringify([{ name: "Gold" }]);
            const made = await fetch(`${api}/assets/`, { method: "POST", headers, body });
            const [{ transaction }] = await made.json();
            return (await fetch(`${api}/transactions/${transaction}/`, { headers })).json();
        }""")


class TestRepeats:
    """A file that the server could not take just then."""

    pytestmark = needs_chromium

    POST = "fetch('{url}', {{ method: 'POST', body: {body} }})"

    @pytest.mark.parametrize(
        ("busy", "received", "status"), [(1, 2, 200), (3, 4, 200), (4, 4, 503), (9, 4, 503)]
    )
    def test_three_times_at_most(
        self, page: Page, recorder: Recorder, busy: int, received: int, status: int
    ) -> None:
        """Then its page gets the 503."""
        recorder.busy = busy
        assert call(page, self.POST.format(url=FILES, body="'words'"))["status"] == status
        assert len(recorder.received) == received

    @pytest.mark.parametrize(
        "code",
        [
            POST.format(url=FILES, body="'words'"),
            POST.format(url=FILES.rstrip("/"), body="'words'"),
            POST.format(url=FILES, body="new Blob(['words'])"),
            f"fetch(new Request('{FILES}', {{ method: 'POST', body: 'words' }}))",
        ],
    )
    def test_the_body_is_whole_again(self, page: Page, recorder: Recorder, code: str) -> None:
        """Of each kind that can be sent again."""
        recorder.busy = 2
        assert call(page, code)["body"] == "words"
        assert len(recorder.received) == 3

    def test_a_form_is_whole_again(self, page: Page, recorder: Recorder) -> None:
        """As the component sends it."""
        recorder.busy = 2
        page.evaluate("""() => {
            window.form = new FormData();
            form.append("file", new File(["words"], "a.txt"));
        }""")
        assert call(page, self.POST.format(url=FILES, body="form"))["files"] == {"file": "words"}

    @pytest.mark.parametrize(
        "path", ["assets/", "transactions/8af32c59-a056-42d4-abe5-6211c6306cc0/mint/", "files/x/"]
    )
    def test_other_calls_are_not_repeated(self, page: Page, recorder: Recorder, path: str) -> None:
        """Bakrypt may have taken them."""
        recorder.busy = 1
        url = f"https://testnet.bakrypt.io/v1/{path}"
        assert call(page, self.POST.format(url=url, body="'x'"))["status"] == 503
        assert len(recorder.received) == 1

    @pytest.mark.parametrize(
        ("error", "retry_after"),
        [("server_error", "0"), ("temporarily_unavailable", None)],
    )
    def test_other_failures_are_not_repeated(
        self, page: Page, recorder: Recorder, error: str, retry_after: str | None
    ) -> None:
        """Only what the server says, with a time."""
        recorder.busy, recorder.busy_error, recorder.retry_after = 1, error, retry_after
        found = call(page, self.POST.format(url=FILES, body="'x'"))
        assert (found["status"], found["error"]) == (503, error)
        assert len(recorder.received) == 1

    def test_it_waits_as_long_as_it_is_told(self, page: Page, recorder: Recorder) -> None:
        """By the page's own clock."""
        recorder.busy, recorder.retry_after = 1, "60"
        page.clock.install()
        sent = self.POST.format(url=FILES, body="'words'")
        page.evaluate(f"void (window.sent = {sent})")
        wait_until(lambda: len(recorder.received) == 1)
        page.clock.run_for(59_000)
        call(page, "fetch('/v1/own/')")  # a repetition would be here before it
        assert recorder.received == ["POST /bakrypt/v1/files/", "GET /v1/own/"]
        page.clock.run_for(2_000)
        assert page.evaluate("sent.then((response) => response.status)") == 200

    @pytest.mark.parametrize("when", ["before", "meanwhile"])
    def test_abort(self, page: Page, recorder: Recorder, when: str) -> None:
        """Also while it waits to send the file again."""
        recorder.busy, recorder.retry_after = 1, "3600"
        found = page.evaluate(
            f"""async (when) => {{
                const controller = new AbortController();
                const {{ signal }} = controller;
                if (when === "before") controller.abort();
                const sent = fetch("{FILES}", {{ method: "POST", body: "x", signal }});
                const settled = sent.catch(({{ name }}) => name);
                await Promise.race([settled, new Promise((done) => setTimeout(done, 500))]);
                controller.abort();
                return settled;
            }}""",
            when,
        )
        assert found == "AbortError"
        assert len(recorder.received) == (0 if when == "before" else 1)

    def test_a_dead_token_and_a_large_file(self, context: BrowserContext, sandbox: Sandbox) -> None:
        """The real server renews its token, and the file arrives whole, once."""
        app = Flask("host")
        app.config.from_mapping(sandbox.environ)
        app.register_blueprint(create_api_blueprint(authorize=lambda: True))
        app.register_blueprint(create_blueprint(authorize=lambda: True))  # of the same token
        app.add_url_rule("/", view_func=lambda: PAGE.format("/bakrypt/passthrough.js"))
        upload = """() => {
            const form = new FormData();
            form.append("file", new File([new Uint8Array(3_000_000)], "a.bin"));
            return fetch("https://testnet.bakrypt.io/v1/files/", { method: "POST", body: form })
                .then((response) => response.json());
        }"""
        with opened(context, app) as page:
            page.evaluate(upload)
            token = app.test_client().post("/auth/exchange/").get_json()["access_token"]
            sandbox.revoke(token)
            assert page.evaluate(upload)["size"] == 3_000_000
        assert sandbox.calls["/v1/files/"] == 3
        assert sandbox.calls["/auth/exchange/"] == 2

"""`docs/deploy.md`: its settings, names and snippets are real."""

import re
from io import StringIO
from typing import Any

from documents import headings, read, rows, snippets
from dotenv import dotenv_values
from flask import Flask
from prometheus_client import REGISTRY
from test_settings_page import ROWS

import bakrypt_proxy.web.metrics
from bakrypt_proxy import Settings, create_blueprint, telemetry
from bakrypt_proxy.sandbox import Sandbox
from bakrypt_proxy.server import __main__ as server

PAGE = "docs/deploy.md"


def host(sandbox: Sandbox) -> Flask:
    """An app of somebody's own, open to everybody."""
    app = Flask("host")
    app.config.update(sandbox.environ)
    app.register_blueprint(create_blueprint(authorize=lambda: True))
    return app


def test_the_settings_exist() -> None:
    """Each that the page names is one of `docs/settings.md`."""
    named = set(re.findall(r"\bBAKRYPT_\w+", read(PAGE)))
    assert named
    assert named <= set(ROWS)


def test_the_metrics_exist() -> None:
    """Each of the table, by the name that Prometheus sees."""
    found = [metric for metric in REGISTRY.collect() if metric.name.startswith("bakrypt_")]
    names = {metric.name + "_total" * (metric.type == "counter") for metric in found}
    assert {cells[0].strip("`") for cells in rows(PAGE, "`bakrypt_")} == names


def test_the_signals_exist() -> None:
    """Each of the table, and no other."""
    listed = {
        cells[0].strip("`") for cells in rows(PAGE, "`") if hasattr(telemetry, cells[0][1:-1])
    }
    assert listed == {name for name in telemetry.__all__ if name.islower()}


def test_the_snippet_of_a_readiness_probe(sandbox: Sandbox) -> None:
    """It answers by what is missing, and `/metrics` is there."""
    app = host(sandbox)
    exec(snippets(PAGE, "python")[0], {"app": app})  # noqa: S102 - our own page
    assert app.test_client().get("/readyz").get_json() == {"problems": []}
    assert app.test_client().get("/metrics").status_code == 200
    bare = Flask("bare")
    bare.register_blueprint(create_blueprint())
    exec(snippets(PAGE, "python")[0], {"app": bare})  # noqa: S102 - our own page
    assert bare.test_client().get("/readyz").status_code == 503


def test_the_snippet_of_a_limiter(sandbox: Sandbox) -> None:
    """Ten sign-ins a minute, and any number of refreshes."""
    names: dict[str, Any] = {"app": host(sandbox)}
    exec(snippets(PAGE, "python")[1], names)  # noqa: S102 - our own page
    client = names["app"].test_client()
    refresh = {"grant_type": "refresh_token", "refresh_token": "x"}
    wrong = {"username": "alice", "password": "wrong"}
    refused = [client.post("/auth/token/", json=refresh).status_code for _ in range(12)]
    guesses = [client.post("/auth/token/", json=wrong).status_code for _ in range(11)]
    assert refused == [400] * 12
    assert guesses == [400] * 10 + [429]


def test_the_settings_block_is_an_environment_file() -> None:
    """The block is one that a shell or a container reads."""
    values = dotenv_values(stream=StringIO(snippets(PAGE, "sh")[1]))
    assert "BAKRYPT_TOKEN_FILE" in values
    assert None not in values.values()


def test_the_sizing_is_that_of_the_defaults() -> None:
    """The threads of two workers, and the calls per second that hold all of them."""
    section = " ".join(read(PAGE).partition("### What limits a machine")[2].split())
    per_worker = server._DEFAULTS["blocking_threads"]  # noqa: SLF001 - it has no public name
    assert isinstance(per_worker, int)
    threads = 2 * per_worker
    assert f"Two workers have {threads} threads." in section
    assert f"half a second, that is enough for {2 * threads:,} calls per second" in section
    assert f"`BAKRYPT_TIMEOUT`, and {threads / Settings().timeout:.0f} per second hold" in section
    tables = headings("benchmarks/RESULTS.md")
    assert any(name.startswith("memory-after-exchanges-and-sign-ins") for name in tables)


def test_the_metric_of_busy_threads_exists(sandbox: Sandbox) -> None:
    """Prometheus gets a sum of seconds under the name in the query."""
    (name,) = re.findall(r"rate\((bakrypt_\w+)\[", read(PAGE).partition("### What limits")[2])
    app = host(sandbox)
    app.register_blueprint(bakrypt_proxy.web.metrics.create_metrics())
    client = app.test_client()
    client.post("/auth/exchange/")
    assert re.search(rf"^{name}\{{", client.get("/metrics").text, re.MULTILINE)

"""Metrics for Prometheus, by prometheus-client (the extra `metrics`)."""

import os
from pathlib import Path
from typing import Any

from flask import Blueprint, Response

from ..cli import settings_error_explained
from ..errors import SettingsError
from ..telemetry import UpstreamCall, shared_token_renewed, shared_token_served, upstream_called

_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
if not os.environ.get(_DIRECTORY):
    # prometheus-client looks whether it is there, and would write to the working directory.
    os.environ.pop(_DIRECTORY, None)

from prometheus_client import (  # noqa: E402 - after the line above
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector  # noqa: E402

_CALLS = Counter("bakrypt_upstream_calls", "Calls to bakrypt.", ["endpoint", "network", "outcome"])
_DURATION = Histogram(
    "bakrypt_upstream_call_duration_seconds", "How long they took.", ["endpoint", "network"]
)
_HITS = Counter(
    "bakrypt_shared_token_hits",
    "Callers who got the shared token without a call of their own.",
    ["network"],
)
_RENEWALS = Counter(
    "bakrypt_shared_token_renewals", "Renewals of the shared token.", ["network", "outcome"]
)


def create_metrics() -> Blueprint:
    """Return a blueprint with `GET /metrics`.

    Several worker processes are added up if `PROMETHEUS_MULTIPROC_DIR` names a directory that they
    share.

    :raises SettingsError: if it does not name a directory.
    """
    directory = os.environ.get(_DIRECTORY)
    if directory is not None and not Path(directory).is_dir():
        with settings_error_explained():
            raise SettingsError(
                "PROMETHEUS_MULTIPROC_DIR is not a directory: make it, for all workers to share"
            )
    upstream_called.connect(_count_call)
    shared_token_served.connect(_count_hit)
    shared_token_renewed.connect(_count_renewal)
    blueprint = Blueprint("metrics", __name__)
    blueprint.add_url_rule("/metrics", view_func=metrics)
    return blueprint


def metrics() -> Response:
    """`GET /metrics`: the counts so far, in Prometheus' text format."""
    registry: Any = REGISTRY
    if _DIRECTORY in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


def _count_call(_: object, call: UpstreamCall) -> None:
    _CALLS.labels(call.endpoint, call.network, call.outcome).inc()
    _DURATION.labels(call.endpoint, call.network).observe(call.milliseconds / 1000)


def _count_hit(_: object, network: str) -> None:
    _HITS.labels(network).inc()


def _count_renewal(_: object, network: str, outcome: str) -> None:
    _RENEWALS.labels(network, outcome).inc()

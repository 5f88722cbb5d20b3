"""A page to try the proxy: call bakrypt with and without a token, and see every call."""

from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Response, render_template


def create_demo(  # noqa: PLR0913 - all are named
    *,
    network: str,
    api_url: str,
    auth: str = "bakrypt",
    api: str | None = None,
    api_is_open: bool = False,
    users: Mapping[str, str] | None = None,
    try_api: bool = False,
) -> Blueprint:
    """Return a blueprint with the page at `/`.

    :param network: the name of the network, as the page shows it.
    :param api_url: the origin of the API that accepts the tokens.
    :param auth: the name under which the proxy's blueprint is registered.
    :param api: the name under which the blueprint of the API is registered; None if it is not.
    :param api_is_open: whether everybody may call that API.
    :param users: invented names and passwords for the page to show.
    :param try_api: let the page upload a file with its token and create an asset from it.
    """
    demo = Blueprint(
        "demo",
        __name__,
        template_folder="templates",
        static_folder="static",
        static_url_path="/demo-static",
    )
    shown: dict[str, Any] = {"network": network, "api_url": api_url, "auth": auth, "api": api}
    shown |= {"api_is_open": api_is_open, "users": users or {}, "try_api": try_api}
    headers = _security_headers(api_url)

    @demo.get("/")
    def page() -> str:
        return render_template("demo.html", **shown)

    @demo.after_request
    def protect(response: Response) -> Response:
        response.headers.update(headers)
        return response

    return demo


def _security_headers(api_url: str) -> dict[str, str]:
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        f"connect-src 'self' {api_url}"
    )
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }

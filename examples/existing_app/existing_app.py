"""An app that has users of its own, by Flask-Login: whoever is signed in gets the access token of its bakrypt account.

What an app of yours needs of it are the import of bakrypt_proxy, `settings`, and `register_blueprint`.
"""

import os
import secrets

import click
from flask import Flask, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_login import (
    LoginManager,
    UserMixin,
    current_user,
    login_required,
    login_user,
    logout_user,
)
from werkzeug.security import check_password_hash, generate_password_hash

from bakrypt_proxy import Settings, create_blueprint


class User(UserMixin):
    """Somebody who may sign in. Yours come from a database."""

    def __init__(self, name: str, password: str) -> None:
        self.id = name
        self.password_hash = generate_password_hash(password)


def create_app(password: str | None = None) -> Flask:
    """Return the app with its one user, ada, whose password is a new one each time unless it is given."""
    app = Flask(__name__)
    app.secret_key = secrets.token_bytes()
    if password is None:
        password = secrets.token_urlsafe(9)
        click.echo(f"Sign in as ada with the password {password}")
    if not (os.environ.get("BAKRYPT_TOKEN") or os.environ.get("BAKRYPT_TOKEN_FILE")):
        use_sandbox(app)
    settings = Settings.from_mapping(app.config, os.environ)
    app.register_blueprint(
        create_blueprint(settings=settings, authorize=lambda: current_user.is_authenticated)
    )
    add_pages(app, {"ada": User("ada", password)}, api_url=settings.url)
    return app


def use_sandbox(app: Flask) -> None:
    """Stand in for a bakrypt account until there is one."""
    from bakrypt_proxy.sandbox import Sandbox  # noqa: PLC0415 - an extra, that production need not have

    app.config.from_mapping(Sandbox(expires_in=60).listen().environ)


def add_pages(app: Flask, users: dict[str, User], *, api_url: str) -> None:
    """Add what the app had before: a page for those who are signed in, signing in, and signing out."""
    login = LoginManager(app)
    login.login_view = "sign_in"
    login.user_loader(users.get)

    @app.get("/")
    @login_required
    def index() -> str:
        return render_template("index.html", api_url=api_url)

    @app.route("/sign-in", methods=["GET", "POST"])
    def sign_in() -> ResponseReturnValue:
        if request.method == "POST":
            user = users.get(request.form["name"])
            if user is not None and check_password_hash(
                user.password_hash, request.form["password"]
            ):
                login_user(user)
                return redirect(url_for("index"))
            flash("That name and that password do not belong together.")
        return render_template("sign_in.html")

    @app.post("/sign-out")
    def sign_out() -> ResponseReturnValue:
        logout_user()
        return redirect(url_for("sign_in"))

"""An app with Flask-Login and Flask-WTF. Signed-in users get the bakrypt account's token.

Your app needs four parts of this: the import of bakrypt_proxy, `settings`, `csrf.exempt` and
`register_blueprint`.
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
from flask_wtf import CSRFProtect
from werkzeug.security import check_password_hash, generate_password_hash

from bakrypt_proxy import Settings, create_blueprint


class User(UserMixin):
    """A user who may sign in. Your app loads its users from a database."""

    def __init__(self, name: str, password: str) -> None:
        self.id = name
        self.password_hash = generate_password_hash(password)


def create_app(password: str | None = None) -> Flask:
    """Return the app with one user, ada.

    :param password: ada's password; None means a random one, which is printed.
    """
    app = Flask(__name__)
    app.secret_key = secrets.token_bytes()
    csrf = CSRFProtect(app)
    if password is None:
        password = secrets.token_urlsafe(9)
        click.echo(f"Sign in as ada with the password {password}")
    if not (os.environ.get("BAKRYPT_TOKEN") or os.environ.get("BAKRYPT_TOKEN_FILE")):
        use_sandbox(app)
    settings = Settings.from_mapping(app.config, os.environ)
    blueprint = create_blueprint(settings=settings, authorize=lambda: current_user.is_authenticated)
    csrf.exempt(blueprint)  # it checks the calling page itself
    app.register_blueprint(blueprint)
    add_pages(app, {"ada": User("ada", password)}, api_url=settings.url)
    return app


def use_sandbox(app: Flask) -> None:
    """Use a sandbox until you have a bakrypt account."""
    # Production does not need the sandbox extra.
    from bakrypt_proxy.sandbox import Sandbox  # noqa: PLC0415

    app.config.from_mapping(Sandbox(expires_in=150).listen().environ)


def add_pages(app: Flask, users: dict[str, User], *, api_url: str) -> None:
    """Add the routes that the app already had: a page for signed-in users, sign-in and sign-out."""
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

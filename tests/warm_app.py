"""Our app, having asked bakrypt before the server forks, as a host app might to see that all is well."""

from app import create_app

app = create_app()
assert app.test_client().post("/auth/exchange/").status_code == 200

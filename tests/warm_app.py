"""Our app, which calls bakrypt once before the server forks.

A host app might do that to check its set-up.
"""

from app import create_app

app = create_app()
assert app.test_client().post("/auth/exchange/").status_code == 200

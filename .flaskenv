# Read by the flask command alone. Real credentials go to .env, which wins over this file.
FLASK_APP=app
BAKRYPT_NETWORK=sandbox

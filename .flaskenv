# Only the flask command reads this file. Put real credentials into .env, which wins over it.
FLASK_APP=app
BAKRYPT_NETWORK=sandbox

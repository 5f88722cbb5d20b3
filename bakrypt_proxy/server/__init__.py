"""The production server: `python -m bakrypt_proxy.server`."""

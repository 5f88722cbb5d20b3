"""The parsers of the settings.

Each takes what was given and returns the checked value, or raises `ValueError` with the rest of a
sentence that begins with the setting's name. Where a value may hold a secret, the parser does not
repeat it, nor keep the error that does.
"""

import ipaddress
import math
import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

NETWORKS = {"mainnet": "https://bakrypt.io", "testnet": "https://testnet.bakrypt.io"}

_BOOLEANS = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}
_CREDENTIAL = r"[\x21-\x7e]+"
_HOST = r"[a-z0-9._-]+|[0-9a-f:.]+"
_HOST_NAME = r"[a-z0-9_-]+(\.[a-z0-9_-]+)*"
_ORIGIN = r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:\d{1,5})?"
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_RATE = r"[1-9]\d* *(per|/) *(\d+ *)?(second|minute|hour|day)s?"
CALLS = frozenset({"files", "assets", "transactions", "mint", "refund"})
DEFAULT_CALLS = frozenset({"files", "assets", "transactions"})

_MAX_TIMEOUT = 600
_MAX_UPLOADS = 10_000
_MAX_LIFETIME = 86_400  # seconds
_UNITS = {"": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_MIN_KEY = 32  # characters
_MAX_PROXIES = 9


def network(value: object) -> str:
    """Return the origin of a network."""
    if isinstance(value, str) and value in NETWORKS:
        return NETWORKS[value]
    if value == "sandbox":
        raise ValueError(
            "is sandbox, which only app.py knows: set mainnet or testnet, or BAKRYPT_URL"
        )
    raise ValueError(f"is {value!r}: set mainnet or testnet")


def url(value: object) -> str:
    """Return an origin to call, with https or on loopback."""
    text = _text(value)
    try:
        parts = urlsplit(text)
        port = f":{parts.port}" if parts.port is not None else ""
    except ValueError:
        raise ValueError(
            "is not an address: set an origin such as https://bakrypt.example"
        ) from None
    host = parts.hostname or ""
    if (
        not re.fullmatch(_HOST, host)
        or parts.scheme not in {"http", "https"}
        or not _is_origin(parts)
    ):
        raise ValueError(
            "must be only an origin, such as https://bakrypt.example: no path, no user, no query"
        )
    if parts.scheme == "http" and not is_loopback(host):
        raise ValueError("would send secrets in the clear: use https (http is for loopback only)")
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{port}"


def _is_origin(parts: SplitResult) -> bool:
    return (
        "@" not in parts.netloc
        and parts.path in {"", "/"}
        and not parts.query
        and not parts.fragment
    )


def is_loopback(host: str) -> bool:
    """Return whether a host name or an address is of the loopback interface."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(  # noqa: TRY004 - the reader collects ValueError
            f"must be text, not {type(value).__name__}: put it in quotes, and load it as it stands "
            "(Flask's from_prefixed_env turns digits into a number)"
        )
    if value.encode(errors="replace").decode() != value:  # a byte of the environment, perhaps
        raise ValueError("is not valid UTF-8")
    return value.strip()


def credential(value: object) -> str:
    """Return a secret or an id as it is sent in a header."""
    text = _text(value)
    if not re.fullmatch(_CREDENTIAL, text):
        raise ValueError(
            "holds a space, a line break or a character outside ASCII: paste only the secret"
        )
    if text[0] == text[-1] and text[0] in "'\"`":
        raise ValueError("is in quotes: remove them (docker keeps the quotes of an env file)")
    return text


def file_content(value: object) -> str:
    """Return the content of the file that a setting names."""
    try:
        text = Path(_text(value)).read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("names a file that is not text: put only the secret in it") from None
    except OSError as error:
        # Not the path: a secret that was set here by mistake would be shown.
        raise ValueError(f"names a file that cannot be read ({error.strerror})") from None
    if not text.strip():
        raise ValueError("names a file that is empty: put the secret in it")
    return text


def redis_url(value: object) -> str:
    """Return the address of a Redis, whose packages must be installed."""
    text = _text(value)
    try:
        parts = urlsplit(text)
        is_address = bool(parts.hostname or parts.scheme == "unix") and (
            parts.port is None or parts.port > 0
        )
    except ValueError:
        is_address = False
    if (
        not is_address
        or parts.scheme not in {"redis", "rediss", "unix"}
        or parts.query
        or parts.fragment
    ):
        # Not the address itself: it may hold a password.
        raise ValueError(
            "is not an address such as redis://:password@host:6379/0, rediss://... or unix:///path "
            "(no query; write / # ? @ in a password as %2F %23 %3F %40)"
        )
    if find_spec("redis") is None or find_spec("cryptography") is None:
        raise ValueError("needs two more packages: install bakrypt_proxy[redis]")
    return text


def boolean(value: object) -> bool:
    """Return true or false."""
    try:
        return _BOOLEANS[str(value).strip().lower()]
    except KeyError:
        raise ValueError(f"is {value!r}: set true or false") from None


def seconds(value: object) -> float:
    """Return a timeout in seconds."""
    try:
        seconds = float(value if isinstance(value, int | float) else _text(value))
    except ValueError:
        seconds = math.nan
    if isinstance(value, bool) or not 0 < seconds <= _MAX_TIMEOUT:
        raise ValueError(f"is {value!r}: set a number of seconds above 0 and up to {_MAX_TIMEOUT}")
    return seconds


def rate(value: object) -> str:
    """Return a rate limit in the words of Flask-Limiter."""
    text = _text(value)
    if not re.fullmatch(_RATE, text):
        raise ValueError(
            f"is {value!r}: set a number of attempts and a time, such as 10 per minute"
        )
    return text


def count(value: object) -> int:
    """Return a number of proxies."""
    text = str(value).strip()
    if not text.isdecimal() or int(text) > _MAX_PROXIES:
        raise ValueError(
            f"is {value!r}: set how many proxies of yours stand in front, 0 to {_MAX_PROXIES}"
        )
    return int(text)


def calls(value: object) -> frozenset[str]:
    """Return names of API calls."""
    found = frozenset(_items(value, "calls"))
    if not found <= CALLS:
        unknown = ", ".join(sorted(found - CALLS))
        raise ValueError(f"lists {unknown}: set names of {', '.join(sorted(CALLS))}")
    return found


def size(value: object) -> int:
    """Return a number of bytes, given as a number or with a unit."""
    match = re.fullmatch(r"(\d{1,12}) *([kmg]ib|)", str(value).strip().lower(), re.ASCII)
    if match is None or isinstance(value, bool) or int(match[1]) == 0:
        raise ValueError(f"is {value!r}: set a size such as 50 MiB, or a number of bytes")
    return int(match[1]) * _UNITS[match[2]]


def uploads(value: object) -> int:
    """Return a number of uploads at a time."""
    return _whole(value, _MAX_UPLOADS, "a number of uploads at a time")


def lifetime(value: object) -> int:
    """Return the lifetime of a token of the sandbox, in seconds."""
    return _whole(value, _MAX_LIFETIME, "a number of seconds")


def _whole(value: object, most: int, what: str) -> int:
    text = str(value).strip()
    if not (text.isascii() and text.isdecimal() and 0 < int(text) <= most):
        raise ValueError(f"is {value!r}: set {what}, 1 to {most}")
    return int(text)


def cookie_key(value: object) -> str:
    """Return one or more keys that sign cookies."""
    text = _text(value)
    if len(text.splitlines()) > 1:  # as one key of two lines, the old one would not be known
        raise ValueError("has several lines: separate the keys by commas")
    if not all(len(key.strip()) >= _MIN_KEY for key in text.split(",")):
        raise ValueError(f"has a key of less than {_MIN_KEY} characters: set longer random ones")
    return text


def log_format(value: object) -> str:
    """Return `text` or `json`."""
    if value not in {"text", "json"}:
        raise ValueError(f"is {value!r}: set text or json")
    return str(value)


def hosts(value: object) -> frozenset[str]:
    """Return host names in lower case."""
    names = [item.lower() for item in _items(value, "host names")]
    for name in names:
        if not re.fullmatch(_HOST_NAME, name):
            raise ValueError(
                f"lists {name!r}: write each host name as it is in the address, such as "
                "shop.example.com (no scheme, no port, no path, no *)"
            )
    return frozenset(names)


def _items(value: object, what: str) -> list[str]:
    """Return the items of a text with commas, or of a list."""
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, Iterable):
        raise ValueError(  # noqa: TRY004 - as above
            f"is {value!r}: set {what}, separated by commas"
        )
    return [text for item in value if (text := _text(item))]


def origins(value: object) -> frozenset[str]:
    """Return exact origins."""
    return frozenset(_origin(text) for text in _items(value, "exact origins"))


def _origin(text: str) -> str:
    scheme = text.partition(":")[0]
    default_port = _DEFAULT_PORTS.get(scheme)
    if default_port is not None and text.endswith(default_port):
        raise ValueError(f"lists {text!r}: leave {default_port} out, as browsers do")
    if not re.fullmatch(_ORIGIN, text):
        raise ValueError(
            f"lists {text!r}: write each origin as the browser sends it, such as "
            "https://shop.example.com (lower case, no path, no slash at the end, no *)"
        )
    return text

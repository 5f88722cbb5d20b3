"""The settings: read once from mappings such as `app.config` and `os.environ` into one frozen object."""

import ipaddress
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Self, TypeVar
from urllib.parse import SplitResult, urlsplit

from .errors import SettingsError

NETWORKS = {"mainnet": "https://bakrypt.io", "testnet": "https://testnet.bakrypt.io"}

_T = TypeVar("_T")
_BOOLEANS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
_SECRETS = {"token", "client_secret", "redis_url"}  # a Redis address may hold a password
_CREDENTIAL = r"[\x21-\x7e]+"
_HOST = r"[a-z0-9._-]+|[0-9a-f:.]+"
_ORIGIN = r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:\d{1,5})?"
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_RATE = r"[1-9]\d* *(per|/) *(\d+ *)?(second|minute|hour|day)s?"
_MAX_TIMEOUT = 600
_MAX_PROXIES = 9


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of one blueprint or client. Build it with `from_mapping`, which checks what it reads.

    `timeout` is in seconds and covers one whole call to bakrypt, body included. The last three are for `app.py` alone.
    """

    url: str = NETWORKS["testnet"]
    token: str | None = None
    client_id: str | None = None
    client_secret: str | None = None
    exchange_public: bool = False
    allowed_origins: frozenset[str] = frozenset()
    timeout: float = 10.0
    share_token: bool = True
    redis_url: str | None = None
    rate_limit: str = "10 per minute"
    trusted_proxies: int = 0
    log_format: str = "text"

    @classmethod
    def from_mapping(cls, *sources: Mapping[str, object]) -> Self:
        """Read the `BAKRYPT_...` settings; the first source that has a name wins.

        A value of `None` counts as absent and an empty string as not set.
        Raises `SettingsError` with all problems together; no message shows a secret.
        """
        reader = _Reader(sources)
        settings = cls(
            url=reader.url(),
            token=reader.secret("BAKRYPT_TOKEN"),
            client_id=reader.read("BAKRYPT_CLIENT_ID", _credential, None),
            client_secret=reader.secret("BAKRYPT_CLIENT_SECRET"),
            exchange_public=reader.read("BAKRYPT_EXCHANGE_PUBLIC", _boolean, cls.exchange_public),
            allowed_origins=reader.read("BAKRYPT_ALLOWED_ORIGINS", _origins, cls.allowed_origins),
            timeout=reader.read("BAKRYPT_TIMEOUT", _seconds, cls.timeout),
            share_token=reader.read("BAKRYPT_SHARE_TOKEN", _boolean, cls.share_token),
            redis_url=reader.read("BAKRYPT_REDIS_URL", _redis_url, None),
            rate_limit=reader.read("BAKRYPT_RATE_LIMIT", _rate, cls.rate_limit),
            trusted_proxies=reader.read("BAKRYPT_TRUSTED_PROXIES", _count, cls.trusted_proxies),
            log_format=reader.read("BAKRYPT_LOG_FORMAT", _log_format, cls.log_format),
        )
        if reader.problems:
            raise SettingsError("\n".join(reader.problems))
        return settings

    def __post_init__(self) -> None:
        # A Settings made by hand is checked too: requests would quote a secret with a line break in its traceback.
        for name, parse in _PARSERS.items():
            value = getattr(self, name)
            try:
                object.__setattr__(self, name, None if value is None else parse(value))
            except ValueError as error:
                raise SettingsError(f"{name} {error}") from None

    @property
    def network(self) -> str:
        """The network's name for people and logs: `mainnet`, `testnet`, or the host of another address."""
        names = {url: name for name, url in NETWORKS.items()}
        return names.get(self.url, urlsplit(self.url).netloc)

    def __repr__(self) -> str:
        shown = (f"{field.name}={self._masked(field.name)}" for field in fields(self))
        return f"{type(self).__name__}({', '.join(shown)})"

    def _masked(self, name: str) -> str:
        value = getattr(self, name)
        return "'***'" if name in _SECRETS and value is not None else repr(value)


def find_setting(name: str, *sources: Mapping[str, object]) -> object | None:
    """Return a setting from the first source that has it; an empty string there means that it is not set."""
    for source in sources:
        value = source.get(name)
        if value is not None:
            return None if isinstance(value, str) and not value.strip() else value
    return None


class _Reader:
    """Looks settings up in the sources and collects what is wrong with them."""

    def __init__(self, sources: Iterable[Mapping[str, object]]) -> None:
        self._sources = tuple(sources)
        self.problems: list[str] = []

    def find(self, name: str) -> object | None:
        return find_setting(name, *self._sources)

    def read(self, name: str, parse: Callable[[object], _T], default: _T) -> _T:
        value = self.find(name)
        if value is None:
            return default
        try:
            return parse(value)
        except ValueError as error:
            self.problems.append(f"{name} {error}")
            return default

    def secret(self, name: str) -> str | None:
        """Read a secret from the setting itself or from the file that `<name>_FILE` names."""
        file_name = f"{name}_FILE"
        if self.find(file_name) is None:
            return self.read(name, _credential, None)
        if self.find(name) is not None:
            self.problems.append(f"{name} and {file_name} are both set: keep one of them")
            return None
        return self.read(file_name, _credential_file, None)

    def url(self) -> str:
        if self.find("BAKRYPT_URL") is None:
            return self.read("BAKRYPT_NETWORK", _network, Settings.url)
        return self.read("BAKRYPT_URL", _url, Settings.url)


# The parsers below raise ValueError with the rest of a sentence that begins with the setting's name.
# Where a value may hold a secret they do not repeat it, nor keep the error that does.


def _network(value: object) -> str:
    if isinstance(value, str) and value in NETWORKS:
        return NETWORKS[value]
    if value == "sandbox":
        raise ValueError("is sandbox, which app.py alone knows: set mainnet or testnet, or BAKRYPT_URL")
    raise ValueError(f"is {value!r}: set mainnet or testnet")


def _url(value: object) -> str:
    text = _text(value)
    try:
        parts = urlsplit(text)
        port = f":{parts.port}" if parts.port is not None else ""
    except ValueError:
        raise ValueError("is not an address: set an origin such as https://bakrypt.example") from None
    host = parts.hostname or ""
    if not re.fullmatch(_HOST, host) or parts.scheme not in {"http", "https"} or not _is_origin(parts):
        raise ValueError("must be an origin alone, such as https://bakrypt.example: no path, no user, no query")
    if parts.scheme == "http" and not is_loopback(host):
        raise ValueError("would send secrets in the clear: use https (http is for loopback only)")
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{port}"


def _is_origin(parts: SplitResult) -> bool:
    return "@" not in parts.netloc and parts.path in {"", "/"} and not parts.query and not parts.fragment


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own."""
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
    return value.strip()


def _credential(value: object) -> str:
    text = _text(value)
    if not re.fullmatch(_CREDENTIAL, text):
        raise ValueError("holds a space, a line break or a character outside ASCII: paste the secret alone")
    return text


def _credential_file(value: object) -> str:
    try:
        text = Path(_text(value)).read_text("utf-8")
    except UnicodeDecodeError:
        raise ValueError("names a file that is not text: put the secret alone in it") from None
    except OSError as error:
        # Not the path: a secret that was set here by mistake would be shown.
        raise ValueError(f"names a file that cannot be read ({error.strerror})") from None
    if not text.strip():
        raise ValueError("names a file that is empty: put the secret in it")
    return _credential(text)


def _redis_url(value: object) -> str:
    text = _text(value)
    try:
        parts = urlsplit(text)
        is_address = bool(parts.hostname or parts.scheme == "unix") and (parts.port is None or parts.port > 0)
    except ValueError:
        is_address = False
    if not is_address or parts.scheme not in {"redis", "rediss", "unix"} or parts.query or parts.fragment:
        # Not the address itself: it may hold a password.
        raise ValueError(
            "is not an address such as redis://:password@host:6379/0, rediss://... or unix:///path "
            "(no query; write / # ? @ in a password as %2F %23 %3F %40)"
        )
    if find_spec("redis") is None or find_spec("cryptography") is None:
        raise ValueError("needs two more packages: install bakrypt_proxy[redis]")
    return text


def _boolean(value: object) -> bool:
    try:
        return _BOOLEANS[str(value).strip().lower()]
    except KeyError:
        raise ValueError(f"is {value!r}: set true or false") from None


def _seconds(value: object) -> float:
    try:
        seconds = float(value if isinstance(value, int | float) else _text(value))
    except ValueError:
        seconds = math.nan
    if isinstance(value, bool) or not 0 < seconds <= _MAX_TIMEOUT:
        raise ValueError(f"is {value!r}: set a number of seconds above 0 and up to {_MAX_TIMEOUT}")
    return seconds


def _rate(value: object) -> str:
    text = _text(value)
    if not re.fullmatch(_RATE, text):
        raise ValueError(f"is {value!r}: set a number of attempts and a time, such as 10 per minute")
    return text


def _count(value: object) -> int:
    text = str(value).strip()
    if not text.isdecimal() or int(text) > _MAX_PROXIES:
        raise ValueError(f"is {value!r}: set how many proxies of yours stand in front, 0 to {_MAX_PROXIES}")
    return int(text)


def _log_format(value: object) -> str:
    if value not in {"text", "json"}:
        raise ValueError(f"is {value!r}: set text or json")
    return str(value)


def _origins(value: object) -> frozenset[str]:
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, Iterable):
        raise ValueError(f"is {value!r}: set exact origins, separated by commas")  # noqa: TRY004 - as above
    return frozenset(_origin(text) for item in value if (text := _text(item)))


def _origin(text: str) -> str:
    scheme = text.partition(":")[0]
    default_port = _DEFAULT_PORTS.get(scheme)
    if default_port is not None and text.endswith(default_port):
        raise ValueError(f"lists {text!r}: leave {default_port} out, as browsers do")
    if not re.fullmatch(_ORIGIN, text):
        raise ValueError(
            f"lists {text!r}: write each origin as the browser sends it, such as https://shop.example.com "
            "(lower case, no path, no slash at the end, no *)"
        )
    return text


_PARSERS: dict[str, Callable[[object], object]] = {
    "url": _url,
    "token": _credential,
    "client_id": _credential,
    "client_secret": _credential,
    "allowed_origins": _origins,
    "timeout": _seconds,
    "redis_url": _redis_url,
}

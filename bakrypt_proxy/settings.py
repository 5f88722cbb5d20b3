"""The settings: one table, read once into one frozen object."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from . import _parsers as parse
from .errors import SettingsError

_Sources = Iterable[Mapping[str, object]]


class _Row(NamedTuple):
    name: str
    parse: Callable[[object], object]
    secret: bool


def _row(
    name: str, default: object, parse: Callable[[object], object], *, secret: bool = False
) -> Any:
    """Return a row of the table. A secret is masked, and `<name>_FILE` may name a file with it."""
    return field(default=default, metadata={"row": _Row(name, parse, secret)})


@dataclass(frozen=True, kw_only=True, repr=False)
class Settings:
    """All settings of one blueprint or client, each checked, also where they are passed in.

    `timeout` is in seconds and covers one whole call to bakrypt, body included; an upload may take
    longer, and waits up to `upload_timeout` seconds for the response. `max_upload` is in bytes,
    `uploads` the number of uploads at a time in a worker. `sandbox_lifetime` is in seconds. The
    last five are for `app.py` only.

    :raises SettingsError: with all problems together; no message shows a secret.
    """

    url: str = _row("BAKRYPT_URL", parse.NETWORKS["testnet"], parse.url)
    token: str | None = _row("BAKRYPT_TOKEN", None, parse.credential, secret=True)
    client_id: str | None = _row("BAKRYPT_CLIENT_ID", None, parse.credential)
    client_secret: str | None = _row("BAKRYPT_CLIENT_SECRET", None, parse.credential, secret=True)
    exchange_public: bool = _row("BAKRYPT_EXCHANGE_PUBLIC", False, parse.boolean)
    api_public: bool = _row("BAKRYPT_API_PUBLIC", False, parse.boolean)
    allowed_origins: frozenset[str] = _row("BAKRYPT_ALLOWED_ORIGINS", frozenset(), parse.origins)
    trusted_hosts: frozenset[str] = _row("BAKRYPT_TRUSTED_HOSTS", frozenset(), parse.hosts)
    timeout: float = _row("BAKRYPT_TIMEOUT", 10.0, parse.seconds)
    share_token: bool = _row("BAKRYPT_SHARE_TOKEN", True, parse.boolean)
    redis_url: str | None = _row("BAKRYPT_REDIS_URL", None, parse.redis_url, secret=True)
    api_calls: frozenset[str] = _row("BAKRYPT_API_CALLS", parse.DEFAULT_CALLS, parse.calls)
    max_upload: int = _row("BAKRYPT_MAX_UPLOAD", 50 * 2**20, parse.size)
    upload_timeout: float = _row("BAKRYPT_UPLOAD_TIMEOUT", 120.0, parse.seconds)
    uploads: int = _row("BAKRYPT_UPLOADS", 16, parse.uploads)
    cookie_key: str | None = _row("BAKRYPT_COOKIE_KEY", None, parse.cookie_key, secret=True)
    rate_limit: str = _row("BAKRYPT_RATE_LIMIT", "10 per minute", parse.rate)
    api_rate_limit: str = _row("BAKRYPT_API_RATE_LIMIT", "20 per minute", parse.rate)
    trusted_proxies: int = _row("BAKRYPT_TRUSTED_PROXIES", 0, parse.count)
    log_format: str = _row("BAKRYPT_LOG_FORMAT", "text", parse.log_format)
    sandbox_lifetime: int = _row("BAKRYPT_SANDBOX_LIFETIME", 150, parse.lifetime)

    @classmethod
    def from_mapping(cls, *sources: Mapping[str, object]) -> Self:
        """Read the `BAKRYPT_...` settings.

        :param sources: mappings such as `app.config` and `os.environ`; the first one that has a
            name wins. A value of `None` counts as absent, an empty string as not set.
        :raises SettingsError: with all problems together; no message shows a secret.
        """
        values: dict[str, Any] = {}
        problems = []
        for name, row in _rows(cls):
            try:
                value = _find_secret(row, sources) if row.secret else _find(row.name, sources)
                if row.name == "BAKRYPT_URL" and value is None:
                    value = _find_network(sources)
            except ValueError as error:
                problems.append(str(error))
            else:
                values |= {} if value is None else {name: value}
        settings = cls._check(values, problems)
        if settings is None:
            # A crash reporter collects the local variables of each frame.
            del sources, value, values
            raise SettingsError("\n".join(problems))
        return settings

    @classmethod
    def _check(cls, values: Mapping[str, Any], problems: list[str]) -> Self | None:
        """Return the settings, or None after adding to the problems what is wrong with them."""
        try:
            settings = cls(**values)
        except SettingsError as error:
            problems += error.problems
        return None if problems else settings

    def __post_init__(self) -> None:
        problems = []
        for name, row in _rows(type(self)):
            value = getattr(self, name)
            if value is None and getattr(type(self), name) is None:
                continue  # not set
            try:
                object.__setattr__(self, name, row.parse(value))
            except ValueError as error:
                problems.append(f"{row.name} {error}")
        if problems:
            raise SettingsError("\n".join(problems))

    @property
    def network(self) -> str:
        """The network's name for people and logs: `mainnet`, `testnet`, or another host."""
        names = {url: name for name, url in parse.NETWORKS.items()}
        return names.get(self.url, urlsplit(self.url).netloc)

    def __repr__(self) -> str:
        shown = []
        for name, row in _rows(type(self)):
            value = getattr(self, name)
            shown.append(f"{name}={'***' if row.secret and value is not None else value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


def unknown_settings(environ: Mapping[str, str]) -> list[str]:
    """Return a sentence for each `BAKRYPT_...` in the environment that is not a setting."""
    found = []
    for name in sorted(environ):
        if name.startswith("BAKRYPT_") and name not in _NAMES:
            nearest = get_close_matches(name, _NAMES, n=1)
            hint = f": is {nearest[0]} meant?" if nearest else ""
            found.append(f"{name} is not a setting{hint}")
    return found


def _rows(settings: type[Settings]) -> list[tuple[str, _Row]]:
    return [(item.name, item.metadata["row"]) for item in fields(settings)]


_NAMES = {
    "BAKRYPT_NETWORK",
    *(row.name for _, row in _rows(Settings)),
    *(f"{row.name}_FILE" for _, row in _rows(Settings) if row.secret),
}

# The functions below raise ValueError with a sentence that begins with a setting's name.


def _find(name: str, sources: _Sources) -> object | None:
    """Return a value from the first source that has it; an empty string there means not set."""
    for source in sources:
        value = source.get(name)
        if value is not None:
            return None if isinstance(value, str) and not value.strip() else value
    return None


def _find_secret(row: _Row, sources: _Sources) -> object | None:
    value, file_name = _find(row.name, sources), f"{row.name}_FILE"
    file = _find(file_name, sources)
    if file is None:
        return value
    if value is not None:
        raise ValueError(f"{row.name} and {file_name} are both set: keep one of them")
    try:
        return row.parse(parse.file_content(file))
    except ValueError as error:
        raise ValueError(f"{file_name} {error}") from None


def _find_network(sources: _Sources) -> object | None:
    value = _find("BAKRYPT_NETWORK", sources)
    try:
        return None if value is None else parse.network(value)
    except ValueError as error:
        raise ValueError(f"BAKRYPT_NETWORK {error}") from None

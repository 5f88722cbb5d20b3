"""Settings are read once, checked together, and masked if they are secret."""

from pathlib import Path
from typing import Any

import pytest

from bakrypt_proxy import Settings, SettingsError
from bakrypt_proxy.settings import unknown_settings

SECRET = "planted-secret"


def read(**settings: object) -> Settings:
    """Read settings, given by their names without the prefix."""
    return Settings.from_mapping(
        {f"BAKRYPT_{name.upper()}": value for name, value in settings.items()}
    )


def problems(**settings: object) -> list[str]:
    """Return the problems of wrong settings."""
    with pytest.raises(SettingsError) as caught:
        read(**settings)
    return caught.value.problems


def test_defaults() -> None:
    """Without settings the network is testnet, exchange is closed, and there are no credentials."""
    settings = Settings.from_mapping({})
    assert settings == Settings()
    assert settings.url == "https://testnet.bakrypt.io"
    assert settings.token is settings.client_id is settings.client_secret is None
    assert settings.exchange_public is False
    assert settings.allowed_origins == frozenset()
    assert settings.timeout == 10


def test_the_first_source_wins_and_none_is_absent() -> None:
    """`app.config` wins over the environment; an empty string there unsets a setting."""
    environ = {
        "BAKRYPT_TOKEN": "from-environ",
        "BAKRYPT_CLIENT_ID": "from-environ",
        "BAKRYPT_CLIENT_SECRET": "s",
    }
    config = {
        "BAKRYPT_TOKEN": "from-config",
        "BAKRYPT_CLIENT_ID": None,
        "BAKRYPT_CLIENT_SECRET": "",
    }
    settings = Settings.from_mapping(config, environ)
    assert (settings.token, settings.client_id, settings.client_secret) == (
        "from-config",
        "from-environ",
        None,
    )


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("network", "mainnet", "url", "https://bakrypt.io"),
        ("network", "testnet", "url", "https://testnet.bakrypt.io"),
        ("url", "https://bakrypt.example/", "url", "https://bakrypt.example"),
        ("url", "https://Bakrypt.example:8443", "url", "https://bakrypt.example:8443"),
        ("url", "http://127.0.0.1:5001", "url", "http://127.0.0.1:5001"),
        ("url", "http://[::1]:5001", "url", "http://[::1]:5001"),
        ("url", "http://localhost", "url", "http://localhost"),
        ("token", "1234567890", "token", "1234567890"),
        ("token", " padded\n", "token", "padded"),
        ("exchange_public", "true", "exchange_public", True),
        ("exchange_public", "Off", "exchange_public", False),
        ("exchange_public", False, "exchange_public", False),
        ("exchange_public", True, "exchange_public", True),
        ("timeout", "2.5", "timeout", 2.5),
        ("timeout", 3, "timeout", 3.0),
        (
            "allowed_origins",
            "https://a.example, http://localhost:5173,,http://[::1]:80,capacitor://localhost",
            "allowed_origins",
            None,
        ),
        (
            "allowed_origins",
            ["https://a.example"],
            "allowed_origins",
            frozenset({"https://a.example"}),
        ),
    ],
)
def test_valid_values(name: str, value: object, field: str, expected: object) -> None:
    """A valid value is parsed."""
    if name == "allowed_origins" and expected is None:
        assert problems(allowed_origins=value)[0].endswith("leave :80 out, as browsers do")
        return
    assert getattr(read(**{name: value}), field) == expected


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("network", "main", "set mainnet or testnet"),
        ("network", "sandbox", "app.py"),
        ("url", "http://bakrypt.example", "use https"),
        ("url", "https://bakrypt.example/auth", "only an origin"),
        ("url", "https://user:planted-secret@bakrypt.example", "only an origin"),
        ("url", "https://bakrypt.example?x=1", "only an origin"),
        ("url", "ftp://bakrypt.example", "only an origin"),
        ("url", "bakrypt.example", "only an origin"),
        ("url", "https://[planted-secret", "set an origin such as"),
        ("url", "https://bakrypt.example:port", "set an origin such as"),
        ("url", 5, "must be text"),
        ("url", "https://exa mple", "only an origin"),
        ("network", ["mainnet"], "set mainnet or testnet"),
        ("token", 1234567890, "must be text"),
        ("token", "Token planted-secret", "paste only the secret"),
        ("token", "planted-secret\r\nX-Injected: 1", "paste only the secret"),
        ("token", "planted-secret-é", "paste only the secret"),
        ("client_id", "planted secret", "paste only the secret"),
        ("client_secret", "planted\x00secret", "paste only the secret"),
        ("exchange_public", "perhaps", "true or false"),
        ("exchange_public", 2, "true or false"),
        ("timeout", "0", "above 0"),
        ("timeout", "-1", "above 0"),
        ("timeout", "nan", "above 0"),
        ("timeout", "inf", "above 0"),
        ("timeout", "601", "up to 600"),
        ("timeout", True, "above 0"),
        ("timeout", "soon", "above 0"),
        ("allowed_origins", "*", "no *"),
        ("allowed_origins", "https://*.example", "no *"),
        ("allowed_origins", "https://a.example/", "no slash at the end"),
        ("allowed_origins", "https://A.example", "lower case"),
        ("allowed_origins", "null", "such as https://shop.example.com"),
        ("allowed_origins", "https://a.example:443", "leave :443 out"),
        ("allowed_origins", 7, "separated by commas"),
        ("redis_url", "http://h:1", "redis://"),
        ("redis_url", "redis://:planted-secret/rest@h:6379/0", "%2F"),
        ("redis_url", "redis://:x[planted-secret@h", "%2F"),
        ("redis_url", "redis://h:99999", "redis://"),
        ("redis_url", "redis://h?socket_timeout=planted-secret", "no query"),
        ("rate_limit", "often", "such as 10 per minute"),
        ("rate_limit", "0 per minute", "such as 10 per minute"),
        ("trusted_proxies", "-1", "0 to 9"),
        ("trusted_proxies", True, "0 to 9"),
        ("log_format", "xml", "text or json"),
        ("token_file", "/nowhere/planted-secret", "cannot be read"),
        ("token_file", "/", "cannot be read"),
    ],
)
def test_invalid_values(name: str, value: object, remedy: str) -> None:
    """The problem names the setting and the remedy, and shows no secret."""
    (problem,) = problems(**{name: value})
    assert problem.startswith(f"BAKRYPT_{name.upper()} ")
    assert remedy in problem
    assert SECRET not in problem


def test_all_problems_are_reported_together() -> None:
    """One error lists every wrong setting."""
    found = problems(url="http://bakrypt.example", token="a b", timeout="x", allowed_origins="*")
    assert [problem.split()[0] for problem in found] == [
        "BAKRYPT_URL",
        "BAKRYPT_TOKEN",
        "BAKRYPT_ALLOWED_ORIGINS",
        "BAKRYPT_TIMEOUT",
    ]


@pytest.mark.parametrize("name", ["token", "client_secret"])
def test_a_secret_from_a_file(tmp_path: Path, name: str) -> None:
    """The line break that editors add at the end of a file is removed."""
    path = tmp_path / "secret"
    path.write_text(f"{SECRET}\n")
    assert getattr(read(**{f"{name}_file": str(path)}), name) == SECRET


@pytest.mark.parametrize(
    ("content", "remedy"),
    [(b" \n", "empty"), (b"\xff\xfe", "not text"), (b"planted secret", "paste only the secret")],
)
def test_a_bad_secret_file(tmp_path: Path, content: bytes, remedy: str) -> None:
    """The problem names the setting of the file."""
    path = tmp_path / "planted-secret"
    path.write_bytes(content)
    (problem,) = problems(token_file=str(path))
    assert problem.startswith("BAKRYPT_TOKEN_FILE ")
    assert remedy in problem
    assert "planted" not in problem


def test_a_secret_and_its_file_exclude_each_other(tmp_path: Path) -> None:
    """The settings do not guess which of the two was meant."""
    path = tmp_path / "secret"
    path.write_text("other")
    (problem,) = problems(token=SECRET, token_file=str(path))
    assert problem == "BAKRYPT_TOKEN and BAKRYPT_TOKEN_FILE are both set: keep one of them"


def test_settings_are_frozen_and_masked() -> None:
    """The repr shows no secret, and no setting can be changed."""
    settings = read(token=SECRET, client_id="an-id", client_secret=SECRET)
    assert SECRET not in repr(settings)
    assert "token='***'" in repr(settings)
    with pytest.raises(AttributeError):
        settings.token = "other"  # type: ignore[misc]


def test_settings_made_by_hand_are_checked_too() -> None:
    """A secret with a line break never reaches requests, which would quote it."""
    with pytest.raises(SettingsError) as caught:
        Settings(token="planted-secret\nX: y")
    assert SECRET not in str(caught.value)
    with pytest.raises(SettingsError):
        Settings(url="http://bakrypt.example")
    with pytest.raises(SettingsError):
        Settings(timeout=0)
    assert Settings(token="planted-secret\n").token == "planted-secret"
    assert Settings(url="https://bakrypt.example/").url == "https://bakrypt.example"
    by_hand = Settings(allowed_origins="https://shop.example.com")  # type: ignore[arg-type]
    assert by_hand.allowed_origins == {"https://shop.example.com"}


HAND_MADE: list[tuple[dict[str, Any], str]] = [
    ({"exchange_public": "perhaps"}, "BAKRYPT_EXCHANGE_PUBLIC"),
    ({"share_token": None}, "BAKRYPT_SHARE_TOKEN"),
    ({"rate_limit": "nonsense"}, "BAKRYPT_RATE_LIMIT"),
    ({"trusted_proxies": -1}, "BAKRYPT_TRUSTED_PROXIES"),
    ({"trusted_proxies": True}, "BAKRYPT_TRUSTED_PROXIES"),
    ({"log_format": "xml"}, "BAKRYPT_LOG_FORMAT"),
    ({"timeout": None}, "BAKRYPT_TIMEOUT"),
    ({"url": None}, "BAKRYPT_URL"),
    ({"token": "planted secret"}, "BAKRYPT_TOKEN"),
    ({"redis_url": "http://planted-secret"}, "BAKRYPT_REDIS_URL"),
]


@pytest.mark.parametrize(("values", "name"), HAND_MADE)
def test_hand_made_settings_are_checked(values: dict[str, Any], name: str) -> None:
    """A value that is passed in is checked by the same table as one that is read."""
    with pytest.raises(SettingsError) as caught:
        Settings(**values)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{name} ")
    assert "planted" not in problem


def test_text_in_hand_made_settings_is_parsed() -> None:
    """The string `"false"` is false, although it is not empty."""
    settings = Settings(exchange_public="false", trusted_proxies="2", timeout="3")  # type: ignore[arg-type]
    assert (settings.exchange_public, settings.trusted_proxies, settings.timeout) == (False, 2, 3.0)


def test_problems_of_hand_made_settings_are_reported_together() -> None:
    """Each problem is one entry of the error."""
    with pytest.raises(SettingsError) as caught:
        Settings(rate_limit="nonsense", trusted_proxies=-1, token="a b")
    assert len(caught.value.problems) == 3


def test_a_problem_of_a_file_is_reported_with_the_others(tmp_path: Path) -> None:
    """A file that cannot be read hides no other problem."""
    found = problems(token_file=str(tmp_path / "missing"), rate_limit="x", network="moonnet")
    assert [problem.split()[0] for problem in found] == [
        "BAKRYPT_NETWORK",
        "BAKRYPT_TOKEN_FILE",
        "BAKRYPT_RATE_LIMIT",
    ]


@pytest.mark.parametrize("name", ["TOKEN", "CLIENT_SECRET", "REDIS_URL"])
def test_every_secret_may_come_from_a_file(tmp_path: Path, name: str) -> None:
    """Such a secret is masked in the repr too."""
    path = tmp_path / "secret"
    path.write_text("redis://:planted@127.0.0.1/0\n")
    settings = Settings.from_mapping({f"BAKRYPT_{name}_FILE": str(path)})
    assert getattr(settings, name.lower()) == "redis://:planted@127.0.0.1/0"
    assert "planted" not in repr(settings)


@pytest.mark.parametrize("quote", ["'", '"', "`"])
def test_a_secret_in_quotes(tmp_path: Path, quote: str) -> None:
    """Docker keeps the quotes of an env file; bakrypt would refuse the secret."""
    path = tmp_path / "secret"
    path.write_text(f"{quote}planted{quote}")
    for found in (problems(token=path.read_text()), problems(token_file=str(path))):
        (problem,) = found
        assert "is in quotes: remove them" in problem
        assert "planted" not in problem


def test_a_secret_file_with_a_byte_order_mark(tmp_path: Path) -> None:
    """As Windows' editors write it."""
    path = tmp_path / "secret"
    path.write_bytes(b"\xef\xbb\xbfa-token\r\n")
    assert Settings.from_mapping({"BAKRYPT_TOKEN_FILE": str(path)}).token == "a-token"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("BAKRYPT_TOKE", "BAKRYPT_TOKEN"),
        ("BAKRYPT_REDIS_URI", "BAKRYPT_REDIS_URL"),
        ("BAKRYPT_ALLOWED_ORIGIN", "BAKRYPT_ALLOWED_ORIGINS"),
        ("BAKRYPT_TIMEOUT_FILE", "BAKRYPT_TIMEOUT"),
    ],
)
def test_an_unknown_setting_names_the_nearest(name: str, nearest: str) -> None:
    """A misspelt one would be ignored in silence."""
    assert unknown_settings({name: "planted", "OTHER": "x", "BAKRYPT_TOKEN": "t"}) == [
        f"{name} is not a setting: is {nearest} meant?"
    ]


def test_known_settings_are_known() -> None:
    """All of the table, the files and the network."""
    names = ["BAKRYPT_NETWORK", "BAKRYPT_URL", "BAKRYPT_TOKEN_FILE", "BAKRYPT_REDIS_URL_FILE"]
    assert unknown_settings(dict.fromkeys(names, "x")) == []
    assert unknown_settings({"BAKRYPT_": "x"})[0].startswith("BAKRYPT_ is not a setting")


@pytest.mark.parametrize(
    "value", ["https://a.example", "a.example:80", "a.example/", "*.example", "a b", "[::1]"]
)
def test_trusted_hosts_are_names(value: str) -> None:
    """Not origins."""
    (problem,) = problems(trusted_hosts=value)
    assert problem.startswith("BAKRYPT_TRUSTED_HOSTS lists ")


def test_trusted_hosts_are_read_in_any_case() -> None:
    """DNS names have no case."""
    settings = Settings.from_mapping({"BAKRYPT_TRUSTED_HOSTS": "Shop.Example.com, b.example"})
    assert settings.trusted_hosts == {"shop.example.com", "b.example"}


def test_cookie_keys_on_several_lines(tmp_path: Path) -> None:
    """Taken for one key, a rotated file would end all receipts in silence."""
    keys = ["a-key-of-at-least-32-characters-000", "a-key-of-at-least-32-characters-111"]
    path = tmp_path / "keys"
    path.write_text("\n".join(keys))
    with pytest.raises(SettingsError, match="BAKRYPT_COOKIE_KEY_FILE has several lines") as caught:
        Settings.from_mapping({"BAKRYPT_COOKIE_KEY_FILE": str(path)})
    assert "characters-" not in str(caught.value)
    path.write_text(f"{', '.join(keys)}\r\n")
    settings = Settings.from_mapping({"BAKRYPT_COOKIE_KEY_FILE": str(path)})
    assert settings.cookie_key == ", ".join(keys)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BAKRYPT_REDIS_URL", "redis://:planted\udce9@127.0.0.1:6379/0"),
        ("BAKRYPT_COOKIE_KEY", "planted\udce9" + "k" * 32),
    ],
)
def test_a_setting_that_is_no_utf8(name: str, value: str) -> None:
    """A byte of the environment that cannot be sent or signed with: each call would fail."""
    with pytest.raises(SettingsError, match=f"{name} is not valid UTF-8") as caught:
        Settings.from_mapping({name: value})
    assert "planted" not in str(caught.value)
    assert caught.value.__context__ is None

"""`bakrypt_proxy/browser/` as an npm package: what is in it, its types and its size."""

import json
import re
import tomllib
from pathlib import Path

from flask.testing import FlaskClient
from packages import needs_npm, npm, packages

__all__ = ["packages"]  # a fixture is used by its name
ROOT = Path(__file__).parents[2]
BROWSER = ROOT / "bakrypt_proxy" / "browser"
STRICT = [
    *("--noEmit", "--strict", "--target", "es2022", "--lib", "es2022,dom,dom.iterable"),
    *("--typeRoots", "none"),
]
USER = """
import { BakryptSession, BakryptError, type BakryptSessionOptions } from "bakrypt-proxy";

const options: BakryptSessionOptions = {
  base: "/auth",
  credentials: "include",
  headers: () => ({ "X-CSRFToken": "abc" }),
  timeout: 5000,
};
const session = new BakryptSession(options);
const show = (event: CustomEvent<{ expiresIn: number }>) => event.detail.expiresIn.toFixed();
session.addEventListener("renewed", show);
session.removeEventListener("renewed", show);
session.addEventListener("lost", (event) => event.detail.toUpperCase());
session.addEventListener("another", { handleEvent() {} }, { once: true });
const createClient = (client: { fetch?: (input: Request) => Promise<Response> }) => client;
createClient({ fetch: session.fetch });
const likeFetch: typeof fetch = session.fetch;
const rejected: string = await session.accessToken();
await session.accessToken({ rejected });
session.close();
export const error: BakryptError | typeof fetch = likeFetch;
"""


def test_the_version_is_that_of_the_python_package() -> None:
    """One release has one number, which heads the changelog."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    manifest = json.loads((BROWSER / "package.json").read_text("utf-8"))
    contract = json.loads((ROOT / "bakrypt_proxy" / "web" / "openapi.json").read_text("utf-8"))
    changes = re.findall(
        r"^## ([\d.]+) - ", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE
    )
    assert manifest["version"] == project["version"]
    assert contract["info"]["version"] == project["version"]
    assert changes[0] == project["version"]
    assert manifest["license"] == project["license"]


class TestPackage:
    """What tools make of it."""

    pytestmark = needs_npm

    def test_what_is_packed(self, client: FlaskClient, tmp_path: Path) -> None:
        """The files that the blueprint serves, and their types."""
        (packed,) = json.loads(npm(BROWSER, "pack", "--json", "--pack-destination", str(tmp_path)))
        names = sorted(file["path"] for file in packed["files"])
        assert names == ["bakrypt.d.ts", "bakrypt.js", "package.json"]
        npm(tmp_path, "init", "--yes")
        npm(tmp_path, "install", "--silent", "--no-audit", "--no-fund", packed["filename"])
        installed = tmp_path / "node_modules" / "bakrypt-proxy" / "bakrypt.js"
        assert installed.read_bytes() == client.get("/auth/bakrypt.js").data

    def test_types(self, packages: Path, tmp_path: Path) -> None:
        """TypeScript reads the JSDoc of the module, and its declarations as a user would."""
        module = str(BROWSER / "bakrypt.js")
        npm(packages, "exec", "--", "tsc", "--allowJs", "--checkJs", *STRICT, module)
        (tmp_path / "node_modules").mkdir()
        (tmp_path / "node_modules" / "bakrypt-proxy").symlink_to(BROWSER)
        (tmp_path / "user.ts").write_text(USER)
        modern = ["--module", "esnext", "--moduleResolution", "bundler", "--preserveSymlinks"]
        npm(packages, "exec", "--", "tsc", *STRICT, *modern, str(tmp_path / "user.ts"))

    def test_the_declarations_are_complete(self, packages: Path, tmp_path: Path) -> None:
        """What the module has and what they say fit, both ways."""
        (tmp_path / "bakrypt.js").write_bytes((BROWSER / "bakrypt.js").read_bytes())
        (tmp_path / "declared.d.ts").write_bytes((BROWSER / "bakrypt.d.ts").read_bytes())
        (tmp_path / "compare.ts").write_text("""
            import * as real from "./bakrypt.js";
            import * as declared from "./declared.js";
            type Names<T> = Exclude<keyof T, keyof EventTarget>;
            const one: Names<real.BakryptSession> = {} as Names<declared.BakryptSession>;
            const other: Names<declared.BakryptSession> = {} as Names<real.BakryptSession>;
            const error: declared.BakryptError = {} as real.BakryptError;
            const session: declared.BakryptSession = {} as real.BakryptSession;
            export { one, other, error, session };
        """)
        modern = ["--allowJs", "--module", "esnext", "--moduleResolution", "bundler"]
        npm(packages, "exec", "--", "tsc", *STRICT, *modern, str(tmp_path / "compare.ts"))

    def test_size(self, packages: Path) -> None:
        """Minified it has less than 4.5 kB."""
        minify = ["esbuild", "--minify", "--format=esm", str(BROWSER / "bakrypt.js")]
        assert len(npm(packages, "exec", "--", *minify).encode()) < 4500

"""The Dockerfile without a container engine: its steps, carried out in a folder by another user."""

import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from dockerfile import context, instructions, last
from documents import ROOT

BASE_PATH = "/usr/local/bin:/usr/bin:/bin"
_PATIENCE = 400  # seconds for a step; pip downloads
_PASSED_ON = ("PIP_", "HTTP", "NO_PROXY", "SSL_", "REQUESTS_")  # how pip reaches an index here


class Image:
    """What the Dockerfile builds, in a folder in place of the root of the file system.

    The steps are carried out by the user of the image if the test runs as root, and by the test's
    own user otherwise. Afterwards this user may only read the folder. Python is that of this
    machine.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.scratch = folder / "scratch"
        self._build = folder / "build"
        self._directory = "/"
        self._variables: dict[str, str] = {}
        uid, gid = map(int, last("USER").value.split(":"))
        self._as_user: dict[str, Any] = {"user": uid, "group": gid, "extra_groups": []}
        if os.geteuid() != 0:
            self._as_user = {}
        self._base = folder / "base"
        for path in (folder, self._base, self.scratch):
            path.mkdir(exist_ok=True)
            path.chmod(0o755)
        self._give(self.scratch)

    def build(self) -> Self:
        """Carry out the steps that make files, then make these read-only."""
        python = self._base / "python"
        python.write_text(f'#!/bin/sh\nexec {_find_python(self.scratch, self._as_user)} "$@"\n')
        python.chmod(0o755)
        steps = {
            "FROM": self._start_stage,
            "WORKDIR": self._enter,
            "COPY": self._copy,
            "RUN": self._run,
            "ENV": self._set,
        }
        for keyword, value in instructions():
            if keyword in steps:
                steps[keyword](value)
        self._close()
        return self

    @contextmanager
    def start(
        self, command: list[str], environ: Mapping[str, str], log: Path
    ) -> "Iterator[subprocess.Popen[bytes]]":
        """Start a command of the image in its last folder, and stop it after the block.

        :param environ: what `docker run --env` would give.
        :param log: a file for standard output and standard error.
        """
        with log.open("wb") as output:
            process = subprocess.Popen(
                self._found(command), stdout=output, stderr=output, **self._options(environ)
            )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)

    def run(
        self, command: list[str], environ: Mapping[str, str], *, timeout: float = 60
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command of the image, as `docker exec` would, and return how it ended."""
        return subprocess.run(
            self._found(command),
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            **self._options(environ),
        )

    def _options(self, environ: Mapping[str, str]) -> dict[str, Any]:
        own = {"PATH": f"{self._base}:{BASE_PATH}", "HOME": str(self.scratch), **self._variables}
        return {"cwd": self._place("."), "env": {**own, **environ}, **self._as_user}

    def _found(self, command: list[str]) -> list[str]:
        """Name the program by its path: Popen would look for it on our own PATH."""
        path = self._options({})["env"]["PATH"]
        program = shutil.which(command[0], path=path)
        assert program is not None, f"{command[0]} is not in {path}"
        return [program, *command[1:]]

    def _place(self, path: str) -> Path:
        return self.root / os.path.normpath(Path(self._directory, path)).lstrip("/")

    def _placed(self, text: str) -> str:
        """Put the folders that the Dockerfile names into the root."""
        return re.sub(r"(?<![\w./])/(?=(venv|app|src)\b)", f"{self.root}/", text)

    def _start_stage(self, _: str) -> None:
        if self.root.exists():
            self.root.rename(self._build)
        self.root.mkdir()
        self._give(self.root)
        self._directory, self._variables = "/", {}

    def _enter(self, value: str) -> None:
        self._directory = value
        self._place(value).mkdir(parents=True)
        self._give(self._place(value))

    def _copy(self, value: str) -> None:
        *sources, target = value.split()
        if sources[0].startswith("--from="):
            (self._build / sources[1].lstrip("/")).rename(self._place(target))
            return
        for source in sources:
            name = source.rstrip("/")
            assert name in context(), f"{name} is not let into the build by .dockerignore"
            into = self._place(target)
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, into, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, into / name)
        self._give(self._place("."))

    def _run(self, value: str) -> None:
        passed_on = {
            name: value for name, value in os.environ.items() if name.upper().startswith(_PASSED_ON)
        }
        command = ["sh", "-euc", self._placed(value)]
        result = self.run(command, passed_on, timeout=_PATIENCE)
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]

    def _set(self, value: str) -> None:
        path = self._options({})["env"]["PATH"]
        for part in shlex.split(value):
            name, _, text = part.partition("=")
            self._variables[name] = self._placed(text).replace("$PATH", path)

    def _give(self, path: Path) -> None:
        """Let the user of the image write here."""
        if self._as_user:
            for found in (path, *path.rglob("*")):
                os.chown(found, self._as_user["user"], self._as_user["group"])

    def _close(self) -> None:
        """Make the root read-only and, if we are root, ours."""
        for path in (*self.root.rglob("*"), self.root):
            if self._as_user:
                os.chown(path, 0, 0, follow_symlinks=False)
            if not path.is_symlink():
                path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))


def _find_python(folder: Path, as_user: Mapping[str, Any]) -> str:
    """Return a Python that the user of the image can run: not one in root's own folder."""
    code = "import ensurepip, sys; sys.exit(sys.version_info < (3, 11))"
    for name in (getattr(sys, "_base_executable", sys.executable), "/usr/bin/python3"):
        with suppress(OSError):
            run = subprocess.run([name, "-c", code], check=False, cwd=folder, **as_user)
            if run.returncode == 0:
                return str(name)
    raise FileNotFoundError("no Python 3.11 with ensurepip that another user can run")


@contextmanager
def built() -> Iterator[Image]:
    """Build the image in a folder that other users can enter: pytest's own is closed to them."""
    folder = Path(tempfile.mkdtemp(prefix="bakrypt_proxy-image-"))
    try:
        yield Image(folder).build()
    finally:
        subprocess.run(["/bin/chmod", "-R", "u+w", str(folder)], check=False)
        shutil.rmtree(folder)

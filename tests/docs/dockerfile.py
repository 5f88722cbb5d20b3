"""The Dockerfile and `.dockerignore`, read as a container engine reads them."""

import json
import re
from typing import NamedTuple

from documents import read


class Instruction(NamedTuple):
    """One instruction of a Dockerfile, such as `USER 10001:10001`."""

    keyword: str
    value: str

    @property
    def command(self) -> list[str]:
        """The command of a CMD or a HEALTHCHECK in exec form."""
        found: list[str] = json.loads(self.value[self.value.index("[") :])
        return found


def instructions() -> list[Instruction]:
    """Return the instructions of our Dockerfile, without comments and with joined lines."""
    text = re.sub(r"^#.*\n", "", read("Dockerfile"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n", "", text).splitlines()
    return [Instruction(*line.split(maxsplit=1)) for line in lines if line]


def last(keyword: str) -> Instruction:
    """Return the last instruction with a keyword, which is that of the image."""
    return [found for found in instructions() if found.keyword == keyword][-1]


def context() -> set[str]:
    """Return the files and folders that `.dockerignore` lets into a build.

    :raises AssertionError: if it does not exclude everything else.
    """
    lines = [line for line in read(".dockerignore").splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    return {line[1:] for line in lines if line.startswith("!")}

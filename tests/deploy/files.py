"""The files of deploy/, read: Dockerfiles, the systemd unit, Kubernetes manifests, and the commands that they run."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILES = sorted(DEPLOY.glob("*.Dockerfile"))
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
UNIT = DEPLOY / "systemd" / "sightline.service"
ENVIRONMENT = DEPLOY / "systemd" / "serve.env"


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile, its lines joined and its comments gone."""

    word: str
    rest: str

    @property
    def array(self) -> list[str]:
        """The rest in exec form."""
        words = json.loads(self.rest)
        assert isinstance(words, list)
        assert all(isinstance(word, str) for word in words)
        return words


def stages(dockerfile: Path) -> list[list[Instruction]]:
    """The instructions of every stage, each beginning with its FROM."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#")]
    found: list[list[Instruction]] = []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            found.append([])
        found[-1].append(Instruction(word, re.sub(r"\s+", " ", rest.strip())))
    return found


def ignore_file(dockerfile: Path) -> Path:
    """What Docker does not send to the builder of this file."""
    return dockerfile.with_name(f"{dockerfile.name}.dockerignore")


def only(stage: list[Instruction], word: str) -> Instruction:
    """The one instruction of that name."""
    (found,) = [instruction for instruction in stage if instruction.word == word]
    return found


def health(stage: list[Instruction]) -> list[str]:
    """What HEALTHCHECK runs."""
    _, _, command = only(stage, "HEALTHCHECK").rest.partition("CMD ")
    return Instruction("CMD", command).array


def unit() -> dict[str, list[tuple[str, str]]]:
    """The sections of the systemd unit: settings in their order, a name as often as it is set."""
    sections: dict[str, list[tuple[str, str]]] = {}
    here: list[tuple[str, str]] = []
    for line in UNIT.read_text().splitlines():
        if re.fullmatch(r"\[\w+\]", line):
            here = sections.setdefault(line[1:-1], [])
        elif line and not line.startswith("#"):
            name, equals, value = line.partition("=")
            assert equals, line
            here.append((name, value))
    return sections


def environment() -> dict[str, str]:
    """The variables of the environment file; one that is commented out counts, too."""
    lines = ENVIRONMENT.read_text().splitlines()
    return dict(match.groups() for line in lines if (match := re.fullmatch(r"#?([A-Z_]+)=(.*)", line)))  # type: ignore[misc]


def documents() -> list[tuple[Path, dict[str, Any]]]:
    """Every document of every manifest."""
    return [(path, document) for path in MANIFESTS for document in yaml.safe_load_all(path.read_text())]


def containers() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every container of the manifests, and where it stands."""

    def visit(value: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
        if isinstance(value, dict):
            for name, inner in value.items():
                if name == "containers":
                    yield from ((f"{where}/{container['name']}", container) for container in inner)
                else:
                    yield from visit(inner, f"{where}/{name}")

    for path, document in documents():
        yield from visit(document["spec"], f"{path.name}:{document['kind']}")


def served(words: list[str]) -> list[str]:
    """The words of ``sightline serve …`` in what a container or service runs, after the ``sightline``."""
    if words[:2] == ["sh", "-c"]:
        words = shlex.split(words[2])
        assert words.pop(0) == "exec", "SIGTERM must reach the server, not a shell"
    assert words[0] in {"sightline", "/opt/sightline/bin/sightline"}
    assert words[1] == "serve"
    return words[1:]


def run_commands(dockerfile: Path) -> list[list[str]]:
    """The ``sightline …`` commands of RUN, as words."""
    runs = [each.rest for stage in stages(dockerfile) for each in stage if each.word == "RUN"]
    parts = [shlex.split(part) for run in runs for part in run.split("&&")]
    return [words[1:] for words in parts if words[0] == "sightline"]


def commands() -> dict[str, list[str]]:
    """Every ``sightline serve`` of deploy/, by where it stands."""
    found = {path.name: served(only(stages(path)[-1], "CMD").array) for path in DOCKERFILES}
    (line,) = [value for name, value in unit()["Service"] if name == "ExecStart"]
    variables = environment()
    words = [part for word in line.split() for part in (shlex.split(variables[word[1:]]) if word[0] == "$" else [word])]
    found[UNIT.name] = served(words)
    for where, container in containers():
        run = [*container.get("command", ()), *container.get("args", ())]
        if run:
            found[where] = served(run)
    return found

"""What the documentation tells a reader to type is what the program takes."""

from __future__ import annotations

import ast
import re
import runpy
import shlex
import shutil
import sys
import types
from pathlib import Path

import pytest
from PIL import Image

import sightline
from sightline import demo
from sightline.cli.main import main, parser
from tests.docs.markdown import PAGES, ROOT, code, commands, name

COMMANDS = [(page, command) for page in PAGES for command in commands(page)]


def test_the_two_commands_of_the_readme() -> None:
    first = code(ROOT / "README.md", "sh")[0]
    assert re.findall(r"^(.*?)\s+#", first, re.MULTILINE) == [
        "pip install . && sightline demo",
        "pip install -e '.[test]' && pytest",
    ]


@pytest.mark.parametrize(
    "command",
    [pytest.param(command, id=f"{name(page)}: {command}") for page, command in COMMANDS if "sightline " in command],
)
def test_sightline_commands_parse(command: str) -> None:
    words = shlex.split(command)
    while "=" in words[0]:
        words.pop(0)
    if words[0] == "sightline":
        # --labels reads its file while parsing, which a reader has and this test has not.
        assert callable(parser().parse_args([word.replace("labels.txt", "a,b") for word in words[1:]]).run)


def test_extras_exist() -> None:
    text = "".join(page.read_text() for page in PAGES)
    named = {extra for group in re.findall(r"(?:\.|sightline)\[([a-z,]+)\]", text) for extra in group.split(",")}
    # By hand: Python 3.10 has no reader of TOML.
    section = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    assert named
    assert named <= set(re.findall(r"^(\w+) = \[", section, re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_examples_use_what_exists(page: Path) -> None:
    for example in code(page, "python"):
        for node in ast.walk(ast.parse(example)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "sightline":
                assert hasattr(sightline, node.attr), f"sightline.{node.attr}"


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that holds what the examples speak of: a bundle and a few pictures."""
    shutil.copytree(demo.BUNDLE, tmp_path / "steel.sightline")
    (tmp_path / "line").mkdir()
    for file in ("part.png", "line/a.png", "line/b.png"):
        Image.open(demo.samples()[0].image).save(tmp_path / file)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "explaining.md"], ids=name)
def test_python_examples_run(page: Path, desk: Path) -> None:
    for example in code(page, "python"):
        exec(compile(example, str(page), "exec"), {})
    assert (desk / "part.explained.png").is_file()


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "explaining.md"], ids=name)
def test_commands_that_explain_run(page: Path, desk: Path) -> None:
    quick = re.compile(r"sightline (explain|stream|inspect|doctor)(\s|$)")
    explaining = [command for command in commands(page) if quick.match(command)]
    assert explaining
    for command in explaining:
        assert main(shlex.split(command)[1:]) == 0, command


@pytest.mark.parametrize(
    ("choice", "expected"),
    [(None, "onnxruntime"), ("onnxruntime", "onnxruntime"), ("onnxruntime-gpu", "onnxruntime-gpu"), ("none", None)],
)
def test_the_choice_of_onnx_runtime(choice: str | None, expected: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    requirements = install_requires(choice, monkeypatch)
    found = [re.split(r"[<>=]", requirement)[0] for requirement in requirements]
    assert [package for package in found if package.startswith("onnxruntime")] == ([expected] if expected else [])
    assert {"numpy", "pillow", "tqdm"} <= set(found)
    assert not {"torch", "onnx"} & set(found)


def test_an_unknown_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="SIGHTLINE_ONNXRUNTIME='cuda' is unknown"):
        install_requires("cuda", monkeypatch)


def install_requires(choice: str | None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What setup.py hands to setuptools under SIGHTLINE_ONNXRUNTIME=choice."""
    given: dict[str, list[str]] = {}
    fake = types.ModuleType("setuptools")
    fake.setup = given.update  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "setuptools", fake)
    monkeypatch.delenv("SIGHTLINE_ONNXRUNTIME", raising=False)
    if choice is not None:
        monkeypatch.setenv("SIGHTLINE_ONNXRUNTIME", choice)
    runpy.run_path(str(ROOT / "setup.py"))
    return given["install_requires"]

"""What is imported when, and which room may import which (ARCHITECTURE.md)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sightline import demo

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sightline"
MODULES = sorted(PACKAGE.rglob("*.py"))

# What each room may import of the others. A room may always import itself.
ROOMS: dict[str, set[str]] = {
    "errors": set(),
    "numeric": {"errors"},
    "bundle": {"errors"},
    "cache": {"errors"},
    "kernels": {"cache", "errors"},
    "bindings": {"bundle", "cache", "errors"},
    "exporter": {"kernels", "bundle", "errors", "numeric"},
    "runtime": {"kernels", "bindings", "bundle", "cache", "errors", "numeric"},
    "bench": {"runtime", "kernels", "bindings", "bundle", "cache", "errors"},
    "metrics": {"runtime", "kernels", "bundle", "errors", "numeric"},
    "dataset": {"", "runtime", "bindings", "bundle", "cache", "errors"},
    "pages": {"metrics", "dataset", "runtime", "bundle", "errors"},
    "demo": set(),
    "serving": {"", "pages", "runtime", "bindings", "bundle", "errors"},
    "cli": {
        *{"", "exporter", "kernels", "bindings", "runtime", "bench", "metrics", "pages", "serving", "dataset"},
        *{"bundle", "errors", "demo"},
    },
}
FRONT = {"exporter", "runtime", "bundle", "errors"}  # what sightline/__init__.py may take its names from

# Third-party packages that a room may import where a module is loaded, and, beyond these, inside functions only.
LOADED: dict[str, set[str]] = {
    "kernels": {"numpy"},
    "bindings": {"numpy"},
    "runtime": {"numpy", "PIL"},
    "exporter": {"numpy", "onnx", "onnx_ir", "onnxscript", "google", "onnxruntime"},
    "bench": {"numpy"},
    "metrics": {"numpy", "PIL"},
    "dataset": {"numpy", "PIL"},
    "pages": {"numpy", "PIL"},
    "serving": {"numpy", "PIL"},
    "cli": {"tqdm", "PIL"},
}
LAZY: dict[str, set[str]] = {
    "kernels": {"cupy"},
    "bindings": {"onnxruntime", "cupy", "psutil", "pycuda"},
    "runtime": {"cupy", "networkx", "psutil"},
    "bench": {"cupy", "psutil"},
    "exporter": {"torch"},
    "serving": {"cv2"},
    "dataset": {"cupy", "pyarrow", "ray"},
    "cli": {"numpy", "onnxruntime", "openvino", "cupy", "tensorrt"},
}
# One file per engine is loaded only when that engine is opened, so it may import the engine's package as it loads.
ENGINES = {
    "bindings/onnxruntime.py": {"onnxruntime"},
    "bindings/onnxruntime_session.py": {"onnxruntime"},
    "bindings/onnxruntime_cuda.py": {"onnxruntime", "cupy"},
    "bindings/onnxruntime_tensorrt.py": {"onnxruntime", "cupy"},
    "bindings/tensorrt.py": {"tensorrt"},
    "bindings/tensorrt_builder.py": {"tensorrt"},
    "bindings/tensorrt_log.py": {"tensorrt"},
    "bindings/torch.py": {"torch"},
    "bindings/torch_graph.py": {"torch"},
}
# What the server is made of is loaded only by 'sightline serve'.
SERVER = {
    "serving/app.py": {"fastapi", "starlette"},
    "serving/bodies.py": {"pydantic", "starlette"},
    "serving/desk.py": {"pydantic", "starlette"},
    "serving/front.py": {"starlette"},
    "serving/metrics.py": {"prometheus_client"},
    "serving/openapi.py": {"pydantic"},
    "serving/schemas.py": {"pydantic"},
    "serving/server.py": {"uvicorn"},
    "serving/v1.py": {"starlette"},
    "serving/v2.py": {"starlette"},
}


def name(module: Path) -> str:
    return module.relative_to(PACKAGE).as_posix()


def room(module: Path) -> str:
    """The first part of the path: ``cli``, ``bundle``, … and "" for the package itself."""
    first = module.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def imports(module: Path) -> Iterator[tuple[str, bool]]:
    """Every imported name with its module, and whether it is imported as the module loads."""

    def visit(node: ast.AST, loading: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, loading) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(module)}: imports are absolute here"
            yield from ((f"{node.module}.{alias.name}", loading) for alias in node.names)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
            isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        )
        for child in ast.iter_child_nodes(node):
            yield from visit(child, loading and not inside)

    yield from visit(ast.parse(module.read_text(encoding="utf-8")), True)


@pytest.mark.parametrize("module", MODULES, ids=name)
def test_no_room_imports_a_later_one(module: Path) -> None:
    here = room(module)
    allowed = {*ROOMS[here], here} if here else FRONT
    for imported, _ in imports(module):
        package, *parts = imported.split(".")
        if package == "sightline":
            there = parts[0] if parts and (parts[0] in ROOMS) else ""
            assert there in allowed, f"{here or 'sightline'} imports {imported}"


@pytest.mark.parametrize("module", MODULES, ids=name)
def test_packages_load_where_they_are_used(module: Path) -> None:
    here = room(module)
    loaded = LOADED.get(here, set()) | {**ENGINES, **SERVER}.get(name(module), set())
    for imported, loading in imports(module):
        package = imported.split(".")[0]
        if package != "sightline" and package not in sys.stdlib_module_names:
            allowed = loaded if loading else loaded | LAZY.get(here, set())
            assert package in allowed, f"{imported}, {'as the module loads' if loading else 'inside a function'}"


def python(script: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_sightline_loads_numpy_and_nothing_heavier() -> None:
    script = """
import sys, importlib.util
standard = set(sys.modules) | sys.stdlib_module_names
import sightline
print(*sorted({module.split(".")[0] for module in sys.modules} - standard))
"""
    assert set(python(script).split()) <= {"sightline", "numpy"}


def test_the_help_of_the_command_line_loads_no_more() -> None:
    script = """
import sys
standard = set(sys.modules) | sys.stdlib_module_names
from sightline.cli import main
try:
    main(["explain", "--help"])
except SystemExit:
    pass
print(*sorted({module.split(".")[0] for module in sys.modules} - standard))
"""
    assert set(python(script).splitlines()[-1].split()) <= {"sightline", "numpy"}


def test_explaining_needs_neither_torch_nor_onnx() -> None:
    script = """
import sys
from importlib.abc import MetaPathFinder

class Uninstalled(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in {"torch", "onnx", "onnx_ir", "onnxscript", "torchvision", "google"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Uninstalled())
import sightline
for method in ("sise", "ada-sise"):
    explanation = sightline.Explainer(sightline.load(sys.argv[1]), method=method)(sys.argv[2])
    print(explanation.label, explanation.saliency.shape, explanation.regions())
try:
    sightline.export("model.onnx", "model.sightline")
except sightline.SightlineError as error:
    print(error)
"""
    sample = demo.samples()[0]
    said = python(script, str(demo.BUNDLE), str(sample.image)).splitlines()
    assert len(said) == 3
    assert "pip install 'sightline[export]'" in said[-1]

"""deploy/: what can be known of these files without Docker, systemd and Kubernetes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from sightline.cli.main import parser
from tests.deploy import files
from tests.deploy.files import DEPLOY, DOCKERFILES, ROOT

COMMANDS = files.commands()
HEALTH = {"/v2/health/live", "/v2/health/ready"}


def arguments(words: list[str]) -> Any:
    return parser().parse_args(words)


def test_everything_is_read() -> None:
    assert [path.name for path in DOCKERFILES] == ["cpu.Dockerfile", "cuda.Dockerfile"]
    assert len(COMMANDS) == 6, sorted(COMMANDS)
    known = {*DOCKERFILES, *map(files.ignore_file, DOCKERFILES), *files.MANIFESTS, files.UNIT, files.ENVIRONMENT}
    assert {path for path in DEPLOY.rglob("*") if path.is_file()} == known


@pytest.mark.parametrize("where", sorted(COMMANDS))
def test_the_server_knows_its_options(where: str) -> None:
    found = arguments(COMMANDS[where])
    assert found.port == 8080
    assert found.host in {"0.0.0.0", "127.0.0.1"}


def test_a_container_listens_to_the_outside_and_a_service_does_not() -> None:
    hosts = {where: arguments(words).host for where, words in COMMANDS.items()}
    assert hosts.pop(files.UNIT.name) == "127.0.0.1"
    assert set(hosts.values()) == {"0.0.0.0"}


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfiles(path: Path) -> None:
    build, final = files.stages(path)
    images = {files.only(stage, "FROM").rest.removesuffix(" AS build") for stage in (build, final)}
    assert len(images) == 1, "what is compiled against one image must run on it"
    assert re.fullmatch(r"python:3\.\d+-slim|nvidia/cuda:[\d.]+-cudnn-runtime-ubuntu24\.04", images.pop())
    # Nothing of the build but its result.
    copies = [each.rest for each in final if each.word == "COPY"]
    assert copies == ["--from=build /opt/sightline /opt/sightline"]
    user = files.only(final, "USER").rest
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user), "a number, and not root's"
    assert f"useradd --uid {user.partition(':')[0]} " in " ".join(each.rest for each in final)
    assert files.only(final, "EXPOSE").rest == "8080"
    assert files.only(final, "STOPSIGNAL").rest == "SIGTERM"
    instructions = [each for stage in (build, final) for each in stage]
    assert not {"ADD", "MAINTAINER", "VOLUME"} & {each.word for each in instructions}
    for run in (each.rest for each in instructions if "apt-get install" in each.rest):
        assert "--no-install-recommends" in run
        assert run.endswith("rm -rf /var/lib/apt/lists/*")
    assert not [
        each for each in instructions if re.search(r"https?://(?!127\.0\.0\.1)|index-url|sudo|:latest", each.rest)
    ]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_is_built_from_what_is_there(path: Path) -> None:
    build, _ = files.stages(path)
    sources = [source for each in build if each.word == "COPY" for source in each.rest.split()[:-1]]
    assert all((ROOT / source).exists() for source in sources)
    assert {"pyproject.toml", "setup.py", "README.md", "LICENSE", "sightline"} <= set(sources)
    ignored = files.ignore_file(path).read_text().splitlines()
    assert ignored.index("*") < min(ignored.index(f"!{source}") for source in sources)
    assert {line[1:] for line in ignored if line.startswith("!")} == set(sources)
    installs = [each.rest for each in build if each.rest.startswith(("pip install", "SIGHTLINE_ONNXRUNTIME="))]
    assert len(installs) == 1
    extras = re.search(r"'\.\[([\w,]+)\]'", installs[0])
    assert extras is not None
    section = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    assert {"serve", *extras[1].split(",")} <= set(re.findall(r"^(\w+) = \[", section, re.MULTILINE))
    for words in files.run_commands(path):
        assert callable(arguments(words).run)
    assert files.run_commands(path), "what is installed is tried"


@contextmanager
def answering(status: int) -> Iterator[tuple[int, list[str]]]:
    """A server that answers everything with this status; its port, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1], asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_the_health_check_of_an_image(path: Path) -> None:
    program, *rest = files.health(files.stages(path)[-1])
    assert program == "python"

    def healthy(port: int) -> bool:
        words = [word.replace(":8080", f":{port}") for word in rest]
        assert words != rest
        return subprocess.run([sys.executable, *words], capture_output=True).returncode == 0

    for status in (200, 503):
        with answering(status) as (port, asked):
            assert healthy(port) == (status == 200)
        assert asked == ["/v2/health/ready"]
    assert not healthy(port), "nobody listens there any more"


def test_the_unit_is_closed() -> None:
    service = files.unit()["Service"]
    settings = dict(service)
    assert settings["User"] == settings["Group"] == "sightline"
    assert settings["KillSignal"] == "SIGTERM"
    assert settings["CapabilityBoundingSet"] == ""
    assert settings["ProtectSystem"] == "strict"
    switches = {name for name, value in service if value == "yes"}
    assert {"NoNewPrivileges", "ProtectHome", "PrivateTmp", "PrivateDevices", "RestrictNamespaces"} <= switches
    assert {f"ProtectKernel{part}" for part in ("Logs", "Modules", "Tunables")} <= switches
    assert len(switches) >= 15
    # Each of these would stop the server from working; the unit says why.
    assert not {"MemoryDenyWriteExecute", "ProcSubset"} & set(settings)
    assert [value for name, value in service if name == "SystemCallFilter"] == ["@system-service", "~@privileged"]
    used = set(re.findall(r"\$(\w+)", settings["ExecStart"]))
    assert used < set(files.environment())
    assert "SIGHTLINE_API_KEY" in files.environment()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_reads_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / files.UNIT.name
    # It looks for the program, too.
    unit.write_text(files.UNIT.read_text().replace("/opt/sightline/bin/sightline", sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    unit.write_text(unit.read_text().replace("ProtectClock=", "ProtectClocks="))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True)
    assert "ProtectClocks" in done.stderr, "it would have said so"


def test_containers_are_closed_and_watched() -> None:
    ours = {where: container for where, container in files.containers() if "image" in container}
    assert len(ours) == 3
    built = {
        match[1] for path in DOCKERFILES for match in re.finditer(r"docker build -f \S+ -t (\S+) \.", path.read_text())
    }
    for where, container in ours.items():
        assert container["image"] in built, where
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        ports = {port.get("name"): port["containerPort"] for port in container["ports"]}
        assert set(ports.values()) == {8080}
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            if kind == "startupProbe" and kind not in container:
                continue
            probe = container[kind]["httpGet"]
            assert probe["path"] in HEALTH
            assert ("live" in probe["path"]) == (kind == "livenessProbe"), "a server that is loading must not be killed"
            assert ports.get(probe["port"], probe["port"]) == 8080
        requests = container["resources"]["requests"]
        words = next(words for place, words in COMMANDS.items() if place == where)
        assert arguments(words).threads == int(requests["cpu"]), "as many threads as cores are asked for"
        assert "memory" in container["resources"]["limits"]


def by_kind(name: str, kind: str) -> dict[str, Any]:
    (found,) = [document for path, document in files.documents() if path.name == name and document["kind"] == kind]
    return found


def test_the_deployment_hangs_together() -> None:
    deployment, service, budget = (
        by_kind("deployment.yaml", kind) for kind in ("Deployment", "Service", "PodDisruptionBudget")
    )
    template = deployment["spec"]["template"]
    labels = template["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels == service["spec"]["selector"]
    assert budget["spec"]["selector"]["matchLabels"] == labels
    pod = template["spec"]
    (container,) = pod["containers"]
    assert service["spec"]["ports"][0]["targetPort"] in [port["name"] for port in container["ports"]]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    (bundle,) = arguments(COMMANDS["deployment.yaml:Deployment/template/spec/sightline"]).bundles
    assert str(Path(bundle).parent) in mounts
    # The file system is closed, so what is written must be mounted.
    final = files.stages(DEPLOY / "cpu.Dockerfile")[-1]
    cache = re.search(r"SIGHTLINE_CACHE=(\S+)", " ".join(each.rest for each in final))
    assert cache is not None
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert {cache[1], "/tmp"} <= mounts
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert (
        f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
        == files.only(final, "USER").rest
    )


def test_kserve_finds_the_runtime_and_the_model() -> None:
    runtime, service = by_kind("kserve.yaml", "ServingRuntime"), by_kind("kserve.yaml", "InferenceService")
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["modelFormat"]["name"] in [entry["name"] for entry in runtime["spec"]["supportedModelFormats"]]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    (container,) = runtime["spec"]["containers"]
    assert container["name"] == "kserve-container"
    (bundle,) = arguments(COMMANDS["kserve.yaml:ServingRuntime/kserve-container"]).bundles
    # A model is named after its bundle; KServe asks for it by the name of the InferenceService.
    assert Path(str(bundle).replace("{{.Name}}", service["metadata"]["name"])) == Path("/mnt/models/steel.sightline")


def test_kserve_sends_explain_to_the_explainer() -> None:
    service = by_kind("kserve-explainer.yaml", "InferenceService")
    (container,) = service["spec"]["explainer"]["containers"]
    assert container["name"] == "kserve-container"
    assert {"name": "STORAGE_URI", "value": "pvc://bundles"} in container["env"]
    (bundle,) = arguments(COMMANDS["kserve-explainer.yaml:InferenceService/explainer/kserve-container"]).bundles
    assert Path(bundle) == Path(f"/mnt/models/{service['metadata']['name']}.sightline")
    # KServe appends arguments of its own servers. They must reach a shell that ignores them, not the command line.
    appended = ["--model_name", "steel", "--predictor_host", "steel-predictor.default", "--http_port", "8080"]
    assert "args" not in container
    command = [word.replace("exec sightline serve", "echo sightline serve") for word in container["command"]]
    assert command != container["command"]
    said = subprocess.run([*command, *appended], capture_output=True, text=True, check=True).stdout.split()
    assert said == ["sightline", *COMMANDS["kserve-explainer.yaml:InferenceService/explainer/kserve-container"]]

# sightline serve on a CPU, with ONNX Runtime and OpenVINO. docs/deployment.md says how it is built and run.
#
#   docker build -f deploy/cpu.Dockerfile -t sightline:cpu .
#   docker run --rm -p 8080:8080 -v /srv/bundles:/bundles:ro sightline:cpu

FROM python:3.12-slim AS build

RUN python -m venv /opt/sightline
ENV PATH=/opt/sightline/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /source
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE ./
COPY sightline sightline
RUN pip install '.[serve,openvino]'
# What is installed is tried before it goes into an image: one explanation, of the packaged network.
RUN sightline demo -o /tmp/demo

FROM python:3.12-slim

RUN groupadd --gid 10001 sightline \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin sightline \
    && install -d -o 10001 -g 10001 /var/cache/sightline /bundles
COPY --from=build /opt/sightline /opt/sightline

ENV PATH=/opt/sightline/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SIGHTLINE_CACHE=/var/cache/sightline
# As numbers: Kubernetes cannot tell whether a name is root (runAsNonRoot).
USER 10001:10001
WORKDIR /bundles
EXPOSE 8080
STOPSIGNAL SIGTERM

# Opening engines and measuring the batch size takes a while, on the first start more than later.
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8080/v2/health/ready', timeout=4)"]

# The shell makes way (exec), so that SIGTERM reaches the server. Every bundle of the folder is served; to have them in
# the image, derive from it: COPY steel.sightline /bundles/steel.sightline
CMD ["sh", "-c", "exec sightline serve /bundles/*.sightline --host 0.0.0.0 --port 8080"]

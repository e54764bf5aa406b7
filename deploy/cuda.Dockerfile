# sightline serve on an NVIDIA GPU, with ONNX Runtime's CUDA provider and CuPy. docs/deployment.md says how it is built and
# run, and that it was not built yet.
#
#   docker build -f deploy/cuda.Dockerfile -t sightline:cuda .
#   docker run --rm --gpus all -p 8080:8080 -v /srv/bundles:/bundles:ro sightline:cuda

# CUDA 13 and cuDNN 9 are what the wheels of onnxruntime-gpu and cupy-cuda13x are built for.
FROM nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04 AS build

RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/sightline
ENV PATH=/opt/sightline/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /source
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE ./
COPY sightline sightline
# onnxruntime and onnxruntime-gpu are one package under two names: the variable takes the latter instead of the former.
RUN SIGHTLINE_ONNXRUNTIME=onnxruntime-gpu pip install '.[serve,gpu]'
# There is no GPU while an image is built: what is installed is tried on the CPU, which the same package also runs on.
RUN sightline demo --engine onnxruntime-cpu -o /tmp/demo

FROM nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04

# CuPy compiles kernels of its own with NVRTC, which is in the image, against headers, which are not.
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 cuda-cudart-dev-13-0 \
    && rm -rf /var/lib/apt/lists/*
RUN groupadd --gid 10001 sightline \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin sightline \
    && install -d -o 10001 -g 10001 /var/cache/sightline /bundles
COPY --from=build /opt/sightline /opt/sightline

ENV PATH=/opt/sightline/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    CUDA_PATH=/usr/local/cuda \
    CUPY_CACHE_DIR=/var/cache/sightline/cupy \
    SIGHTLINE_CACHE=/var/cache/sightline
# As numbers: Kubernetes cannot tell whether a name is root (runAsNonRoot).
USER 10001:10001
WORKDIR /bundles
EXPOSE 8080
STOPSIGNAL SIGTERM

HEALTHCHECK --interval=15s --timeout=5s --start-period=180s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8080/v2/health/ready', timeout=4)"]

# The engine is named: with 'auto' a container that was started without a GPU would serve on its CPU.
CMD ["sh", "-c", "exec sightline serve /bundles/*.sightline --host 0.0.0.0 --port 8080 --engine onnxruntime-cuda"]

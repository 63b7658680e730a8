# syntax=docker/dockerfile:1
# The server in a container.
#   docker build -t avatar .                           CPU
#   docker build -t avatar:cuda --build-arg DEVICE=cuda .   CUDA; run with --gpus all
# Both use one base, because every node of a Ray cluster must run the same Python: torch's CUDA wheels bring
# the CUDA libraries with them, and the NVIDIA container runtime brings the driver.

ARG DEVICE=cpu

FROM python:3.11-slim AS base-cpu
# An index with CPU-only wheels of torch makes this image several GB smaller; without one the general wheel
# is installed, which runs on a CPU too.
ARG TORCH_INDEX_URL=""
ENV PIP_EXTRA_INDEX_URL=${TORCH_INDEX_URL} \
    EXTRAS=realtime,livekit,daily,tracing

FROM python:3.11-slim AS base-cuda
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    EXTRAS=realtime,livekit,daily,tracing,neural

FROM base-${DEVICE} AS runtime

# rsync and ssh: `ray up` copies files with them and starts further nodes. wget: KubeRay's probes call it.
RUN apt-get update \
    && apt-get upgrade --yes \
    && apt-get install -y --no-install-recommends openssh-client rsync wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 avatar

# With RAY_AUTH_MODE named, every node and command of a cluster uses ~/.ray/auth_token; left out, only heads do.
ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    RAY_AUTH_MODE=token \
    RAY_USAGE_STATS_ENABLED=0

WORKDIR /app

# Dependencies first: they change less often than the code.
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir serve_app \
    && touch serve_app/__init__.py \
    && pip install --constraint constraints.txt --editable ".[$EXTRAS]"

COPY serve_app ./serve_app
COPY configs ./configs
# Imports are slow where bytecode cannot be kept, and the root file system may be read-only.
RUN python -m compileall -q serve_app

# What the server writes to; everything else may be read-only. A new volume takes its owner from here.
RUN install --directory --owner=avatar --group=avatar \
    output_videos temp_audio /tmp/ray /home/avatar/.ray /home/avatar/.serve-app
USER avatar
VOLUME ["/app/output_videos", "/app/temp_audio"]

EXPOSE 8765
EXPOSE 50000-50063/udp

HEALTHCHECK --interval=10s --timeout=5s --start-period=90s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8765/healthz', timeout=4)"]

CMD ["serve", "run", "--address", "local", "configs/compose.yaml"]

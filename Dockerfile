# The command rdeic-rt with its embedded bundles; docs/container.md shows how it is used.
#
#   docker build -t rdeic-rt .                       on the CPU
#   docker build -t rdeic-rt:gpu --target gpu .      on an NVIDIA GPU, by the backend cuda
ARG PYTHON=3.13-slim-bookworm

FROM python:${PYTHON} AS wheel
WORKDIR /source
RUN pip install --no-cache-dir build==1.6.1 hatchling==1.33.0 shtab==1.13.0
COPY pyproject.toml README.md LICENSE ./
COPY runtime runtime
COPY engines engines
RUN python -m build --wheel --no-isolation --outdir /wheel

# What both have in common: a user without rights, whose folder /data is where images are mounted.
FROM python:${PYTHON} AS base
RUN useradd --create-home --uid 1000 rdeic && mkdir /data && chown rdeic /data
WORKDIR /data
ENTRYPOINT ["rdeic-rt"]
CMD ["--help"]

# CUDA and cuDNN come as wheels, the driver from the host. onnxruntime and onnxruntime-gpu install the same module: the second
# has to be put on top.
FROM base AS gpu
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip install --no-cache-dir "$(echo /wheel/*.whl)[cuda]" \
    && version="$(pip show onnxruntime-gpu | sed -n 's/^Version: //p')" \
    && pip install --no-cache-dir --force-reinstall --no-deps "onnxruntime-gpu==$version"
USER 1000

FROM base AS cpu
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip install --no-cache-dir /wheel/*.whl
USER 1000

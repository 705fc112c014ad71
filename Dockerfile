# The whole service in one container: proxy, ingress replicas and tokenizer replicas on a Ray cluster of its own.
#
#   docker build -t omnitok:cpu .
#   docker build -t omnitok:cuda --build-arg TORCH=cuda .
#   docker run --rm --init --shm-size 1g -p 127.0.0.1:8000:8000 omnitok:cpu
FROM python:3.11-slim-bookworm AS build

# cpu: wheels without CUDA; cuda: PyPI's own Linux wheels, which bring CUDA along (several gigabytes).
ARG TORCH=cpu
# Where the CPU wheels are. Empty: wherever pip's own configuration finds them.
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/venv/bin:$PATH
RUN python3 -m venv /opt/venv
WORKDIR /src

# Torch has a layer of its own: it is the largest, changes least, and nothing else may come from its index.
COPY constraints.txt ./
RUN case "$TORCH" in \
      cpu) set -- ${TORCH_CPU_INDEX:+--extra-index-url "$TORCH_CPU_INDEX"} ;; \
      cuda) set -- ;; \
      *) echo "TORCH is cpu or cuda, not '$TORCH'" >&2; exit 1 ;; \
    esac && pip install -c constraints.txt "$@" torch

# The dependencies come before the source, so that a change of the source does not fetch them again.
COPY pyproject.toml ./
RUN touch README.md && pip install -c constraints.txt .
COPY README.md LICENSE ./
COPY kernels kernels
COPY media media
COPY model model
COPY service service
RUN pip install --no-deps --force-reinstall .


FROM python:3.11-slim-bookworm

# Triton compiles a launcher in C for each kernel, and keeps what it has made where libraries may be loaded from.
ARG TORCH=cpu
RUN if [ "$TORCH" = cuda ]; then \
      apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*; \
    fi
RUN useradd --uid 10001 --user-group --create-home --shell /usr/sbin/nologin omnitok \
    && install -d -o omnitok -g omnitok /var/cache/omnitok /var/lib/omnitok
COPY --from=build /opt/venv /opt/venv
WORKDIR /app
COPY bundles bundles

# `omnitok serve` sets what Ray must know (service/cluster/ray_environment.py); a variable given here would win.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TRITON_CACHE_DIR=/var/cache/omnitok/triton \
    OMNITOK_HOST=0.0.0.0 \
    OMNITOK_PORT=8000 \
    OMNITOK_METRICS_PORT=8080 \
    OMNITOK_RAY_METRICS_PORT=8090 \
    RAY_USAGE_STATS_ENABLED=0

USER 10001:10001
# The metrics port and Ray's own ports are for the private network only.
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 CMD ["python3", "-c", \
    "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open(f'http://127.0.0.1:{os.environ[\"OMNITOK_PORT\"]}/health/ready', timeout=4)"]
ENTRYPOINT ["omnitok"]
CMD ["serve"]

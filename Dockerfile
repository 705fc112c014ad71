# The whole service in one container: proxy, ingress replicas and tokenizer replicas on a Ray cluster of its own.
#
#   docker build -t omnitok:cpu .
#   docker build -t omnitok:cuda --build-arg TORCH=cuda .
#   docker run --rm --init --shm-size 1g -p 127.0.0.1:8000:8000 -e OMNITOK_OPEN_ACCESS=true omnitok:cpu
#
# It listens on all addresses of the container: with a public port give it OMNITOK_KEYS in place of open access.
# By tag here, since no registry answered where this was written. By digest: docs/how-to/build-the-image.md
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
FROM ${PYTHON_IMAGE} AS build

# cpu: wheels without CUDA; cuda: PyPI's own Linux wheels, which bring CUDA along (several gigabytes).
ARG TORCH=cpu
# Where the CPU wheels are. Empty: wherever pip's own configuration finds them.
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# Two environments: only the second enters the image, and it has no pip.
RUN python3 -m venv /opt/tools && python3 -m venv --without-pip /opt/venv
WORKDIR /src

COPY deploy/locks locks
RUN /opt/tools/bin/pip install --require-hashes -r locks/tools.txt

# The dependencies come before the source, so that a change of the source does not fetch them again.
RUN case "$TORCH" in \
      cpu) set -- ${TORCH_CPU_INDEX:+--extra-index-url "$TORCH_CPU_INDEX"} ;; \
      cuda) set -- ;; \
      *) echo "TORCH is cpu or cuda, not '$TORCH'" >&2; exit 1 ;; \
    esac && /opt/tools/bin/pip --python /opt/venv/bin/python install --no-compile --no-deps --require-hashes \
      "$@" -r "locks/$TORCH.txt" \
    && /opt/tools/bin/pip --python /opt/venv/bin/python check

# no: without HAProxy, libx264 and libx265, which are under the GPL; NOTICE says what is then missing.
ARG GPL=yes
COPY deploy/drop-gpl.sh deploy/trim.sh ./
RUN case "$GPL" in \
      yes) ;; \
      no) apt-get update && apt-get install -y --no-install-recommends 'gcc=4:12.*' 'libc6-dev=2.36-*' \
        && rm -rf /var/lib/apt/lists/* && sh drop-gpl.sh /opt/venv ;; \
      *) echo "GPL is yes or no, not '$GPL'" >&2; exit 1 ;; \
    esac

COPY pyproject.toml README.md LICENSE NOTICE ./
COPY kernels kernels
COPY media media
COPY model model
COPY service service
RUN /opt/tools/bin/pip --python /opt/venv/bin/python install --no-compile --no-deps --no-index \
      --no-build-isolation . \
    && /opt/tools/bin/cyclonedx-py environment --pyproject pyproject.toml -o /opt/venv/sbom.cdx.json /opt/venv/bin/python

# Tests, headers and parts of Ray and torch that nothing here loads, and byte code for what a start does load.
RUN sh trim.sh /opt/venv


FROM ${PYTHON_IMAGE}

# Triton compiles a launcher in C for each kernel, and keeps what it has made where libraries may be loaded from.
ARG TORCH=cpu
RUN if [ "$TORCH" = cuda ]; then \
      apt-get update && apt-get install -y --no-install-recommends 'gcc=4:12.*' 'libc6-dev=2.36-*' \
      && rm -rf /var/lib/apt/lists/*; \
    fi
RUN useradd --uid 10001 --user-group --create-home --shell /usr/sbin/nologin omnitok \
    && install -d -o omnitok -g omnitok /var/cache/omnitok /var/lib/omnitok
COPY --from=build /opt/venv /opt/venv
# KubeRay starts Ray in a login shell, which has a PATH of its own.
RUN ln -s /opt/venv/bin/ray /opt/venv/bin/serve /usr/local/bin/
WORKDIR /app
COPY bundles bundles
COPY LICENSE NOTICE ./

# `omnitok serve` sets what Ray must know (service/cluster/ray_environment.py); a variable given here would win.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    OMP_WAIT_POLICY=PASSIVE \
    TRITON_CACHE_DIR=/var/cache/omnitok/triton \
    OMNITOK_HOST=0.0.0.0 \
    OMNITOK_PORT=8000 \
    OMNITOK_METRICS_PORT=8080 \
    OMNITOK_RAY_METRICS_PORT=8090 \
    RAY_USAGE_STATS_ENABLED=0

USER 10001:10001
# Kernels of the usual sizes, compiled without a GPU, so that the first start on one of these does not wait for them.
ARG GPUS="h100 h200"
RUN if [ "$TORCH" = cuda ]; then \
      for gpu in $GPUS; do /opt/venv/bin/python3 -m service.cluster.compile_ahead "$gpu" || exit 1; done; \
    fi
# The metrics port and Ray's own ports are for the private network only.
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 CMD ["python3", "-c", \
    "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open(f'http://127.0.0.1:{os.environ[\"OMNITOK_PORT\"]}/health/ready', timeout=4)"]
ENTRYPOINT ["omnitok"]
CMD ["serve"]

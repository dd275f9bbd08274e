"""The typed configuration: `args` of the application and `user_config` of its deployments.

`args` are read once by `graph.build` and passed down in parts; a change of them needs new replicas.
`user_config` reaches running replicas. Unknown keys are refused in both. Units stand in the names:
`_s` seconds, `_bytes`, `_chars` Unicode characters, `_tokens` model tokens.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_interface, ip_network
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    field_validator,
    model_validator,
)

DEFAULT_MODEL = "cross-encoder/nli-MiniLM2-L6-H768"
DEFAULT_REVISION = "b95119ce93d3e065de6214e38cd4a97b0f2f2c6d"  # the Hub's head at the time of writing
EMBEDDED = "embedded"  # the bi-encoder that comes as a Python wheel
PRECISIONS = {"torch": ("fp32", "bf16", "fp16"), "onnx": ("fp32",), "openvino": ("fp32", "bf16", "int8")}


def _checked_network(value: object) -> object:
    text = str(value) if isinstance(value, str | IPv4Network | IPv6Network) else ""  # a number would be an address
    try:
        network = ip_network("" if "%" in text else text, strict=False)
    except ValueError:
        raise ValueError(f"{value!r} is no network; expected an address or a network, such as 10.0.0.0/8") from None
    if ip_interface(text).ip != network.network_address:
        raise ValueError(f"{value!r} is an address inside a network; write {network}, or the address alone")
    if network.prefixlen == 0:
        raise ValueError(f"{value!r} would trust everybody, so anyone could pretend to be anyone; name your proxies")
    return value


class Args(BaseModel):
    """Frozen, strict about unknown keys, each field documented where it stands."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ModelArgs(Args):
    """Which model answers, and how it is computed: one decision for all replicas."""

    name: str = DEFAULT_MODEL
    """A Hub id, an absolute folder, or `embedded`."""

    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    """The commit of a Hub id, all 40 digits, by default that of the default `name`; a folder has none."""

    fallback: Literal["embedded"] | None = None
    """What answers when the weights are not on this machine; null refuses to start instead."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA when the Classifier has a `num_gpus`, else the CPU."""

    engine: Literal["auto", "torch", "onnx", "openvino"] = "auto"
    """Of the NLI model. auto: torch; with `device: cpu` openvino, else onnx, where it is able to; int8: openvino."""

    precision: Literal["fp32", "bf16", "fp16", "int8"] = "fp32"
    """Of the NLI engine: bf16, fp16 (GPU only), int8 are faster and move scores (`nli-serve tune`). Embedded: fp32."""

    threads: PositiveInt | None = None
    """CPU threads of one replica's engine; null: every core of the machine."""

    @property
    def is_folder(self) -> bool:
        return self.name.startswith("/")

    @model_validator(mode="before")
    @classmethod
    def _pin_the_default(cls, data: object) -> object:
        if isinstance(data, dict) and data.get("name", DEFAULT_MODEL) == DEFAULT_MODEL:
            return {"revision": DEFAULT_REVISION, **data}
        return data

    @model_validator(mode="after")
    def _check_name(self) -> ModelArgs:
        pinned = self.revision is not None
        if self.is_folder or self.name == EMBEDDED:
            if pinned:
                raise ValueError(f"model.revision belongs to a Hub id, but model.name is {self.name!r}; remove it")
        elif self.name.startswith((".", "~")) or self.name.count("/") != 1:
            raise ValueError(
                f"model.name is {self.name!r}; allowed: an absolute folder, a Hub id (owner/name), or {EMBEDDED!r}"
            )
        elif not pinned:
            raise ValueError(f"model.name {self.name!r} is a Hub id: pin it, model.revision: <40-digit commit>")
        return self

    @model_validator(mode="after")
    def _check_engine(self) -> ModelArgs:
        its_own = [one for one in PRECISIONS.get(self.engine, ()) if (one, self.device) != ("fp16", "cpu")]
        able = [engine for engine, precisions in PRECISIONS.items() if self.precision in precisions]
        on_cpu_only = self.engine in ("onnx", "openvino") or "torch" not in able
        if self.engine != "auto" and self.name == EMBEDDED:
            raise ValueError(f"model.engine is {self.engine!r}, but {EMBEDDED!r} has an engine of its own; remove it")
        if self.engine not in ("auto", *able):
            raise ValueError(
                f"model.engine {self.engine!r} does not compute in {self.precision}; set model.engine to "
                f"{' or '.join(able)}, or model.precision to {' or '.join(its_own)}"
            )
        if self.device == "cuda" and on_cpu_only:
            raise ValueError(
                f"model.engine {self.engine!r} in {self.precision} computes on the CPU only, but model.device is cuda; "
                "set model.device: cpu, or model.engine: torch with fp32, bf16 or fp16"
            )
        if self.device == "cpu" and self.precision == "fp16":
            raise ValueError(
                "model.precision fp16 is computed on a GPU only, but model.device is cpu; set model.precision: fp32 or "
                "bf16, or model.device: auto and num_gpus of the Classifier"
            )
        return self


class CapsArgs(Args):
    """The largest single request, and how many at a time."""

    max_body_bytes: PositiveInt = 1_048_576
    """Of the JSON body; for handle callers, of all texts and hypotheses as UTF-8."""

    max_texts: PositiveInt = 256
    """Texts in one request."""

    max_text_chars: PositiveInt = 100_000
    """Of one text."""

    max_labels: PositiveInt = 256
    """Labels in one request."""

    max_label_chars: PositiveInt = 256
    """Of one label."""

    max_pairs: PositiveInt = 4_096
    """Texts times labels."""

    max_in_flight: PositiveInt = 1_024
    """Requests at a time in one Ingress replica; beyond it 503. Must be below its `max_ongoing_requests`."""


class DeadlineArgs(Args):
    """How long a request may take before it is answered with 504."""

    default_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 30.0
    """For a request that names none."""

    max_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 120.0
    """The longest that a request may ask for."""

    @model_validator(mode="after")
    def _check_order(self) -> DeadlineArgs:
        if self.default_s > self.max_s:
            raise ValueError(f"deadline.default_s {self.default_s:g} exceeds deadline.max_s {self.max_s:g}")
        return self


class AppArgs(Args):
    """`applications[0].args` of serve_config.yaml."""

    auth: Literal["required", "off"] = "required"
    """required: who calls must have an API key; off: only callers on this machine are let in."""

    keys_file: str | None = None
    """Absolute path of the key file, which `nli-serve keys` writes; needed while `auth` is required."""

    model: ModelArgs = ModelArgs()
    """Which model answers."""

    caps: CapsArgs = CapsArgs()
    """The largest single request."""

    deadline: DeadlineArgs = DeadlineArgs()
    """How long a request may take."""

    allowed_hosts: list[str] = []
    """Values of the Host header beside loopback names, without port (guards against DNS rebinding)."""

    trusted_proxies: list[Annotated[IPv4Network | IPv6Network, BeforeValidator(_checked_network)]] = []
    """Networks of the proxies whose `X-Forwarded-For` is believed, such as `10.0.0.0/8`; nobody else's is."""

    @field_validator("keys_file")
    @classmethod
    def _check_keys_file(cls, path: str | None) -> str | None:
        if path is not None and not path.startswith("/"):
            raise ValueError(
                f"args.keys_file is {path!r}; it must be absolute, as replicas run in folders of their own"
            )
        return path

    @model_validator(mode="after")
    def _check_auth(self) -> AppArgs:
        if self.auth == "required" and self.keys_file is None:
            raise ValueError(
                "args.auth is required (the default), but args.keys_file names no key file; make one with"
                " `nli-serve keys create` and set args.keys_file to its absolute path"
            )
        return self


class ClassifierConfig(Args):
    """`user_config` of the Classifier: changes without a restart."""

    max_batch_tokens: PositiveInt = 1_024
    """Padded tokens in the engine at a time; it may round up. CPU: no gain beyond 1,024; a GPU wants 16,384 or more."""

    max_batch_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 60.0
    """A run of the engine that takes longer makes the replica unhealthy; Serve then replaces it."""

    max_queued_tokens: PositiveInt = 4_194_304
    """Tokens of all pairs that wait in one replica; beyond it 503."""

    max_cache_bytes: NonNegativeInt = 67_108_864
    """Memory for the results of pairs scored before, 400 bytes each; 0: none."""

    share_cache: bool = False
    """Whether tenants share what was scored, and so can tell by the time what another has sent; a tenant is a peer."""

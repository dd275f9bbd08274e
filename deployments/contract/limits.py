"""How much each caller may ask for: `user_config` of the Ingress, so it changes without a restart."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, PositiveInt, StringConstraints, model_validator

from .args import Args, CapsArgs
from .keys import NAME

Count = Annotated[int, Field(gt=0, le=10**12)]  # a header field takes 15 digits, RFC 9651
TierName = Annotated[str, StringConstraints(pattern=f"^{NAME}$")]


class RateArgs(Args):
    """A token bucket."""

    limit: Count
    """Units in `window_s` seconds."""

    window_s: Count = 1
    """Whole seconds."""

    burst: Count
    """Units at once, after a pause."""


class RatesArgs(Args):
    """Both units; null: not limited."""

    requests: RateArgs | None = None
    """As at `caller`; null: not limited."""

    pairs: RateArgs | None = None
    """As at `caller`; null: not limited."""


class CallerArgs(Args):
    """For each API key, or each address while `auth` is off."""

    requests: RateArgs | None = RateArgs(limit=20, burst=100)
    """Each request is one, refused by validation or not; null: not limited."""

    pairs: RateArgs | None = RateArgs(limit=2_000, burst=8_192)
    """Texts times labels of a valid request, known before or not; null: not limited."""

    max_concurrent: PositiveInt = 64
    """Requests at a time in one Ingress replica; beyond it 429."""


class IngressConfig(Args):
    """The limits of the service."""

    caller: CallerArgs = CallerArgs()
    """For whoever has no tier."""

    service: RatesArgs = RatesArgs()
    """For all callers together."""

    tiers: dict[TierName, CallerArgs] = Field(default_factory=dict, max_length=100)
    """By the name that an API key has as its `tier`; what a tier leaves out is as at `caller`."""

    @model_validator(mode="after")
    def _fill_up_tiers(self) -> Self:
        for name, tier in self.tiers.items():
            said = {field: getattr(tier, field) for field in tier.model_fields_set}
            self.tiers[name] = self.caller.model_copy(update=said)
        return self

    def too_small(self, caps: CapsArgs) -> tuple[str, str] | None:
        """The field whose burst cannot hold the largest request that the caps allow, and what to do; None: all can.

        A tier may be smaller on purpose: its callers get a 413 that says so.
        """
        for level in ("caller", "service"):
            pairs: RateArgs | None = getattr(self, level).pairs
            if pairs is not None and pairs.burst < caps.max_pairs:
                return (
                    f"{level}.pairs.burst",
                    f"{pairs.burst}, but args.caps.max_pairs lets a request of {caps.max_pairs} pairs in, which could"
                    " never pass; raise the burst, or lower the cap",
                )
        return None

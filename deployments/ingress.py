"""The front door: HTTP and handle callers enter here, by the same validation, into the same answers."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextvars import Context
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from deployments.contract.args import AppArgs
from deployments.contract.decode import deadline_s as decode_deadline
from deployments.contract.decode import decode, label_pointer
from deployments.contract.errors import (
    DeadlineExceeded,
    EngineFailed,
    FieldError,
    HypothesisTooLong,
    InvalidRequest,
    ModelNotFound,
    QuotaExceeded,
    RepeatedAuthorization,
    ServiceError,
    Unauthorized,
    Unavailable,
)
from deployments.contract.limits import IngressConfig
from deployments.contract.model import ServedModel
from deployments.contract.wire import Ask, ClassifyRequest, ClassifyResponse, QuotaState, Telling, Terms, Told
from deployments.core.lease import Message, Reply
from deployments.core.quota import Quota
from deployments.core.work import Outcome, Work
from deployments.core.zeroshot import hypotheses
from deployments.runtime.bundle import Bundles
from deployments.runtime.door import Caller, Door
from deployments.runtime.garbage import collect_rarely
from deployments.runtime.joiner import Joiner
from deployments.runtime.keyfile import KeyFileWatch
from deployments.runtime.limiter import Admission, Basis, Limiter, Refusal
from deployments.web.answers import Answer, encode
from deployments.web.app import Read, create_app
from deployments.web.ratelimit import fields
from deployments.web.visitor import Visitor

PROBE_TIMEOUT_S = 2.0  # a readiness probe that takes longer is as good as a no
PROBE_EVERY_S = 1.0
HANDLE = "handle"  # who comes by a handle and without a key

OpenLedger = Callable[..., ActorHandle[Any]]
"""From the application's name, and whether its ledger has died, to the ledger."""

_log = logging.getLogger("ray.serve")


@serve.deployment
@serve.ingress()  # the app is built on the replica, by __serve_build_asgi_app__
class Ingress:
    """Identifies, decodes, prices, admits, calls the classifier, encodes."""

    def __init__(
        self, classifier: DeploymentHandle[Any], args: AppArgs, model: ServedModel, open_ledger: OpenLedger
    ) -> None:
        self._args = args
        self._model = model
        self._in_flight = 0
        self._bundles = Bundles()
        self._probed: asyncio.Task[None] | None = None
        self._probed_at = 0.0
        self._classifier = classifier
        self._joiner = Joiner(_cheapest(classifier).score.remote, self._forget, dead=RayActorError)
        self._open_ledger = partial(open_ledger, serve.get_replica_context().app_name)
        self._ledger: ActorHandle[Any] | None = None
        replica = ray.get_runtime_context().get_actor_name()
        assert replica, "Serve names its replicas, and the ledger takes one whose name is not known for dead"
        self._limiter = Limiter(replica, self._ask_ledger)
        self._limiter.configure(IngressConfig(), told_at=time.time_ns())  # without a user_config nothing else is told
        keys = KeyFileWatch(Path(args.keys_file)) if args.auth == "required" and args.keys_file else None
        self._door = Door(keys)
        self._watch = asyncio.get_running_loop().create_task(keys.watch()) if keys else None
        collect_rarely()
        if model.fallback:
            _log.warning("%s is not on this machine: %s answers for it", args.model.name, model.name)

    async def reconfigure(self, user_config: dict[str, Any]) -> None:  # async: Serve runs others in a thread
        """Take changed limits without a restart; nonsense is refused by the name of its field."""
        config = IngressConfig.model_validate(user_config)
        if wrong := config.too_small(self._args.caps):
            raise ValueError(f"user_config.{wrong[0]} is {wrong[1]}")
        self._limiter.configure(config, told_at=time.time_ns())
        self._limiter.greet()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return create_app(self._args, self._model, classify=self._answer, probe=self._probe)

    async def classify(
        self, request: object, deadline_s: float | None = None, api_key: str | None = None
    ) -> ClassifyResponse:
        """For handle callers: `serve.get_app_handle("nli").classify.remote({"text": ..., "labels": ...})`.

        Args:
            request: what the JSON body of `POST /v1/classify` holds.
            deadline_s: seconds until `DeadlineExceeded`; the default is `args.deadline.default_s`.
            api_key: `nli_...`, where `auth` is required.

        Raises:
            ServiceError: the classes of deployments/contract/errors.py.
        """

        return (await self._answer_handle(request, deadline_s, api_key)).body

    async def classify_each(self, asks: list[Ask], api_key: str | None = None) -> AsyncIterator[list[Told]]:
        """For clients/handle.py: requests that travel together, each priced, admitted, answered and failed by itself.

        Yields:
            What became of them, as soon as it is known of any.
        """

        async def answer(ask: Ask) -> Telling:
            found = await self._answer_handle(ask["request"], ask["deadline_s"], api_key)
            return {"answer": found.body, "timings": found.timings, "quotas": [_state(q) for q in found.quotas]}

        async for told in self._bundles.tell(asks, answer):
            yield told

    async def forget(self, ids: list[str]) -> None:
        """Nobody waits for these requests of joined calls any more."""
        self._bundles.forget(ids)

    async def terms(self, api_key: str | None = None) -> Terms:
        """What this caller is granted, for a client that paces itself.

        Raises:
            Unauthorized: no valid key where one is needed.
        """
        caller = await self._identify(_by_handle(api_key))
        return {
            "max_concurrent": self._limiter.max_concurrent(caller.tier),
            "max_deadline_s": self._args.deadline.max_s,
            "quotas": [_state(quota) for quota in self._limiter.full(caller.tier)],
        }

    async def decisions(self) -> dict[Basis, int]:
        """How many decisions on limits this replica has made so far, by what made them: lease, ledger, alone."""
        return dict(self._limiter.decisions)

    async def _answer_handle(self, request: object, deadline_s: float | None, api_key: str | None) -> Answer:
        async def read() -> tuple[object, float]:
            return request, decode_deadline(deadline_s, self._args.deadline)

        return await self._answer(_by_handle(api_key), read)

    async def _answer(self, visitor: Visitor, read: Read) -> Answer:
        if self._in_flight >= self._args.caps.max_in_flight:
            raise Unavailable(f"{self._in_flight:,} requests are in flight already; try again later", retry_after_s=1)
        self._in_flight += 1
        try:
            caller = await self._identify(visitor)
            with self._door.inside(caller, self._limiter.max_concurrent(caller.tier)):
                return await self._classify(visitor, caller, read)
        finally:
            self._in_flight -= 1

    async def _identify(self, visitor: Visitor) -> Caller:
        """Whoever fails to say who they are pays as one without a key."""
        try:
            return self._door.identify(visitor.credentials, visitor.address)
        except (Unauthorized, RepeatedAuthorization):
            stranger = Caller(visitor.address, visitor.address)
            with self._door.inside(stranger, self._limiter.max_concurrent(None)):
                await self._pay(stranger, n_pairs=0, service=False)
            raise

    async def _classify(self, visitor: Visitor, caller: Caller, read: Read) -> Answer:
        try:
            payload, seconds = await read()
            request = decode(payload, self._args.caps)
            self._check_model(request.model)
        except (ServiceError, ClientDisconnect):
            await self._pay(caller, n_pairs=0)
            raise
        asked = time.monotonic()
        try:
            async with asyncio.timeout(seconds):
                paid = await self._pay(caller, len(request.texts) * len(request.labels))
        except TimeoutError:
            raise DeadlineExceeded from None
        try:
            outcome = await self._score(self._work(request, caller, seconds - (time.monotonic() - asked)))
            return encode(request, outcome, self._model, visitor.request_id, paid.quotas)
        except HypothesisTooLong as error:
            self._limiter.refund(paid, requests=False)  # a wrong request, after all
            raise _blame_label(request, error) from None
        except (Unavailable, EngineFailed):
            self._limiter.refund(paid)
            raise

    async def _pay(self, caller: Caller, n_pairs: int, *, service: bool = True) -> Admission:
        paid = await self._limiter.admit(caller.subject, caller.tier, n_pairs, service=service)
        if isinstance(paid, Refusal):
            raise QuotaExceeded(paid.violated, paid.retry_after_s, fields(paid.quotas))
        return paid

    def _work(self, request: ClassifyRequest, caller: Caller, seconds: float) -> Work:
        template = request.template or self._model.template
        return {
            "texts": request.texts,
            "hypotheses": request.own_hypotheses or hypotheses(request.label_names, template),
            "tenant": caller.tenant,
            "deadline_s": seconds,
        }

    async def _ask_ledger(self, message: Message) -> Reply:
        if self._ledger is None:
            self._ledger = self._open_ledger()
        try:
            reply: Reply = await self._ledger.check.remote(message)
        except ActorDiedError:  # for good, unlike when it is restarted
            self._ledger = self._open_ledger(restarted=True)
            raise
        return reply

    async def _forget(self, ids: list[str]) -> None:
        await self._classifier.broadcast("forget", ids).results_async(timeout_s=PROBE_TIMEOUT_S)

    async def _probe(self) -> None:
        """One for all who ask within `PROBE_EVERY_S`: anybody may ask, and the engine's time is not theirs."""
        if self._probed is None or time.monotonic() - self._probed_at > PROBE_EVERY_S:
            self._probed_at = time.monotonic()
            self._probed = asyncio.get_running_loop().create_task(self._reach_the_model(), context=Context())
        await asyncio.shield(self._probed)

    async def _reach_the_model(self) -> None:
        """A text of its own each time, that no cache knows."""
        text = f"ready? {uuid.uuid4()}"
        await self._score({"texts": [text], "hypotheses": ["yes"], "tenant": "probe", "deadline_s": PROBE_TIMEOUT_S})

    async def _score(self, work: Work) -> Outcome:
        """The classifier's outcome, or a `ServiceError`."""
        try:
            async with asyncio.timeout(work["deadline_s"]):
                return await self._joiner.ask(work)
        except TimeoutError:
            raise DeadlineExceeded from None
        except (BackPressureError, DeploymentUnavailableError, RayActorError) as error:
            raise Unavailable("no replica of the model can take this request now; try again") from error

    def _check_model(self, wanted: str | None) -> None:
        if wanted is not None and wanted != self._model.name:
            raise ModelNotFound(f"this service answers with {self._model.name}; ask for that, or leave out `model`")


def _cheapest(handle: DeploymentHandle[Any]) -> DeploymentHandle[Any]:
    """Where calls go by value, pickled plainly: cloudpickle, the default, is for code, and takes twice as long.

    msgpack and orjson would be faster still, but cannot carry what Serve raises in place of a reply.
    """
    return handle.options(request_serialization="pickle", response_serialization="pickle")


def _by_handle(api_key: str | None) -> Visitor:
    return Visitor(HANDLE, [] if api_key is None else [f"Bearer {api_key}"], str(uuid.uuid4()))


def _state(quota: Quota) -> QuotaState:
    return {
        "name": quota.name,
        "unit": quota.unit,
        "limit": quota.limit,
        "window_s": quota.window_s,
        "burst": quota.burst,
        "remaining": quota.remaining,
        "next_s": quota.next_s,
    }


def _blame_label(request: ClassifyRequest, error: HypothesisTooLong) -> InvalidRequest:
    return InvalidRequest([FieldError(label_pointer(request, error.index), str(error))])

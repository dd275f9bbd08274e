"""The front door: HTTP and handle callers enter here, by the same validation, into the same answers."""

from __future__ import annotations

import asyncio
import logging
import uuid
from typing import Any

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from deployments.contract.args import AppArgs
from deployments.contract.decode import deadline_s as decode_deadline
from deployments.contract.decode import decode, label_pointer
from deployments.contract.errors import (
    DeadlineExceeded,
    FieldError,
    HypothesisTooLong,
    InvalidRequest,
    ModelNotFound,
    Unavailable,
)
from deployments.contract.model import ServedModel
from deployments.contract.wire import ClassifyRequest, ClassifyResponse
from deployments.core.work import Outcome, Work
from deployments.core.zeroshot import hypotheses
from deployments.runtime.joiner import Joiner
from deployments.web.answers import Answer, encode
from deployments.web.app import create_app
from deployments.web.caller import Caller

PROBE_TIMEOUT_S = 2.0  # a readiness probe that takes longer is as good as a no
HANDLE = "handle"  # the tenant of all handle callers

_log = logging.getLogger("ray.serve")


@serve.deployment
@serve.ingress()  # the app is built on the replica, by __serve_build_asgi_app__
class Ingress:
    """Decodes, plans, calls the classifier, encodes."""

    def __init__(self, classifier: DeploymentHandle[Any], args: AppArgs, model: ServedModel) -> None:
        self._args = args
        self._model = model
        self._in_flight = 0
        self._classifier = classifier
        self._joiner = Joiner(classifier.score.remote, self._forget, dead=RayActorError)
        if model.fallback:
            _log.warning("%s is not on this machine: %s answers for it", args.model.name, model.name)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return create_app(self._args, self._model, classify=self._answer, probe=self._probe)

    async def classify(self, request: object, deadline_s: float | None = None) -> ClassifyResponse:
        """For handle callers: `serve.get_app_handle("nli").classify.remote({"text": ..., "labels": ...})`.

        Args:
            request: what the JSON body of `POST /v1/classify` holds.
            deadline_s: seconds until `DeadlineExceeded`; the default is `args.deadline.default_s`.

        Raises:
            ServiceError: the classes of deployments/contract/errors.py.
        """
        seconds = decode_deadline(deadline_s, self._args.deadline)
        answer = await self._answer(request, Caller(HANDLE, str(uuid.uuid4()), seconds))
        return answer.body

    async def _answer(self, payload: object, caller: Caller) -> Answer:
        if self._in_flight >= self._args.caps.max_in_flight:
            raise Unavailable(f"{self._in_flight:,} requests are in flight already; try again later", retry_after_s=1)
        self._in_flight += 1
        try:
            return await self._classify(payload, caller)
        finally:
            self._in_flight -= 1

    async def _classify(self, payload: object, caller: Caller) -> Answer:
        request = decode(payload, self._args.caps)
        self._check_model(request.model)
        claims = request.own_hypotheses or hypotheses(request.label_names, request.template or self._model.template)
        work: Work = {
            "texts": request.texts,
            "hypotheses": claims,
            "tenant": caller.tenant,
            "deadline_s": caller.seconds,
        }
        try:
            outcome = await self._score(work)
        except HypothesisTooLong as error:
            raise _blame_label(request, error) from None
        return encode(request, outcome, self._model, caller.request_id)

    async def _forget(self, ids: list[str]) -> None:
        await self._classifier.broadcast("forget", ids).results_async(timeout_s=PROBE_TIMEOUT_S)

    async def _probe(self) -> None:
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


def _blame_label(request: ClassifyRequest, error: HypothesisTooLong) -> InvalidRequest:
    return InvalidRequest([FieldError(label_pointer(request, error.index), str(error))])

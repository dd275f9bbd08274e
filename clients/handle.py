"""`HandleClient`: asks a service from inside its Ray cluster, with futures, callbacks and ObjectRefs.

For a driver, a Ray job, a task, an actor (async or not), a notebook on the cluster, or another deployment. Here is
the Ray of it; the delivery is clients/delivery/. What is promised: docs/python.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Executor, InvalidStateError
from concurrent.futures import Future as PlainFuture
from contextlib import suppress
from functools import partial
from typing import Any, Unpack

import ray
from ray import serve
from ray.actor import ActorMethod
from ray.exceptions import AuthenticationError, RayActorError
from ray.serve import context
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.util.client import ray as ray_client

from deployments.contract.errors import DeadlineExceeded
from deployments.contract.wire import Ask, Terms

from .delivery.blocking import refuse_in_event_loop
from .delivery.callbacks import Callback
from .delivery.client import Client
from .delivery.future import Future
from .delivery.question import Asking, Labels
from .delivery.transport import Call
from .errors import NotRunning
from .ray_private import by_reference, forget_controller, object_ref, with_router_of_its_own
from .results import delivered

FORGET_S = 2.0  # for all replicas to hear of what was called off


class HandleClient(Client):
    """Asks the application `app` on the Ray cluster of this process; where it has none yet, on that of this machine.

    Args:
        app: the application's name in serve_config.yaml.
        api_key: `nli_...`, where `auth` is required.
        max_in_flight: requests that may be outstanding; `submit` waits beyond that.
        deadline_s: of a request that brings none, in seconds; cut to what the service allows.
        callback_executor: runs the callbacks instead of four threads of the client's own; it is not shut down.

    Raises:
        NotRunning: no cluster, or no such application on it.
    """

    def __init__(
        self,
        app: str,
        *,
        api_key: str | None = None,
        max_in_flight: int = 256,
        deadline_s: float = 30.0,
        callback_executor: Executor | None = None,
    ) -> None:
        _join_cluster()
        self._api_key = api_key
        super().__init__(
            partial(self._connect, app),
            max_in_flight=max_in_flight,
            deadline_s=deadline_s,
            callback_executor=callback_executor,
        )

    def submit_ref(self, text: str | Sequence[str], labels: Labels, **asking: Unpack[Asking]) -> ray.ObjectRef[Any]:
        """Ask, and get a reference to the answer, to hand to other tasks without fetching it.

        Its value is the answer as HTTP gives it, which `clients.results.classifications` reads; an error is raised
        by `ray.get`. It is sent once, by itself, and waits until a replica has taken it: milliseconds.

        Raises:
            InvalidRequest: naming each wrong field.
            DeadlineExceeded: no replica has taken it.
            Unavailable: none can.
        """
        self._check_process()
        self._window.check()
        refuse_in_event_loop("submit_ref()", "await asyncio.to_thread(client.submit_ref, ...) instead")
        asked, seconds = self._question(text, labels, asking)
        most = self._sender.max_deadline_s
        deadline_s = asking.get("deadline_s") or (None if math.isinf(most) else min(seconds, most))
        try:
            return self._thread.run(self._handles.reference(asked.request, deadline_s), seconds)
        except TimeoutError:
            raise DeadlineExceeded("no replica took the request within the deadline") from None
        except Exception as error:
            raise self._sender.in_our_words(error) from error

    def future(self, ref: ray.ObjectRef[Any], callback: Callback | None = None) -> Future[Any]:
        """`ref.future()` with callbacks that may do anything: they run on the client's pool, not on Ray's thread.

        Its result is what `ray.get(ref)` gives. Cancelling it leaves the task alone, and closing the client does not
        wait for it.
        """
        self._check_process()
        future: Future[Any] = Future(self._pool, lambda _: None)
        if callback:
            future.add_done_callback(callback)
        ref.future().add_done_callback(partial(_pass_on, future))
        return future

    def _connect(self, app: str) -> _Handles:
        self._handles = _Handles(app, self._api_key)
        return self._handles

    def _callback(self, callback: Callback) -> Callback:
        """An actor's method is called with what can travel; what it raises is noted like what others raise."""
        if not isinstance(callback, ActorMethod):
            return callback

        def call(future: Any) -> None:
            called = callback.remote(delivered(future))  # type: ignore[no-untyped-call]
            self._pool.goes_away()
            self.future(called).add_done_callback(self._is_back)

        return call

    def _is_back(self, called: Any) -> None:
        self._pool.is_back(called.exception())


class _Handles:
    """The transport: calls of the application's front door."""

    def __init__(self, app: str, api_key: str | None) -> None:
        handle = with_router_of_its_own(_front_door(app))
        self._api_key = api_key
        self._handle = handle
        self._terms = handle.options(method_name="terms")
        self._each = handle.options(method_name="classify_each", stream=True)
        self._one = by_reference(handle.options(method_name="classify"))

    async def terms(self) -> Terms:
        found: Terms = await self._terms.remote(self._api_key)
        return found

    def send(self, asks: Sequence[Ask]) -> Call:
        call: Call = self._each.remote(list(asks), self._api_key)
        return call

    async def forget(self, ids: Sequence[str]) -> None:
        await self._handle.broadcast("forget", list(ids)).results_async(timeout_s=FORGET_S)

    def is_transient(self, error: Exception) -> bool:
        return isinstance(error, RayActorError | BackPressureError | DeploymentUnavailableError)

    async def reference(self, request: dict[str, Any], deadline_s: float | None) -> Any:
        return await object_ref(self._one.remote(request, deadline_s, self._api_key))


def _join_cluster() -> None:
    if ray_client.is_connected():  # type: ignore[no-untyped-call]
        raise NotRunning("a connection by ray:// cannot carry handles; run this on the cluster: ray job submit -- ...")
    if not ray.is_initialized():
        try:
            ray.init("auto", log_to_driver=False)
        except (ConnectionError, AuthenticationError) as error:
            raise NotRunning(
                "no Ray cluster on this machine that takes this process; start the service (make serve), or "
                "ray.init(address=...) first. A cluster with tokens, as make serve starts it, takes processes of the "
                "same HOME, or with its token in RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, and RAY_AUTH_MODE=token"
            ) from error


def _front_door(app: str) -> Any:
    try:
        try:
            return serve.get_app_handle(app)
        except RayActorError:  # Serve was shut down since, and may run again
            forget_controller(context)
            return serve.get_app_handle(app)
    except RayServeException as error:
        raise NotRunning(
            f"no application {app!r} runs on this Ray cluster; start it (make serve, or serve run serve_config.yaml), "
            "or give the name that stands in its config"
        ) from error


def _pass_on(future: Future[Any], done: PlainFuture[Any]) -> None:
    """On Ray's thread: nothing but handing over."""
    error = done.exception()
    with suppress(InvalidStateError):  # it was cancelled
        if error:
            future.set_exception(error)
        else:
            future.set_result(done.result())

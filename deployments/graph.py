"""The whole service on one screen: Ingress -> Classifier, and the ledger of the limits beside them."""

# No `from __future__ import annotations` here: Serve reads the annotation of `build` to find its typed
# arguments, and hands over a raw dict when it is a string.

from functools import partial

from ray.serve import Application

from deployments.classifier import Classifier, LoadEngine
from deployments.contract.args import AppArgs
from deployments.contract.model import ServedModel
from deployments.engines.resolve import load, resolve
from deployments.ingress import Ingress, OpenLedger
from deployments.quota import open_ledger


def build(args: AppArgs) -> Application:
    """The application of serve_config.yaml; decides once which model answers, before any replica starts."""
    args = AppArgs.model_validate(args)
    model = resolve(args.model)
    return assemble(args, model, partial(load, model, args.model))


def assemble(
    args: AppArgs, model: ServedModel, load_engine: LoadEngine, open_ledger: OpenLedger = open_ledger
) -> Application:
    """The same graph around any engine."""
    classifier = Classifier.bind(load_engine)  # type: ignore[attr-defined]
    graph: Application = Ingress.bind(classifier, args, model, open_ledger)  # type: ignore[attr-defined]
    return graph

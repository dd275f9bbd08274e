"""OpenVINO and NNCF, imported so that they tell nobody.

Both report each conversion to Google Analytics through the package `openvino_telemetry`, unless the user has
opted out in a file of their home, or the package cannot be imported. Here it cannot.
Source: openvino/tools/ovc/telemetry_utils.py and nncf/telemetry/wrapper.py, `except ImportError`.
"""

from __future__ import annotations

import importlib
import logging
import sys
from typing import Any

REPORTER = "openvino_telemetry"


def import_openvino() -> Any:
    """The module `openvino`."""
    return _import("openvino")


def import_nncf() -> Any:
    """The module `nncf`, which logs only errors from now on."""
    nncf = _import("nncf")
    nncf.set_log_level(logging.ERROR)
    return nncf


def _import(module: str) -> Any:
    sys.modules.setdefault(REPORTER, None)  # type: ignore[arg-type]  # an import of it fails from now on
    return importlib.import_module(module)

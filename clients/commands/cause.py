"""The few words that say why, of a Serve status message or a log: the tracebacks run to sixty lines."""

from __future__ import annotations

import re

MAX_LINES = 6  # of an exception whose message has several, as pydantic's

# How a traceback ends: `package.module.Name: what it says`, at the margin. Serve nests one in another.
_RAISED = re.compile(r"^(?:[a-z_]\w*\.)*([A-Z]\w*): (?!Traceback \(most recent call last\))(?=\S)")

# What Ray echoes of an actor's log: it follows upon anything, and says the same again.
_ECHOED = re.compile(r"^\((?:raylet|autoscaler|[^()]*\bpid=\d+)\b[^()]*\)")
_COLOUR = re.compile(r"\x1b\[[\d;]*m")


def cause(message: str) -> str:
    """The innermost exception without its module, or the last line where there is none."""
    lines = [line.rstrip() for line in _COLOUR.sub("", message).splitlines() if line.strip()]
    lines = [line for line in lines if not _ECHOED.match(line)] or lines
    raised = [i for i, line in enumerate(lines) if _RAISED.match(line)]
    if not raised:
        return lines[-1] if lines else "Serve gives no reason"
    first, *rest = lines[raised[-1] :][:MAX_LINES]
    return "\n".join([_RAISED.sub(r"\1: ", first), *rest])

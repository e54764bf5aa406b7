"""Structured logs: one JSON object in a line, for every request and for whatever else there is to say."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, TextIO

from sightline.serving.visit import Visit

LEVELS = ("debug", "info", "warning", "error")

_requests = logging.getLogger("sightline.serving.requests")


class JsonLines(logging.Formatter):
    """A record as one line of JSON. What came from a client stands in it escaped: no line can be forged."""

    def format(self, record: logging.LogRecord) -> str:
        """Time (UTC), level, logger, message, and the fields of the record."""
        facts: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            facts["trace"] = self.formatException(record.exc_info)
        return json.dumps(facts, default=str)


def install(level: str, stream: TextIO | None = None) -> None:
    """Have Sightline, uvicorn and asyncio log to a stream, stderr by default, one object a line."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("sightline", "uvicorn", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(level.upper())
    # What Pillow says of strangers' files is said to them; and of warnings Python would remember every text.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    logging.getLogger("uvicorn.access").disabled = True  # the line of a request is written here


def request(visit: Visit) -> None:
    """The line of one request. No image, no key, no body."""
    level = logging.ERROR if visit.status >= 500 and visit.status not in (503, 504) else logging.INFO
    _requests.log(level, "%s %s %d", visit.method, visit.path, visit.status, extra={"facts": facts(visit)})


def facts(visit: Visit) -> Mapping[str, Any]:
    """What the line of a request holds."""
    found: dict[str, Any] = {
        "id": visit.id,
        "client": visit.client,
        "status": visit.status,
        "seconds": round(visit.seconds, 6),
        "received": visit.received,
        "sent": visit.sent,
    }
    if visit.verb != "-":
        found |= {"model": visit.model, "verb": visit.verb, "images": visit.images, "passes": visit.passes}
        found |= {stage: round(seconds, 6) for stage, seconds in visit.stages.items()}
    if visit.error is not None:
        found["error"] = visit.error
    return found

"""Log lines of the application's own processes, to stderr, which Ray gathers in its session's folder.

Lines carry the session's id and never speech, SDP or tokens. A message about a session begins with
`session %s`, and its JSON form has that id as a field.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from serve_app.config import LogEncoding

APPLICATION = "serve_app"
LIBRARIES = ("aiortc", "aioice", "libav", "openai", "httpx", "websockets", "livekit")
"""Below WARNING they log SDP, candidates, messages and headers of handshakes, which must not reach a log."""


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC, RFC 3339), level, logger, message; session_id where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
        }
        if str(record.msg).startswith("session %s") and isinstance(record.args, tuple):
            line["session_id"] = record.args[0]
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure_logs(encoding: LogEncoding) -> None:
    """Write this process's own lines from INFO on, and those of the media libraries from WARNING on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter()
        if encoding == "json"
        else logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    application = logging.getLogger(APPLICATION)
    application.handlers = [handler]
    application.setLevel(logging.INFO)
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)

"""Receives events and prints each once: python webhook_receiver.py SECRET_FILE PORT. A start for one of your own."""

import base64
import hmac
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

TOLERANCE_S = 300
"""A request that is older was sent before, by somebody who listened."""
KEY = base64.b64decode(Path(sys.argv[1]).read_text().strip().removeprefix("whsec_"))
seen: set[str] = set()


def is_genuine(ident: str, stamp: str, given: str, body: bytes) -> bool:
    """Whether who sent this has the key: over exactly the bytes that came, before anybody parses them."""
    if not stamp.isdecimal() or abs(time.time() - int(stamp)) > TOLERANCE_S:
        return False
    digest = hmac.digest(KEY, f"{ident}.{stamp}.".encode() + body, "sha256")
    good = "v1," + base64.b64encode(digest).decode()
    return any(hmac.compare_digest(good.encode(), one.encode()) for one in given.split())


class Receiver(BaseHTTPRequestHandler):
    """2xx: taken. 401 keeps the event at the box until the key is right. 400 and most others: never send it again."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """One event."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        ident = self.headers.get("webhook-id", "")
        stamp, given = self.headers.get("webhook-timestamp", ""), self.headers.get("webhook-signature", "")
        if not is_genuine(ident, stamp, given, body):
            self.answer(401)
            return
        if ident not in seen:  # what was not confirmed comes again
            event = json.loads(body)
            print(event["type"], event["time"], json.dumps(event["data"]), flush=True)  # noqa: T201 - its purpose
            seen.add(ident)
        self.answer(204)

    def answer(self, status: int) -> None:
        """Only that."""
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Receiver).serve_forever()

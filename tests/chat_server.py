"""A server that speaks OpenAI's protocol on 127.0.0.1, and misbehaves as it is told to."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import cv2
import numpy as np

from tests import footage

MODEL = "tiny-vl"
NEWER = "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."


def numbers_seen(body: dict[str, Any]) -> list[int]:
    """The numbers of the pictures in a request, made by footage.numbered()."""
    found = []
    for part in body["messages"][0]["content"]:
        if part["type"] == "image_url":
            data = [part["image_url"]["url"].removeprefix("data:image/jpeg;base64,")]
        elif part["type"] == "video_url":
            data = part["video_url"]["url"].removeprefix("data:video/jpeg;base64,").split(",")
        else:
            continue
        for one in data:
            image = cv2.imdecode(np.frombuffer(base64.b64decode(one), np.uint8), cv2.IMREAD_COLOR_RGB)
            assert image is not None
            found.append(footage.number_in(image, *image.shape[:2]))
    return found


def what_it_saw(body: dict[str, Any]) -> str:
    """An answer that tells which pictures came, and what was asked."""
    content = body["messages"][0]["content"]
    if isinstance(content, str):
        return f"asked: {content}"
    return f"saw {' '.join(map(str, numbers_seen(body)))}; asked: {content[-1]['text']}"


class ChatServer:
    """Listens on a free port; `behave(body, times)` says what becomes of a request that came so often: a status,
    "cut", "nonsense", "hang", "newer" (it wants max_completion_tokens), or "" for an answer.

    Attributes:
        came: how often each request did.
        answered: how often each was answered.
        most: requests that were under way at once.
    """

    def __init__(
        self,
        behave: Callable[[dict[str, Any], int], int | str] = lambda body, times: "",
        answer: Callable[[dict[str, Any]], str] = what_it_saw,
        port: int = 0,
    ) -> None:
        self.behave, self.answer = behave, answer
        self.came: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.keys: set[str | None] = set()
        self.seconds = 0.0
        self.most = self._now = 0
        self.gone = False
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), partial(Handler, self))
        self._server.daemon_threads = True
        self.base = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> ChatServer:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.gone = True
        self._server.shutdown()
        self._server.server_close()

    @contextmanager
    def request(self, key: str, authorization: str | None) -> Iterator[None]:
        """A request is under way."""
        with self._lock:
            self.came[key] += 1
            self.keys.add(authorization)
            self._now += 1
            self.most = max(self.most, self._now)
        yield
        with self._lock:
            self._now -= 1

    def reply(self, key: str, body: dict[str, Any], what: int | str) -> tuple[int, Any]:
        """Status and content of what is said to a request."""
        if what == "nonsense":
            return 200, "<html>Please log in</html>"
        if isinstance(what, int):
            return what, {"error": {"message": f"no {what}"}}
        if what == "newer" and ("max_tokens" in body or "max_completion_tokens" not in body):
            return 400, {"error": {"message": NEWER}}
        with self._lock:
            self.answered[key] += 1
        reason = "length" if what == "length" else "stop"
        return 200, {"choices": [{"message": {"content": self.answer(body)}, "finish_reason": reason}]}


class Handler(BaseHTTPRequestHandler):
    """One connection to a ChatServer."""

    protocol_version = "HTTP/1.1"

    def __init__(self, chat: ChatServer, *arguments: Any) -> None:
        self.chat = chat
        super().__init__(*arguments)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        if self.chat.gone:
            self.close_connection = True
            return
        self.say(200, {"data": [{"id": MODEL}]})

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self.chat.gone:
            self.close_connection = True
            return
        body, key = json.loads(data), hashlib.sha256(data).hexdigest()
        with self.chat.request(key, self.headers.get("Authorization")):
            time.sleep(self.chat.seconds)
        what = self.chat.behave(body, self.chat.came[key])
        if what == "cut":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
            self.wfile.flush()
            self.connection.close()
            self.close_connection = True
        elif what == "hang":
            time.sleep(3)
            self.close_connection = True
        else:
            self.say(*self.chat.reply(key, body, what))

    def say(self, status: int, content: Any) -> None:
        data = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

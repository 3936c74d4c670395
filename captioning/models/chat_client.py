"""A model behind a server that speaks OpenAI's protocol (vLLM, SGLang): many requests at once, with retries.

A request that is refused for now (408, 409, 429, 5xx), cut off or not answered is put again, later and later, or
when the server says. One that stays without an answer fails its row; where the server itself has gone, the run ends,
and the same command goes on later. The key stands in the environment, OPENAI_API_KEY, and nowhere else.
"""

from __future__ import annotations

import json
import os
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3
from pydantic_core import to_json

from captioning.models.language_model import Answer, Ask
from captioning.models.pictures import jpeg, shrunk
from clipsheet.errors import CallError, Incomplete, MediaError, one_line
from clipsheet.media import Frame
from clipsheet.scorer import Home

KEY = "OPENAI_API_KEY"
FOR_NOW = (408, 409, 429, 500, 502, 503, 504, 529)
WRONG_CALL = (301, 302, 303, 307, 308, 401, 402, 405)
#: A server that has answered so far may say these of one request, which it does not like.
WRONG_CALL_OR_ROW = (403, 404)
GONE = (502, 503, 504)  # said by what stands before a server, when it is not there
#: Requests one after another, beside those under way: then nobody will answer the next ones either.
UNANSWERED = 20
MAX_TOKENS, MAX_COMPLETION_TOKENS = "max_tokens", "max_completion_tokens"
NONSENSE_TRIES = 3  # of answers that are not what the protocol says
MOST_BACKOFF = 60  # seconds between two tries
CHECK_SECONDS = 10.0
CHECK_TRIES = 2


MEDIA = ("images", "video")  # as which frames are sent


@dataclass(frozen=True)
class Limits:
    """How a server is asked; changes no answer.

    Attributes:
        at_once: requests under way.
        retries: of one request.
        seconds: to wait for an answer.
        per_minute: requests at most; 0: no limit.
    """

    at_once: int = 16
    retries: int = 8
    seconds: float = 120.0
    per_minute: float = 0.0


@dataclass(frozen=True)
class ChatClient:
    """A language model behind a server.

    Attributes:
        base: address up to and with /v1.
        model: its name, as the server knows it.
        temperature: 0: the likeliest answer.
        media: one of MEDIA: frames are sent as pictures, or as one video, as vLLM takes it.
        shorter_size: pixels of the short side of a frame at most.
        limits: how it is asked.
    """

    base: str
    model: str
    temperature: float = 0.0
    media: str = "images"
    shorter_size: int = 448
    limits: Limits = Limits()

    @property
    def in_flight(self) -> int:
        """Requests under way at once."""
        return self.limits.at_once

    def weights(self, models: Path) -> Mapping[str, Path]:
        """None: they are the server's."""
        return {}

    def missing(self, models: Path) -> list[str]:
        """The flags that were not given."""
        needed = (
            (self.base, "no server: --api_base http://127.0.0.1:8000/v1"),
            (self.model, "no model: --model NAME"),
        )
        return [message for value, message in needed if not value]

    def picture(self, frame: Frame, count: int) -> str:
        """A JPEG in base64."""
        return jpeg(shrunk(frame, self.shorter_size))

    def load(self, home: Home) -> Server:
        """A connection.

        Raises:
            CallError: nobody answers, the key is refused, or there is no such model.
        """
        return Server(self.base, self.model, self.limits)

    def answers(self, loaded: Server, asks: Sequence[Ask]) -> list[Answer | MediaError]:
        """One answer per question, one after another.

        Raises:
            MediaError, Incomplete, CallError: as Server.ask() does.
        """
        return [loaded.ask([self.message(ask)], ask.max_new_tokens, self.temperature) for ask in asks]

    def message(self, ask: Ask) -> dict[str, Any]:
        """A question as the protocol has it."""
        pictures = ask.view.pictures
        if not pictures:
            return {"role": "user", "content": ask.question}
        content: list[dict[str, Any]]
        if self.media == "video" and not ask.view.still:
            url = f"data:video/jpeg;base64,{','.join(pictures)}"
            content = [{"type": "video_url", "video_url": {"url": url}}]
        else:
            urls = [f"data:image/jpeg;base64,{picture}" for picture in pictures]
            content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        return {"role": "user", "content": [*content, {"type": "text", "text": ask.question}]}


class Server:
    """A server and one of its models.

    Args:
        base: address up to and with /v1.
        model: as the server knows it.

    Raises:
        CallError: nobody answers, the key is refused, or there is no such model.
    """

    def __init__(self, base: str, model: str, limits: Limits) -> None:
        self._base = base.rstrip("/")
        self._model = model
        self._limits = limits
        self._pool = _pool(self._base, limits.at_once)
        self._turn = threading.Lock()
        self._next_at = 0.0
        self._limit_name = MAX_TOKENS
        self._answered = False
        self._unanswered_since = 0
        self._check()

    def ask(self, messages: Sequence[Mapping[str, Any]], max_new_tokens: int, temperature: float) -> Answer:
        """What the model says to some messages.

        Raises:
            MediaError: timeout, where it does not; bad_output, where it is nonsense; model_error, where it is refused.
            Incomplete: the server has gone.
            CallError: the key is refused, or the model has gone.
        """
        request = {"model": self._model, "messages": messages, "temperature": temperature, "stream": False}
        why = ""
        for _ in range(NONSENSE_TRIES):
            response = self._post_limited(request, max_new_tokens)
            if response.status in WRONG_CALL or (response.status in WRONG_CALL_OR_ROW and not self._answered):
                raise CallError(f"{self._base}: {_said(response)}")
            if response.status != 200:
                raise MediaError("model_error", _said(response))
            self._answered, self._unanswered_since = True, 0
            try:
                choice = json.loads(response.data)["choices"][0]
                return Answer(_text(choice["message"]["content"]), choice.get("finish_reason") == "length")
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                start = response.data[:60].decode("utf-8", "replace")
                why = f"{type(error).__name__}: {error}; it began with {start!r}"
        raise MediaError("bad_output", f"no answer as the protocol has it: {why}")

    def _post_limited(self, request: Mapping[str, Any], max_new_tokens: int) -> urllib3.BaseHTTPResponse:
        """A request with its limit under the name that the server takes: OpenAI's newer models refuse the older."""
        limit = self._limit_name
        # pydantic's JSON: pictures are some hundred kilobytes, for which json takes milliseconds.
        response = self._post(to_json({**request, limit: max_new_tokens}))
        if response.status == 400 and limit == MAX_TOKENS:
            said = response.data.decode("utf-8", "replace").lower()
            if MAX_COMPLETION_TOKENS in said and ("unsupported" in said or "not supported" in said):
                self._limit_name = MAX_COMPLETION_TOKENS
                return self._post_limited(request, max_new_tokens)
        return response

    def _post(self, body: bytes) -> urllib3.BaseHTTPResponse:
        self._wait_for_turn()
        try:
            response = self._pool.request(
                "POST", f"{self._base}/chat/completions", body=body, retries=self._patience(),
                timeout=urllib3.Timeout(connect=CHECK_SECONDS, read=self._limits.seconds),
            )  # fmt: skip
        except urllib3.exceptions.HTTPError as error:
            self._unanswered(_reason(error))
        if response.status in FOR_NOW:
            self._unanswered(_said(response))
        return response

    def _patience(self) -> urllib3.Retry:
        """How often and when a request is put again; each time in its turn."""
        wait_for_turn = self._wait_for_turn

        class Patience(urllib3.Retry):
            def sleep(self, response: urllib3.BaseHTTPResponse | None = None) -> None:
                super().sleep(response)
                wait_for_turn()

        return Patience(
            total=self._limits.retries, backoff_factor=0.5, backoff_max=MOST_BACKOFF, backoff_jitter=0.5,
            status_forcelist=FOR_NOW, allowed_methods=None, raise_on_status=False, redirect=False,
            retry_after_max=MOST_BACKOFF,
        )  # fmt: skip

    def _unanswered(self, why: str) -> None:
        """A request that was put again and again: whose fault is it?"""
        gone = ""
        try:
            response = self._models(retries=CHECK_TRIES)
            if response.status in GONE:
                gone = _said(response)
        except urllib3.exceptions.HTTPError as error:
            gone = _reason(error)
        self._unanswered_since += 1
        if self._unanswered_since >= UNANSWERED + self._limits.at_once:
            gone = f"{self._unanswered_since} requests one after another, the last: {why}"
        if gone:
            raise Incomplete(
                f"{self._base} does not answer any more ({gone}); what it said is kept, and the same command asks for "
                "the rest"
            )
        raise MediaError("timeout", f"no answer in {self._limits.retries + 1} tries: {why}")

    def _wait_for_turn(self) -> None:
        if not self._limits.per_minute:
            return
        with self._turn:
            now = time.monotonic()
            wait = max(0.0, self._next_at - now)
            self._next_at = max(now, self._next_at) + 60 / self._limits.per_minute
        time.sleep(wait)

    def _check(self) -> None:
        """Find out before the work whether there is anybody."""
        try:
            response = self._models(retries=CHECK_TRIES)
        except urllib3.exceptions.HTTPError as error:
            raise CallError(
                f"--api_base {self._base}: nobody answers ({_reason(error)}); start the server, or mend the address"
            ) from error
        if response.status in (401, 403):
            raise CallError(f"--api_base {self._base}: {_said(response)}; the key is read from {KEY}")
        if response.status in (*GONE, *WRONG_CALL):
            raise CallError(
                f"--api_base {self._base}: {_said(response)}; start the server, or mend the address"
            )
        try:
            names = [entry["id"] for entry in json.loads(response.data)["data"]]
        except (ValueError, LookupError, TypeError):  # a server that does not tell
            return
        if response.status == 200 and names and self._model not in names:
            raise CallError(f"--model {self._model}: {self._base} has {one_line(', '.join(map(str, names)))}")

    def _models(self, retries: int) -> urllib3.BaseHTTPResponse:
        return self._pool.request(
            "GET", f"{self._base}/models", timeout=CHECK_SECONDS,
            retries=urllib3.Retry(total=retries, backoff_factor=0.5, redirect=False),
        )  # fmt: skip


def _pool(base: str, at_once: int) -> urllib3.PoolManager:
    """Connections to a server, by way of the proxy that the environment names.

    Raises:
        CallError: a key that cannot be sent, or a password in the address.
    """
    parts = urllib.parse.urlsplit(base)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise CallError(f"--api_base {base}: an address begins with http:// or https://")
    if parts.username is not None:
        raise CallError(f"--api_base: an address with a password is written into logs; give it by {KEY}")
    headers = {"Content-Type": "application/json", "User-Agent": "clipsheet"}
    if key := os.environ.get(KEY, "").strip():
        if not (key.isascii() and key.isprintable()):
            raise CallError(f"{KEY} holds something else than a key: letters that cannot be sent")
        headers["Authorization"] = f"Bearer {key}"
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname):
        return urllib3.ProxyManager(proxy, maxsize=at_once, block=True, headers=headers)
    return urllib3.PoolManager(maxsize=at_once, block=True, headers=headers)


def _text(content: Any) -> str:
    """What was said, as one text or in parts."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part.get("type") == "text")
    if content is None:
        return ""
    if not isinstance(content, str):
        raise TypeError(f"content is {type(content).__name__}")
    return content


def _said(response: urllib3.BaseHTTPResponse) -> str:
    """A refusal in one line."""
    text = response.data.decode("utf-8", "replace")
    try:
        error = json.loads(text)
        error = error.get("error", error)
        text = error["message"] if isinstance(error, dict) else str(error)
    except (ValueError, LookupError, AttributeError):
        text = text.strip()
    return one_line(f"HTTP {response.status}: {text}")


def _reason(error: Exception) -> str:
    """Why there was no answer: the innermost cause, of which the last retry tells."""
    cause = getattr(error, "reason", None) or error
    return one_line(f"{type(cause).__name__}: {str(cause).rpartition(': ')[2]}")

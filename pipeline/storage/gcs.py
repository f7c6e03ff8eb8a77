"""Google Cloud Storage by its JSON interface, with the credentials of Google's own library.

The version of an object is its etag, as in plans that were made before. Conditions of writes need its
generation, which is asked for first. An object of any size is written with one request: only there the
condition is a part of the write itself.
"""

import datetime
import json
import os
import uuid
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any
from urllib.parse import quote

import google.auth
import requests
import urllib3
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import GoogleAuthError, TransportError
from google.auth.transport.requests import AuthorizedSession
from requests.adapters import HTTPAdapter

from pipeline.storage.base import version_of
from pipeline.storage.objects import (
    ABSENT,
    CONNECT_SECONDS,
    NONCE,
    PARTS_AT_ONCE,
    READ_SECONDS,
    Beginning,
    Client,
    Info,
    Page,
    no_bucket,
    no_credentials,
    refused,
)

SERVER = "https://storage.googleapis.com"
EMULATOR = "STORAGE_EMULATOR_HOST"
"""The environment's variable that Google's libraries take an emulator's URL from. It has no credentials."""
SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
PAGE_KEYS = 1000
TOLD = "items(name,size,etag,updated),prefixes,nextPageToken"
"""What a page of a listing tells; everything else of an object is four times as much."""
LIMITS = ("rateLimitExceeded", "userRateLimitExceeded")
"""Reasons of a refusal (403) that passes."""
NO_GENERATION = "1"


class Google(Client):
    """The requests of Google Cloud Storage."""

    ranged = True

    @cached_property
    def session(self) -> AuthorizedSession:
        """Makes the session, with the credentials of the environment, of a service account or of the pod."""
        if self.options.anonymous or os.environ.get(EMULATOR):
            credentials = AnonymousCredentials()
        else:
            credentials, self.project = google.auth.default(scopes=[SCOPE])
        session = AuthorizedSession(credentials)
        session.mount(self.server, HTTPAdapter(pool_maxsize=2 * PARTS_AT_ONCE))
        return session

    project: str | None = None
    """The project that pays for requests, if the reader has agreed to."""

    @property
    def server(self) -> str:
        """Returns the server's URL."""
        return (self.options.endpoint_url or os.environ.get(EMULATOR) or SERVER).rstrip("/")

    def page(self, bucket: str, prefix: str, deep: bool, start: str, token: str | None) -> Page:
        """Returns a page of a listing. A bucket that does not exist has no pages."""
        where = {"prefix": prefix, "startOffset": start, "pageToken": token, "maxResults": PAGE_KEYS}
        asked = {name: value for name, value in where.items() if value} | {"fields": TOLD}
        try:
            found = self._asked("GET", _place(bucket), asked | ({} if deep else {"delimiter": "/"}))
        except FileNotFoundError as error:
            told = no_bucket(error)
            raise told from told.__cause__
        infos = [_info(bucket, item) for item in found.get("items", [])]
        folders = (f"{bucket}/{prefix.rstrip('/')}" for prefix in found.get("prefixes", []))
        infos += [{"name": name, "size": 0, "type": "directory"} for name in folders]
        return Page(infos, found.get("nextPageToken"))

    def head(self, bucket: str, key: str) -> Info:
        """Returns what is known of an object; its pin is the generation."""
        found = self._asked("GET", _place(bucket, key))
        nonce = found.get("metadata", {}).get(NONCE, "")
        return _info(bucket, found) | {"pin": str(found["generation"]), "nonce": nonce}

    def pin(self, path: str, version: str) -> str:
        """Returns the generation of a version."""
        found = self.info(path)
        if version_of(found) != version:
            raise FileExistsError("is not the version that was listed")
        return str(found["pin"])

    def get(self, bucket: str, key: str, start: int, stop: int, pin: str | None = None) -> Beginning:
        """Returns bytes of one generation, as they are stored: Google would unpack what is marked as gzip."""
        where = {"alt": "media"} | ({"generation": pin} if pin else {})
        raw = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "gzip"}

        def request() -> Beginning:
            with self._answer("GET", _place(bucket, key), where, headers=raw, stream=True) as answer:
                data = answer.raw.read(decode_content=False)
                size = answer.headers.get("Content-Range", f"/{len(data)}").rpartition("/")[2]
                if not (generation := answer.headers.get("x-goog-generation")):
                    raise OSError("an answer does not tell the object's generation")
                return Beginning(data, int(size), generation)

        try:
            return self.sent(request)
        except FileNotFoundError:
            if pin:
                self.head(bucket, key)  # fails if the object is gone
                raise FileExistsError("another version is there") from None
            raise

    def put(self, bucket: str, key: str, data: bytes, nonce: str, condition: str | None) -> None:
        """Writes an object, over the version of the condition."""
        if condition is None:
            generation = None
        else:
            generation = "0" if condition == ABSENT else self._generation(bucket, key, condition)
        self._upload(bucket, key, data, nonce, generation)

    def copy(self, source: Info, bucket: str, key: str) -> None:
        """Copies one generation of an object; the server copies a large one bit by bit."""
        self._rewrite(source, bucket, key, "0", source["pin"])

    def delete(self, bucket: str, key: str) -> None:
        """Removes an object."""
        self._asked("DELETE", _place(bucket, key))

    def impossible(self, bucket: str, key: str, source: Info) -> dict[str, Callable[[], None]]:
        """Returns the trials of each condition that a write relies on."""
        upload = partial(self._upload, bucket, key, b"3", "")
        rewrite = partial(self._rewrite, source, bucket, key)
        return {
            "ifGenerationMatch=0 of an upload": partial(upload, "0"),
            "ifGenerationMatch of an upload": partial(upload, NO_GENERATION),
            "ifGenerationMatch=0 of a rewrite": partial(rewrite, "0", source["pin"]),
            "ifSourceGenerationMatch of a rewrite": partial(rewrite, None, NO_GENERATION),
        }

    def translated(self, error: Exception) -> Exception:
        """Returns the `OSError` for a failure of the network, or of the credentials."""
        if isinstance(error, GoogleAuthError):
            passing = isinstance(error, TransportError) or getattr(error, "retryable", False)
            return ConnectionResetError(str(error)) if passing else no_credentials(str(error))
        if isinstance(error, requests.exceptions.SSLError):
            return OSError(str(error))
        if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
            unreached = isinstance(error, requests.ConnectTimeout)
            return ConnectionRefusedError(str(error)) if unreached else TimeoutError(str(error))
        if isinstance(error, requests.ConnectionError):
            never = error.args and isinstance(error.args[0], urllib3.exceptions.MaxRetryError)
            return ConnectionRefusedError(str(error)) if never else ConnectionResetError(str(error))
        if isinstance(error, requests.RequestException | urllib3.exceptions.HTTPError):
            return ConnectionResetError(str(error))
        return error

    def _generation(self, bucket: str, key: str, version: str) -> str:
        """Returns the generation of a version, to replace it; of another version none."""
        try:
            found = self.head(bucket, key)
        except FileNotFoundError:
            return NO_GENERATION
        return str(found["pin"]) if version_of(found) == version else NO_GENERATION

    def _upload(self, bucket: str, key: str, data: bytes, nonce: str, generation: str | None) -> None:
        border = uuid.uuid4().hex
        described = json.dumps({"name": key, "metadata": {NONCE: nonce}})
        kinds = [
            f"--{border}\r\nContent-Type: application/{kind}\r\n\r\n" for kind in ("json", "octet-stream")
        ]
        begin = f"{kinds[0]}{described}\r\n{kinds[1]}".encode()
        body = b"".join([begin, data, f"\r\n--{border}--\r\n".encode()])
        where = {"uploadType": "multipart", "name": key} | _matching(ifGenerationMatch=generation)
        kind = {"Content-Type": f"multipart/related; boundary={border}"}
        try:
            self._asked("POST", f"/upload{_place(bucket)}", where, data=body, headers=kind)
        except FileNotFoundError as error:
            told = no_bucket(error)
            raise told from told.__cause__

    def _rewrite(
        self, source: Info, bucket: str, key: str, generation: str | None, source_generation: str
    ) -> None:
        where = _matching(ifGenerationMatch=generation, ifSourceGenerationMatch=source_generation)
        target = _place(bucket, key).removeprefix("/storage/v1")
        path = f"{_place(*self.split(source['name']))}/rewriteTo{target}"
        done: Mapping[str, Any] = {}
        while not done.get("done"):
            token = _matching(rewriteToken=done.get("rewriteToken"))
            done = self._asked("POST", path, where | token)

    def _asked(self, method: str, path: str, where: Mapping[str, Any] | None = None, **more: Any) -> Any:
        """Returns the server's answer, which is JSON, or nothing."""

        def request() -> Any:
            answer = self._answer(method, path, where or {}, **more)
            return answer.json() if answer.content else {}

        return self.sent(request)

    def _answer(self, method: str, path: str, where: Mapping[str, Any], **more: Any) -> requests.Response:
        session = self.session
        payer = {"userProject": self.project} if self.options.requester_pays and self.project else {}
        answer = session.request(
            method,
            self.server + path,
            params={**where, **payer},
            timeout=(CONNECT_SECONDS, READ_SECONDS),
            **more,
        )
        if answer.status_code >= 400:
            with answer:
                raise _refusal(answer)
        return answer


def _place(bucket: str, key: str | None = None) -> str:
    objects = f"/storage/v1/b/{quote(bucket, safe='')}/o"
    return objects if key is None else f"{objects}/{quote(key, safe='')}"


def _matching(**conditions: str | None) -> dict[str, str]:
    return {name: value for name, value in conditions.items() if value is not None}


def _info(bucket: str, item: Mapping[str, Any]) -> Info:
    return {
        "name": f"{bucket}/{item['name']}",
        "size": int(item["size"]),
        "type": "file",
        "etag": item["etag"],
        "last_modified": datetime.datetime.fromisoformat(item["updated"]),
    }


def _refusal(answer: requests.Response) -> OSError:
    try:
        told = answer.json()["error"]
        reason, text = told["errors"][0]["reason"], told["message"]
    except (ValueError, LookupError, TypeError):
        reason, text = answer.reason, answer.text[:200]
    status = 429 if reason in LIMITS else answer.status_code
    names = {
        401: "Unauthorized", 412: "PreconditionFailed", 416: "InvalidRange", 501: "NotImplemented",
    }  # fmt: skip
    missing = status == 404 and "bucket does not exist" in text
    return refused(status, "NoSuchBucket" if missing else names.get(status, reason), text)

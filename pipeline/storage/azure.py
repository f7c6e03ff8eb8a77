"""Azure Blob Storage by Microsoft's own library; `abfs://` and `az://` are two names of it.

The library repeats nothing but the body of an answer that broke off, twice at most. A URL names the
container; the account is that of `options.endpoint_url` or of the environment.
"""

import datetime
import logging
import os
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from math import ceil
from typing import Any

import requests
import urllib3
from azure.core import MatchConditions
from azure.core.credentials import TokenCredential
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    IncompleteReadError,
    ServiceRequestError,
    ServiceResponseError,
    ServiceResponseTimeoutError,
)
from azure.core.pipeline.transport import RequestsTransport
from azure.identity import DefaultAzureCredential
from azure.storage.blob import (
    BlobBlock,
    BlobClient,
    BlobPrefix,
    BlobSasPermissions,
    BlobServiceClient,
    generate_blob_sas,
)
from requests.adapters import HTTPAdapter

from pipeline.errors import ConfigError
from pipeline.storage.base import NO_VERSION
from pipeline.storage.objects import (
    ABSENT,
    CONNECT_SECONDS,
    NONCE,
    PART_BYTES,
    PARTS_AT_ONCE,
    READ_SECONDS,
    Beginning,
    Client,
    Info,
    Page,
    no_credentials,
    refused,
)

ACCOUNT, CONNECTION = "AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_CONNECTION_STRING"
SECRETS = ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN")
"""The environment's variables that go before an identity, if they are set."""
SCOPE = "https://storage.azure.com/.default"
PAGE_BLOBS = 5000
BLOCKS_BYTES = 64 << 20
"""The largest object that one request writes."""
COPY_BYTES = 256 << 20
"""The largest object that one request copies at once. Azure copies larger ones later, under their final
name, where readers would find a part of them: these pass through this process."""
FOLDER = "hdi_isfolder"
"""The metadata of what stands for a folder, in accounts with a hierarchical namespace."""
TAKEN = ("BlobAlreadyExists", "ConditionNotMet", "SourceConditionNotMet", "TargetConditionNotMet")
"""Codes of a condition that does not hold."""
NO_ETAG = f'"{NO_VERSION}"'


class Azure(Client):
    """The requests of Azure Blob Storage."""

    @cached_property
    def service(self) -> BlobServiceClient:
        """Makes the client, with the credentials of the environment or of the pod's identity."""
        session = requests.Session()
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(pool_maxsize=2 * PARTS_AT_ONCE))
        patience = {"connection_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS}
        transport = RequestsTransport(session=session, session_owner=False, **patience)
        sizes = {"max_single_get_size": PART_BYTES, "max_single_put_size": BLOCKS_BYTES}
        arguments: dict[str, Any] = {"transport": transport, "retry_total": 0, **sizes}
        try:
            if not self.options.anonymous and (connection := os.environ.get(CONNECTION)):
                return self._of_connection(connection, arguments)
            return BlobServiceClient(self._account_url(), credential=self._credential(), **arguments)
        except ValueError as error:
            told = no_credentials(str(error))
            raise told from told.__cause__

    def _of_connection(self, connection: str, arguments: dict[str, Any]) -> BlobServiceClient:
        found = BlobServiceClient.from_connection_string(connection, **arguments)
        if not (url := self.options.endpoint_url):
            return found
        return BlobServiceClient(url, credential=found.credential, **arguments)

    def _account_url(self) -> str:
        if self.options.endpoint_url:
            return self.options.endpoint_url
        if account := os.environ.get(ACCOUNT):
            return f"https://{account}.blob.core.windows.net"
        raise ConfigError(
            "no storage account is named",
            f"{self.protocol}://",
            hint=f"set {ACCOUNT}, or options.endpoint_url to https://ACCOUNT.blob.core.windows.net",
        )

    def _credential(self) -> Any:
        """Returns what signs requests: a key, a signature, or the identity of workload, machine or login."""
        if self.options.anonymous:
            return None
        secrets = (os.environ.get(name) for name in SECRETS)
        if secret := next(filter(None, secrets), None):
            return secret
        logging.getLogger("azure.identity").setLevel(logging.ERROR)  # it tells each place without an identity
        return DefaultAzureCredential()

    def page(self, bucket: str, prefix: str, deep: bool, start: str, token: str | None) -> Page:  # noqa: ARG002
        """Returns a page of a listing."""

        def request() -> Page:
            container = self.service.get_container_client(bucket)
            look = container.list_blobs if deep else container.walk_blobs
            pages = look(prefix, include=["metadata"], results_per_page=PAGE_BLOBS).by_page(token)
            infos = [_info(bucket, each) for each in next(pages)]
            return Page(infos, pages.continuation_token or None)

        return self.sent(request)

    def head(self, bucket: str, key: str) -> Info:
        """Returns what is known of an object; its pin is the etag."""
        found = self.sent(lambda: self._blob(bucket, key).get_blob_properties())
        if FOLDER in found.metadata:
            raise FileNotFoundError("is a folder")
        nonce = found.metadata.get(NONCE, "")
        return _info(bucket, found) | {"pin": found.etag, "nonce": nonce}

    def pin(self, path: str, version: str) -> str:  # noqa: ARG002  (no request)
        """Returns the etag, which is the version."""
        return f'"{version}"'

    def get(self, bucket: str, key: str, start: int, stop: int, pin: str | None = None) -> Beginning:
        """Returns bytes of one version, as they are stored."""

        def request() -> Beginning:
            found = self._blob(bucket, key).download_blob(start, stop - start, decompress=False, **_over(pin))
            size = (found.properties.content_range or "").rpartition("/")[2]
            return Beginning(found.readall(), int(size), found.properties.etag)

        return self.sent(request)

    def put(self, bucket: str, key: str, data: bytes, nonce: str, condition: str | None) -> None:
        """Writes an object, over the version of the condition; a large one in blocks, joined at once."""
        held = {} if condition is None else _absent() if condition == ABSENT else _over(f'"{condition}"')
        write = self._whole if len(data) <= BLOCKS_BYTES else self._in_blocks
        write(bucket, key, data, nonce, held)

    def copy(self, source: Info, bucket: str, key: str) -> None:
        """Copies one version of an object, if there is no target yet."""
        if source["size"] <= COPY_BYTES:
            self._copied(source, source["pin"], bucket, key, _absent())
        else:
            data = self.ask(source["name"], source["pin"], 0, source["size"]).result()
            self.put(bucket, key, data, source["nonce"], ABSENT)

    def delete(self, bucket: str, key: str) -> None:
        """Removes an object."""
        self.sent(lambda: self._blob(bucket, key).delete_blob())

    def impossible(self, bucket: str, key: str, source: Info) -> dict[str, Callable[[], None]]:
        """Returns the trials of each condition that a write relies on."""
        writes = {"Put Blob": self._whole, "Put Block List": self._in_blocks}
        conditions = {"If-None-Match": _absent(), "If-Match": _over(NO_ETAG)}
        trials: dict[str, Callable[[], None]] = {
            f"{name} of {what}": partial(write, bucket, key, b"3", "", condition)
            for what, write in writes.items()
            for name, condition in conditions.items()
        }
        copies: dict[str, Callable[[], None]] = {
            "If-None-Match of Copy Blob": partial(
                self._copied, source, source["pin"], bucket, key, _absent()
            ),
            "x-ms-source-if-match of Copy Blob": partial(self._copied, source, NO_ETAG, bucket, key, {}),
        }
        return trials | copies

    def translated(self, error: Exception) -> Exception:
        """Returns the `OSError` for a failure of the library."""
        if isinstance(error, requests.RequestException | urllib3.exceptions.HTTPError):
            return ConnectionResetError(str(error))
        if not isinstance(error, AzureError):
            return error
        text = str(error.message or error).strip().partition("\n")[0]
        if isinstance(error, ServiceResponseTimeoutError):
            return TimeoutError(text)
        if isinstance(error, ServiceResponseError | IncompleteReadError):
            return ConnectionResetError(text)
        if isinstance(error, ServiceRequestError):
            insecure = isinstance(error.inner_exception, requests.exceptions.SSLError)
            return OSError(text) if insecure else ConnectionRefusedError(text)
        if isinstance(error, HttpResponseError) and (error.status_code or 0) >= 400:
            return _refusal(error, text)
        if isinstance(error, ClientAuthenticationError):
            return no_credentials(text)
        # An answer that is not a refusal could not be read: its end is missing.
        return ConnectionResetError(text) if isinstance(error, HttpResponseError) else OSError(text)

    def _blob(self, bucket: str, key: str) -> BlobClient:
        return self.service.get_blob_client(bucket, key)

    def _whole(self, bucket: str, key: str, data: bytes, nonce: str, condition: dict[str, Any]) -> None:
        told = {"metadata": {NONCE: nonce}, "overwrite": True}
        self.sent(lambda: self._blob(bucket, key).upload_blob(data, **told, **condition))

    def _in_blocks(self, bucket: str, key: str, data: bytes, nonce: str, condition: dict[str, Any]) -> None:
        """Writes blocks whose names nobody else has, and joins them. After a week Azure drops others."""
        view, own = memoryview(data), uuid.uuid4().hex
        names = [f"{own}{number:05}" for number in range(ceil(len(data) / PART_BYTES))]

        def block(number: int) -> None:
            part = bytes(view[number * PART_BYTES : (number + 1) * PART_BYTES])
            self.sent(lambda: self._blob(bucket, key).stage_block(names[number], part))

        with ThreadPoolExecutor(PARTS_AT_ONCE // 2) as pool:
            list(pool.map(block, range(len(names))))
        joined = [BlobBlock(name) for name in names]
        told = {"metadata": {NONCE: nonce}}
        self.sent(lambda: self._blob(bucket, key).commit_block_list(joined, **told, **condition))

    def _copied(self, source: Info, pin: str, bucket: str, key: str, condition: dict[str, Any]) -> None:
        """Lets the server copy, and ends when it has: the target is never seen in part."""
        version = {"source_etag": pin, "source_match_condition": MatchConditions.IfNotModified}

        def request() -> None:
            url, right = self._readable(*self.split(source["name"]))
            target = self._blob(bucket, key)
            target.start_copy_from_url(url, requires_sync=True, **version, **right, **condition)

        self.sent(request)

    def _readable(self, bucket: str, key: str) -> tuple[str, dict[str, str]]:
        """Returns the URL of the source of a copy, and the right to read it, which Azure wants again."""
        blob, credential = self._blob(bucket, key), self.service.credential
        if isinstance(credential, TokenCredential):
            return blob.url, {"source_authorization": f"Bearer {credential.get_token(SCOPE).token}"}
        key_of_account = getattr(credential, "account_key", None)
        if not key_of_account:
            return blob.url, {}
        until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
        account, may_read = str(blob.account_name), BlobSasPermissions(read=True)
        signed = generate_blob_sas(
            account, bucket, key, account_key=key_of_account, permission=may_read, expiry=until
        )
        return f"{blob.url}?{signed}", {}


def _absent() -> dict[str, Any]:
    return {"match_condition": MatchConditions.IfMissing}


def _over(etag: str | None) -> dict[str, Any]:
    return {"etag": etag, "match_condition": MatchConditions.IfNotModified} if etag else {}


def _info(bucket: str, found: Any) -> Info:
    name = f"{bucket}/{found.name}"
    if isinstance(found, BlobPrefix) or FOLDER in (found.metadata or {}):
        return {"name": name.rstrip("/"), "size": 0, "type": "directory"}
    return {
        "name": name,
        "size": found.size,
        "type": "file",
        "etag": found.etag,
        "last_modified": found.last_modified,
    }


def _refusal(error: HttpResponseError, text: str) -> OSError:
    name = str(getattr(error.error_code, "value", error.error_code) or error.reason or "")
    if name == "ContainerNotFound":
        return refused(404, "NoSuchBucket", text)
    return refused(412 if name in TAKEN else int(error.status_code or 0), name, text)

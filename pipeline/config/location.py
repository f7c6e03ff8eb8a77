"""The URLs that a config may have, and the options for the storage behind them."""

import os
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
)

from pipeline.errors import ConfigError
from pipeline.sanitize import holds_secret

PROTOCOLS: Mapping[str, tuple[str, ...]] = {
    "file": ("outside_links", "ignore_ctime"),
    "s3": ("endpoint_url", "profile", "region", "anonymous", "requester_pays"),
    "gs": ("endpoint_url", "anonymous", "requester_pays"),
    "abfs": ("endpoint_url", "anonymous"),
    "az": ("endpoint_url", "anonymous"),
    "hf": ("endpoint_url", "anonymous"),
}
"""The protocols that we read and write, and the options that each has. The list is fixed, so that a URL can't
use a protocol that nobody thought of."""
READ_ONLY = ("hf",)
AZURE = ("abfs", "az")
"""Two names of Azure Blob Storage, as its users write them; a URL keeps the name that it has."""
NO_SECRETS = "credentials must not stand in a URL: use the environment, a profile or a role"
TEST_PROTOCOL = "memory"


def check_url(path: str) -> str:
    """Refuses a URL that must never stand in a config.

    Raises:
        ValueError: an unknown protocol, a chained URL, or a URL with credentials or a signature.
    """
    if holds_secret(path):
        raise ValueError(NO_SECRETS)
    protocol = protocol_of(path)
    if "::" in path or protocol not in (*PROTOCOLS, TEST_PROTOCOL):
        raise ValueError(f"{protocol}: is not supported here; use one of {', '.join(PROTOCOLS)}")
    if not is_url(path) and path.partition(":")[0] in PROTOCOLS and ":" in path:
        raise ValueError("is not a URL, but looks like one: write :// after the protocol")
    return path


def is_url(path: str) -> bool:
    """Tells whether a path is a URL."""
    return "://" in path


def protocol_of(path: str) -> str:
    """Returns the protocol of a URL, such as `s3` of `s3://bucket/x`; `file` for a path."""
    return path.split("://", 1)[0] if is_url(path) else "file"


Path_ = Annotated[str, StringConstraints(min_length=1), AfterValidator(check_url)]
Name = Annotated[str, StringConstraints(min_length=1)]


class Section(BaseModel):
    """The base of all sections. It is frozen, refuses unknown keys, and validates defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class Options(Section):
    """The options to reach a storage. Secrets come from the environment, the profile or the pod's role."""

    endpoint_url: str | None = Field(
        None,
        description="s3, gs, hf: the URL of the server, if it is not the provider's own. abfs, az: that of "
        "the storage account, if `AZURE_STORAGE_ACCOUNT_NAME` does not name it.",
    )
    profile: Name | None = Field(
        None, description="s3: a profile of the AWS config files, for credentials and region."
    )
    region: Name | None = Field(None, description="s3: the bucket's region.")
    anonymous: bool = Field(False, description="s3, gs, abfs, az, hf: send no credentials.")
    requester_pays: bool = Field(False, description="s3, gs: the reader agrees to pay for requests.")
    outside_links: Literal["follow", "refuse"] | None = Field(
        None,
        description="Local sources: follow or refuse symbolic links that lead out of `path`. Default: follow "
        "links made by the user of the process, by root or by the owner of the target, and refuse others.",
    )
    ignore_ctime: bool = Field(
        False,
        description="Local sources: a file of which only the inode has changed (owner, rights, links; or "
        "another copy on each node) is still the same version.",
    )

    @field_validator("endpoint_url")
    @classmethod
    def _plain_http(cls, value: str | None) -> str | None:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("is not the URL of a server, which starts with http:// or https://")
        if value and any(mark in value for mark in "@?#"):
            raise ValueError(NO_SECRETS)
        return value

    @field_validator("anonymous")
    @classmethod
    def _nobody_has_no_profile(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("profile"):
            raise ValueError("a profile has credentials: drop one of the two")
        return value


def _honoured(options: Options, info: ValidationInfo) -> Options:
    """Refuses options that mean nothing to the protocol of the section's path."""
    protocol = protocol_of(info.data.get("path", "s3://"))
    refuse_meaningless(options, protocol)
    return options


def refuse_meaningless(options: Options, protocol: str) -> None:
    """Refuses options that mean nothing to a protocol.

    Raises:
        ValueError: one of them does.
    """
    for name in type(options).model_fields:
        if getattr(options, name) and name not in PROTOCOLS.get(protocol, ()):
            raise ValueError(f"{name} means nothing to {protocol}: drop it")


DEFAULT_OPTIONS = Options()
PathOptions = Annotated[Options, AfterValidator(_honoured)]
"""The options of the storage of a section's `path`, a field that must precede them."""


def absolute(path: str) -> str:
    """Returns a local path as an absolute one, and a URL as it is."""
    return path if is_url(path) else os.path.abspath(path)  # noqa: PTH100  (no links followed)


def refuse_relative(path: str, where: str = "") -> None:
    """Refuses a relative path on a cluster, where it is another place on each node.

    Raises:
        ConfigError: the path is relative.
    """
    if is_url(path) or path.startswith("/") or not os.environ.get("RAY_ADDRESS"):
        return
    hint = "make it absolute, or a URL"
    raise ConfigError("a relative path is another place on each node", where, repr(path), hint)

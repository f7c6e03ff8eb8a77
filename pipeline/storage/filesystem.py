"""Makes the fsspec driver of each protocol, and translates the config's options for it."""

from typing import Any

import fsspec

from pipeline.config.location import Options
from pipeline.errors import ConfigError
from pipeline.storage.s3 import BOTOCORE, S3

PACKAGES = {"gs": "gcsfs", "abfs": "adlfs"}
"""Packages of drivers that are not installed with this program."""


def filesystem(protocol: str, options: Options) -> Any:
    """Returns a protocol's driver, which caches nothing between two calls.

    Raises:
        ConfigError: its package is not installed.
    """
    arguments = _arguments(protocol, options)
    given = {name: value for name, value in arguments.items() if value is not None}
    if protocol == "s3":
        return S3(use_listings_cache=False, skip_instance_cache=True, config_kwargs=BOTOCORE, **given)
    try:
        # A cached listing would hide a rival's shards, and files that changed while they were read.
        return fsspec.filesystem(protocol, use_listings_cache=False, **given)
    except ImportError as error:
        package = PACKAGES.get(protocol, protocol)
        raise ConfigError(
            f"{protocol}:// needs a package that is not installed",
            got=str(error),
            hint=f"pip install {package}",
        ) from None


def _arguments(protocol: str, options: Options) -> dict[str, Any]:
    if protocol == "s3":
        return {
            "anon": options.anonymous,
            "endpoint_url": options.endpoint_url,
            "profile": options.profile,
            "requester_pays": options.requester_pays,
            "client_kwargs": {"region_name": options.region} if options.region else None,
        }
    if protocol == "gs":
        return {
            # The driver's default silently becomes anonymous if it finds no credentials.
            "token": "anon" if options.anonymous else "google_default",
            "endpoint_url": options.endpoint_url,
            "requester_pays": options.requester_pays,
        }
    if protocol == "abfs":
        return {"anon": options.anonymous}
    if protocol == "hf":
        return {"endpoint": options.endpoint_url, "token": False if options.anonymous else None}
    return {}

"""Makes the driver of each protocol, and translates the config's options for it."""

import importlib
from typing import Any

import fsspec

from pipeline.config.location import Options
from pipeline.errors import ConfigError
from pipeline.storage.s3 import BOTOCORE, S3

CLIENTS = {"gs": "gcs.Google", "abfs": "azure.Azure", "az": "azure.Azure"}
"""Our own clients, whose modules need packages that are not installed with this program."""
PACKAGES = {
    "gs": "google-auth[requests]",
    "abfs": "azure-storage-blob azure-identity",
    "az": "azure-storage-blob azure-identity",
}


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
        if protocol in CLIENTS:
            module, name = CLIENTS[protocol].split(".")
            return getattr(importlib.import_module(f"pipeline.storage.{module}"), name)(protocol, options)
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
    if protocol == "hf":
        return {"endpoint": options.endpoint_url, "token": False if options.anonymous else None}
    return {}

"""A machine of Google Cloud around this process: google-auth finds its account, which may sign as itself."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.auth import iam as google_iam
from google.auth.compute_engine import _metadata

from local_cloud.credentials import IamCredentials, MetadataServer
from local_cloud.faults import Faults
from local_cloud.iam import Grant, Iam
from local_cloud.identity import TokenMint

SIGNER = "signer@demo-dualdeploy.iam.gserviceaccount.com"
_MEMBER = f"serviceAccount:{SIGNER}"


def iam_with_signer() -> Iam:
    """An owner, and an account that reads every object and signs as itself."""
    iam = Iam.of_one_owner()
    iam.callers.append(_MEMBER)
    iam.grant(Grant("projects/local", "roles/storage.objectViewer", _MEMBER))
    iam.grant(Grant(f"projects/local/serviceAccounts/{SIGNER}", "roles/iam.serviceAccountTokenCreator", _MEMBER))
    return iam


@contextlib.contextmanager
def on_a_machine() -> Iterator[str]:
    """Be on a machine of SIGNER's; yields the address of IAM Credentials."""
    with tempfile.TemporaryDirectory() as folder:
        yield from _on_a_machine(Path(folder))


def _on_a_machine(folder: Path) -> Iterator[str]:
    iam, faults, mint = iam_with_signer(), Faults(), TokenMint(folder)
    metadata = MetadataServer(faults=faults, iam=iam, mint=mint).start()
    credentials = IamCredentials(faults=faults, iam=iam, mint=mint).start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GCE_METADATA_IP", metadata.addresses[_MEMBER])
        patch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
        patch.setenv("CLOUDSDK_CONFIG", str(folder))
        # The library read the variable when it was imported.
        patch.setattr(_metadata, "_GCE_METADATA_HOST", metadata.addresses[_MEMBER])
        # What a gateway changes for the whole process is put back with the rest.
        for name in ("_IAM_ENDPOINT", "_IAM_SIGN_ENDPOINT"):
            patch.setattr(google_iam, name, getattr(google_iam, name))
        try:
            yield credentials.address
        finally:
            credentials.close()
            metadata.close()

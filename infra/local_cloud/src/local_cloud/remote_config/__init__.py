"""Firebase Remote Config v1 (REST), and the fetch that apps do."""

from local_cloud.remote_config.service import RemoteConfig

ABSENT = (
    "parameter values for A/B tests, personalisation and rollouts of the console",
    "server templates (`namespaces/firebase-server`)",
    "remoteConfig:downloadDefaults",
    "sign-in: neither tokens nor API keys are checked",
)

__all__ = ["ABSENT", "RemoteConfig"]

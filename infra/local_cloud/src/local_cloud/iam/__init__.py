"""Who may do what: roles, policies and the judge whom every emulated API asks before it answers."""

from local_cloud.iam.bindings import AGENTS, PROJECT_NUMBER, Bindings, BindingsError, Condition, Grant
from local_cloud.iam.gate import Find, Gate
from local_cloud.iam.judge import CUSTOM_CODE, OWNER, PREDICTOR, VERTEX, ApiIsOff, Iam, Refused, StalePolicy, agent

__all__ = [
    "AGENTS",
    "CUSTOM_CODE",
    "OWNER",
    "PREDICTOR",
    "PROJECT_NUMBER",
    "VERTEX",
    "ApiIsOff",
    "Bindings",
    "BindingsError",
    "Condition",
    "Find",
    "Gate",
    "Grant",
    "Iam",
    "Refused",
    "StalePolicy",
    "agent",
]

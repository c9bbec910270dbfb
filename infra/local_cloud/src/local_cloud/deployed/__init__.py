"""What is deployed in a project, as Google's APIs tell of it: services, triggers, jobs, sinks, accounts, quotas."""

from local_cloud.deployed.server import Deployed
from local_cloud.deployed.state import Project, Revision

#: What Google has and this one has not; COVERAGE.md repeats it.
ABSENT = (
    "everything that changes something: the control API (`PATCH /project`) and the local cloud itself do that",
    "roles that are inherited from folders and organisations",
)

__all__ = ["Deployed", "Project", "Revision"]

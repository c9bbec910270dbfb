"""What there should be: infra/topology.json for one project and region, under the names that Terraform gives."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from doctor.findings import Hint

#: Every API that the chain needs while it runs.
APIS = (
    "aiplatform.googleapis.com",
    "cloudfunctions.googleapis.com",
    "cloudquotas.googleapis.com",
    "cloudresourcemanager.googleapis.com",
    "cloudscheduler.googleapis.com",
    "eventarc.googleapis.com",
    "firebase.googleapis.com",
    "iam.googleapis.com",
    "iamcredentials.googleapis.com",
    "logging.googleapis.com",
    "monitoring.googleapis.com",
    "pubsub.googleapis.com",
    "run.googleapis.com",
    "storage.googleapis.com",
)

#: What some data sets need besides, and the variable of Terraform that turns it on.
OPTIONAL_APIS = {
    "firebaseml.googleapis.com": "firebase_ml",
    "firebaseremoteconfig.googleapis.com": "staged_rollouts",
}

#: The accounts that nobody needs while events flow: who builds and who deploys says so itself, and so does a service
#: that people or apps call.
NOT_IN_THE_CHAIN = frozenset({"dualdeploy-builder", "dualdeploy-releaser", "console", "gateway"})


@dataclasses.dataclass(frozen=True)
class Chain:
    """The parts by their names on Google Cloud. `topology` has the project and the region filled in."""

    project: str
    region: str
    topology: Mapping[str, Any]

    @classmethod
    def load(cls, file: Path, *, project: str, region: str) -> Chain:
        text = file.read_text(encoding="utf-8").replace("${project}", project).replace("${region}", region)
        return cls(project, region, json.loads(text))

    @property
    def deploy(self) -> str:
        """The command that makes everything as it should be."""
        return f"make deploy PROJECT={self.project} REGION={self.region}"

    @property
    def services(self) -> Mapping[str, Any]:
        return self.topology["services"]  # type: ignore[no-any-return]

    @property
    def web_services(self) -> Mapping[str, Any]:
        """Those that no event reaches; each may be off."""
        return self.topology["web_services"]  # type: ignore[no-any-return]

    @property
    def topics(self) -> Mapping[str, Any]:
        return self.topology["topics"]  # type: ignore[no-any-return]

    @property
    def subscriptions(self) -> Mapping[str, Any]:
        return self.topology["subscriptions"]  # type: ignore[no-any-return]

    @property
    def buckets(self) -> Mapping[str, Any]:
        return self.topology["buckets"]  # type: ignore[no-any-return]

    def bucket(self, key: str) -> str:
        return str(self.buckets[key]["name"])

    def triggers(self) -> Iterator[Mapping[str, Any]]:
        """Eventarc triggers, each with the full name of its `bucket`."""
        for bucket in self.buckets.values():
            for trigger in bucket.get("triggers", []):
                yield {**trigger, "bucket": bucket["name"]}

    def notifications(self) -> Iterator[Mapping[str, Any]]:
        """Notification configs of buckets, each with the full name of its `bucket`."""
        for bucket in self.buckets.values():
            for notification in bucket.get("notifications", []):
                yield {**notification, "bucket": bucket["name"]}

    def host(self, service: str) -> str:
        """A service's name on Google Cloud, which has hyphens."""
        return service.replace("_", "-")

    def account(self, name: str) -> str:
        return f"{name}@{self.project}.iam.gserviceaccount.com"

    def caller(self, service: str) -> str:
        """Who delivers a service's events."""
        return self.account(f"{self.host(service)}-caller")

    def accounts(self) -> Iterator[tuple[str, str]]:
        """E-mail addresses, and what the account is for."""
        for service in self.services:
            yield self.account(self.host(service)), f"{service} runs as it"
            yield self.caller(service), f"Pub/Sub and Eventarc call {service} as it"
        yield self.account("trainer"), "training jobs run as it"

    def topic_path(self, topic: str) -> str:
        return f"projects/{self.project}/topics/{topic}"

    def subscription_path(self, subscription: str) -> str:
        return f"projects/{self.project}/subscriptions/{subscription}"

    def hint_of_topic(self, topic: str) -> Hint | None:
        """The completion hint that runs through a topic."""
        if any(each["topic"] == topic for each in self.notifications()):
            return Hint.RESULT
        if any(each["topic"] == topic for each in self.topology["log_sinks"].values()):
            return Hint.LOG
        return Hint.CLOCK if topic == self.topology["schedules"]["tick"]["topic"] else None

    def hint_of_subscription(self, name: str) -> Hint | None:
        """The completion hint that runs through a subscription."""
        subscription = self.subscriptions[name]
        is_heard = subscription.get("service") == "job_notifier"
        return self.hint_of_topic(subscription["topic"]) if is_heard else None

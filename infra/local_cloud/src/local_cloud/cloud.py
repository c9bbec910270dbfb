"""The local cloud: every emulator, wired together as a topology says."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from local_cloud import gcloud, status_page
from local_cloud import topology as topologies
from local_cloud.app_tokens import AppTokens
from local_cloud.cloud_logging import LogSinks
from local_cloud.cloud_logging.sinks import Sink
from local_cloud.control import Control, UnknownService
from local_cloud.credentials import IamCredentials, MetadataServer
from local_cloud.deployed import Deployed, Project, Revision
from local_cloud.eventarc import Eventarc, transport
from local_cloud.faults import Faults
from local_cloud.firebase_ml import FirebaseMl
from local_cloud.iam import CUSTOM_CODE, OWNER, Bindings, Iam, Refused, agent, refusals
from local_cloud.identity import Identity, TokenMint
from local_cloud.monitoring import Monitoring
from local_cloud.monitoring.requests import Requests
from local_cloud.pace import QUICK, REALISTIC
from local_cloud.pubsub import PubSub
from local_cloud.remote_config import RemoteConfig
from local_cloud.scheduler import Scheduler
from local_cloud.storage import Storage
from local_cloud.topology import Subscription, Topology, Trigger
from local_cloud.vertex import AutoMl, Image, Vertex

logger = logging.getLogger(__name__)


class StateInUse(RuntimeError):
    """Another local cloud runs on the same state folder."""


@dataclasses.dataclass(frozen=True)
class Ports:
    """Which ports the owner of the project calls, in the order of `fixed`; 0 is any free one."""

    control: int = 0
    storage: int = 0
    pubsub: int = 0
    vertex: int = 0
    firebase_ml: int = 0
    remote_config: int = 0
    monitoring: int = 0
    deployed: int = 0
    iam_credentials: int = 0
    identity: int = 0
    app_tokens: int = 0

    @classmethod
    def fixed(cls, first: int) -> Ports:
        """The same ports each time: `first` is that of the control address, the others follow."""
        return cls(*range(first, first + len(dataclasses.fields(cls))))


class LocalCloud:
    """One project of Google Cloud on loopback.

    `topology` says what there is and where its code is, `state_dir` holds everything that survives a restart. A
    schedule fires every `clock_seconds`. `realistic` keeps Google's rates and pauses; without it nobody waits ten
    seconds for a retry (`pace`). `bindings` say who may do what (default: the file that the topology names; without
    one everyone may do everything).
    Raises StateInUse where another local cloud holds `state_dir`, OSError where a port is taken, BindingsError for
    bindings that cannot be used.
    """

    def __init__(
        self,
        topology: Topology,
        *,
        state_dir: Path | str,
        ports: Ports = Ports(),  # frozen, and nothing but zeros
        clock_seconds: float = 2.0,
        realistic: bool = False,
        python: str = sys.executable,
        bindings: Bindings | None = None,
    ) -> None:
        self.topology = topology
        self.faults = Faults()
        #: Who may do what; everyone who calls is judged.
        self.iam = Iam.of(topology, bindings or _own_bindings(topology))
        self.services: dict[str, str] = {}
        #: What a service's process tells of itself, by name; whoever runs the services puts it here.
        self.revisions: dict[str, Callable[[], Revision]] = {}
        self.project = Project()
        self._pace = REALISTIC if realistic else QUICK
        #: How often schedules fire: a service is told, because what it waits for it looks at again then.
        self.tick_seconds = clock_seconds
        self._ports = ports
        self._state = Path(state_dir).resolve()
        with contextlib.ExitStack() as parts:
            # What opens a port or a file is closed again when a later one cannot.
            parts.enter_context(_locked(self._state))
            self._build_messages(parts)
            self._build_storage(parts)
            self._build_firebase(parts)
            self._build_vertex(parts, python=python)
            self._build_controls(parts, clock_seconds=clock_seconds)
            self._parts = parts.pop_all()

    def _build_messages(self, parts: contextlib.ExitStack) -> None:
        """Whoever brings events to services, and the identity that they are signed with."""
        self.mint = TokenMint(self._state / "identity")
        self.identity = Identity(self.mint, faults=self.faults, port=self._ports.identity)
        parts.callback(self.identity.close)
        self.app_tokens = AppTokens(
            self.mint, project=self.topology.project, faults=self.faults, port=self._ports.app_tokens
        )
        parts.callback(self.app_tokens.close)
        self.metadata = MetadataServer(faults=self.faults, iam=self.iam, mint=self.mint)
        parts.callback(self.metadata.close)
        self.iam_credentials = IamCredentials(
            faults=self.faults, iam=self.iam, mint=self.mint, port=self._ports.iam_credentials
        )
        parts.callback(self.iam_credentials.close)
        self.pubsub = PubSub(
            faults=self.faults,
            state_dir=self._state / "pubsub",
            mint=self.mint,
            iam=self.iam,
            may_call=self._refusal_of_push,
            port=self._ports.pubsub,
        )
        parts.callback(self.pubsub.close)
        self.eventarc = Eventarc(
            faults=self.faults,
            state_dir=self._state / "eventarc",
            triggers=self.topology.triggers,
            services=self.services,
            publish=functools.partial(self.pubsub.publish, by=agent("Pub/Sub")),
            token=self._token_of_event,
            dead_letter_topic=self._dead_letter_topic(),
            retry_policy=self._pace.event_retries,
            delivery_timeout_seconds=self._pace.event_seconds,
        )
        parts.callback(self.eventarc.close)

    def _build_storage(self, parts: contextlib.ExitStack) -> None:
        self.storage = Storage(
            faults=self.faults,
            state_dir=self._state / "storage",
            publish=functools.partial(self.pubsub.publish, by=agent("Cloud Storage")),
            on_finalize=self._tell_eventarc,
            has_topic=self.pubsub.has_topic,
            signed_by_iam=self.mint.has_signed,
            burst=self._pace.object_burst,
            iam=self.iam,
            port=self._ports.storage,
        )
        parts.callback(self.storage.close)

    def _build_firebase(self, parts: contextlib.ExitStack) -> None:
        self.firebase_ml = FirebaseMl(
            faults=self.faults,
            state_dir=self._state / "firebase_ml",
            storage_address=self.storage.address,
            iam=self.iam,
            port=self._ports.firebase_ml,
        )
        parts.callback(self.firebase_ml.close)
        self.remote_config = RemoteConfig(
            faults=self.faults,
            state_dir=self._state / "remote_config",
            iam=self.iam,
            port=self._ports.remote_config,
        )
        parts.callback(self.remote_config.close)

    def _build_vertex(self, parts: contextlib.ExitStack, *, python: str) -> None:
        """Vertex AI, and Cloud Monitoring, which counts what its model servers answer."""
        served = Requests()
        self.monitoring = Monitoring(
            faults=self.faults,
            project=self.topology.project,
            requests=served,
            waiting=self.pubsub.waiting,
            iam=self.iam,
            port=self._ports.monitoring,
        )
        parts.callback(self.monitoring.close)
        self.sinks = LogSinks(
            [
                Sink(self.topology.local.named(each.name), each.topic, each.filter)
                for each in self.topology.log_sinks.values()
            ],
            publish=self._publish_as("Cloud Logging"),
        )
        self.vertex = Vertex(
            faults=self.faults,
            state_dir=self._state / "vertex",
            project=self.topology.project,
            region=self.topology.region,
            storage_address=self.storage.address,
            environment=self._container_environment,
            images=self._images(),
            automl=self._automl(),
            publish_log=self.sinks.route,
            on_served=served.note,
            quotas=lambda: self.project.quotas,
            has_artifact=self.storage.has_objects,
            python=python,
            iam=self.iam,
            port=self._ports.vertex,
        )
        parts.callback(self.vertex.close)

    def _build_controls(self, parts: contextlib.ExitStack, *, clock_seconds: float) -> None:
        self.scheduler = Scheduler(
            schedules={self.topology.local.named(name): each for name, each in self.topology.schedules.items()},
            publish=self._publish_as("gcp-sa-cloudscheduler"),
            clock_seconds=clock_seconds,
        )
        parts.callback(self.scheduler.close)
        self.deployed = Deployed(
            faults=self.faults,
            topology=self.topology,
            project=self.project,
            iam=self.iam,
            eventarc=self.eventarc,
            scheduler=self.scheduler,
            sinks=self.sinks,
            revision=self.revision,
            port=self._ports.deployed,
        )
        parts.callback(self.deployed.close)
        self.control = Control(
            faults=self.faults,
            project=self.project,
            iam=self.iam,
            environment=self.environment,
            page=functools.partial(status_page.render, self),
            services=self.services,
            register_service=self.register_service,
            token=self.mint.token,
            port=self._ports.control,
        )
        parts.callback(self.control.close)

    def start(self) -> LocalCloud:
        """Start everything; on return every address answers and every bucket, topic and subscription exists."""
        try:
            self.pubsub.start()
            self.provision()
            firebase = (self.firebase_ml, self.remote_config)
            google = (
                self.identity,
                self.app_tokens,
                self.metadata,
                self.iam_credentials,
                self.eventarc,
                self.storage,
                *firebase,
                self.monitoring,
                self.vertex,
            )
            for part in (*google, self.scheduler, self.deployed, self.control):
                part.start()
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Stop everything, child processes too; the state stays. Closing twice is harmless."""
        self._parts.close()

    def __enter__(self) -> LocalCloud:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.close()

    def environment(self, caller: str = OWNER) -> dict[str, str]:
        """The variables that point Google's clients, and the services' settings, at this cloud.

        `caller` (`serviceAccount:…`) is judged as whom whoever uses them; a service account also learns whose it is.
        """
        return {
            "STORAGE_EMULATOR_HOST": f"http://{self.storage.addresses[caller]}",
            "PUBSUB_EMULATOR_HOST": self.pubsub.addresses[caller],
            "VERTEX_EMULATOR_HOST": self.vertex.addresses[caller],
            "FIREBASE_ML_EMULATOR_HOST": self.firebase_ml.addresses[caller],
            "MONITORING_EMULATOR_HOST": self.monitoring.addresses[caller],
            "REMOTE_CONFIG_EMULATOR_HOST": self.remote_config.addresses[caller],
            "IAM_CREDENTIALS_EMULATOR_HOST": self.iam_credentials.address,
            "GOOGLE_CERTS_URL": self.identity.certs_url,
            **self.app_tokens.variables,
            "GOOGLE_APIS_EMULATOR_HOST": self.deployed.addresses[caller],
            "LOCAL_CLOUD_ADDRESS": self.control.address,
            "GOOGLE_CLOUD_PROJECT": self.topology.project,
            "GOOGLE_CLOUD_REGION": self.topology.region,
            **{f"{bucket.key.upper()}_BUCKET": bucket.name for bucket in self.topology.buckets.values()},
            **self._credentials(caller),
            **(self._tools() if caller == OWNER else {}),
        }

    def _tools(self) -> Mapping[str, str]:
        """What people have besides: gcloud and gsutil."""
        project = self.topology.project
        return gcloud.environment(storage=self.storage.address, pubsub=self.pubsub.address, project=project)

    def _credentials(self, caller: str) -> Mapping[str, str]:
        """Where google-auth finds the machine's account, and nothing of whoever is signed in here."""
        if caller not in self.metadata.addresses:
            return {}
        return {
            "GCE_METADATA_HOST": self.metadata.addresses[caller],
            "GCE_METADATA_IP": self.metadata.addresses[caller],
            "GCE_METADATA_DETECT_RETRIES": "1",
            "GOOGLE_APPLICATION_CREDENTIALS": "",
            "CLOUDSDK_CONFIG": os.devnull,
        }

    def register_service(self, name: str, address: str) -> None:
        """Deliver the service's events to `address` ("host:port") from now on.

        Raises UnknownService for a name that the topology does not have.
        """
        if name not in self.topology.services:
            known = ", ".join(sorted(self.topology.services))
            raise UnknownService(f"no service {name!r} in the topology; there are {known}")
        self.services[name] = address
        for subscription in self.topology.subscriptions.values():
            if subscription.service == name:
                self._ensure_subscription(subscription)

    # --- what the topology says ------------------------------------------------------------------------------

    def provision(self) -> None:
        """Make what the topology says where it is missing, and put back what can be changed."""
        topology = self.topology
        for topic in topology.topics:
            self.pubsub.ensure_topic(topology.topic_path(topic))
        for subscription in topology.subscriptions.values():
            self._ensure_subscription(subscription)
        for trigger in topology.triggers:
            # Shown, as on Google Cloud; the events themselves go another way here.
            topic_path, subscription_path = transport(topology.project, topology.region, trigger.name)
            self.pubsub.ensure_topic(topic_path)
            self.pubsub.ensure_subscription(subscription_path, topic=topic_path)
        for bucket in topology.buckets.values():
            self.storage.ensure_bucket(bucket.name, project=topology.project, location=topology.region)
            for notification in bucket.notifications:
                self.storage.ensure_notification(
                    bucket.name,
                    topic=topology.topic_path(notification.topic),
                    event_types=notification.event_types,
                    object_name_prefix=notification.object_name_prefix,
                )

    def _ensure_subscription(self, subscription: Subscription) -> None:
        """Create or update; without a registered service it is a pull subscription, which keeps its messages."""
        address = self.services.get(subscription.service)
        dead_letters = subscription.dead_letter_topic
        self.pubsub.ensure_subscription(
            self.topology.subscription_path(subscription.name),
            topic=self.topology.topic_path(subscription.topic),
            push_endpoint=f"http://{address}{subscription.path}" if address else "",
            oidc_service_account=self.topology.caller_of(subscription.service) if address else "",
            oidc_audience=f"http://{address}" if address else "",
            filter=subscription.filter,
            ack_deadline_seconds=subscription.ack_deadline,
            minimum_backoff=self._pace.backoff(subscription.minimum_backoff),
            maximum_backoff=self._pace.backoff(subscription.maximum_backoff),
            dead_letter_topic=self.topology.topic_path(dead_letters) if dead_letters else "",
            max_delivery_attempts=subscription.max_delivery_attempts,
            message_retention_seconds=subscription.message_retention,
        )

    def _dead_letter_topic(self) -> str:
        """Where Eventarc gives up: the topic that the subscriptions give up to."""
        for subscription in self.topology.subscriptions.values():
            if subscription.dead_letter_topic:
                return self.topology.topic_path(subscription.dead_letter_topic)
        return ""

    def _images(self) -> dict[str, Image]:
        return {name: self._image(image) for name, image in self.topology.images.items()}

    def _image(self, image: topologies.Image) -> Image:
        path = tuple(self.topology.local.root / folder for folder in image.path)
        return Image(folder=self.topology.local.root / image.folder, command=image.command, path=path)

    def _automl(self) -> AutoMl | None:
        named = self.topology.automl
        if named is None:
            return None
        return AutoMl(self._image(named.search), self._image(named.server), named.seconds_per_node_hour)

    def _container_environment(self, account: str) -> dict[str, str]:
        """What an image has installed, a folder has on its path; the addresses are those of the account.

        One that is not of the project gets those of Vertex AI's own. What a Dockerfile sets is set here too:
        nobody asks for the metadata of buckets.
        """
        return {
            **self.environment(account if account in self.iam.callers else CUSTOM_CODE),
            "DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA": "true",
            **self.python_path(),
        }

    def python_path(self) -> Mapping[str, str]:
        """PYTHONPATH of what the local cloud runs: what the topology names, and what this process has."""
        paths = [*map(str, self.topology.local.python_path), os.environ.get("PYTHONPATH", "")]
        return {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}

    # --- what flows between the emulators ----------------------------------------------------------------------

    def _publish_as(self, product: str) -> Callable[[str, bytes, Mapping[str, str]], object]:
        """Publishing as one of Google's own accounts, which is judged as everyone is."""

        def publish(topic: str, data: bytes, attributes: Mapping[str, str]) -> object:
            return self.pubsub.publish(self.topology.topic_path(topic), data, attributes, by=agent(product))

        return publish

    def _tell_eventarc(self, resource: Mapping[str, Any]) -> None:
        """Cloud Storage publishes to a topic that Eventarc made for the trigger; what it may not publish is lost."""
        for trigger in self.eventarc.triggers:
            if trigger.bucket != resource["bucket"]:
                continue
            topic = self.topology.topic_path(f"eventarc-{self.topology.region}-{trigger.name}")
            try:
                self.iam.require(agent("Cloud Storage"), "pubsub.topics.publish", topic)
            except Refused as refused:
                logger.warning("event of gs://%s/%s lost: %s", resource["bucket"], resource["name"], refused)
                return
        self.eventarc.accept(resource)

    def _token_of_event(self, trigger: Trigger, address: str) -> str:
        """What an event is delivered with. Raises Refused where the trigger's account may not deliver it."""
        email = self.topology.caller_of(trigger.service)
        account = f"serviceAccount:{email}"
        self.iam.require(account, "eventarc.events.receiveEvent", f"projects/{self.topology.project}")
        self.iam.require(account, "run.routes.invoke", self._cloud_run_name(trigger.service))
        return self.mint.token(email, f"http://{address}{trigger.path}")

    def _refusal_of_push(self, endpoint: str, email: str) -> str:
        """Why a push would not arrive: Pub/Sub cannot sign as the account, or Cloud Run does not let it in."""
        try:
            if email:
                account = f"projects/{self.topology.project}/serviceAccounts/{email}"
                self.iam.require(agent("Pub/Sub"), "iam.serviceAccounts.getOpenIdToken", account)
            member = f"serviceAccount:{email}" if email else "allUsers"
            called = [name for name, address in self.services.items() if endpoint.startswith(f"http://{address}/")]
            # More than one only where a test has one server for several services.
            if not any(self.iam.allows(member, "run.routes.invoke", self._cloud_run_name(name)) for name in called):
                for name in called:
                    self.iam.require(member, "run.routes.invoke", self._cloud_run_name(name))
        except Refused as refused:
            return f"403: {refusals.of_cloud_run(refused).message}"
        return ""

    def _cloud_run_name(self, service: str) -> str:
        location = f"projects/{self.topology.project}/locations/{self.topology.region}"
        return f"{location}/services/{service.replace('_', '-')}"

    def revision(self, name: str) -> Revision | None:
        """What runs behind a service; of one that was only registered nothing is known but whether it listens."""
        if name in self.revisions:
            return self.revisions[name]()
        if name not in self.services:
            return None
        return Revision(f"http://{self.services[name]}", {}, problem=_silence(self.services[name]))


def _silence(address: str) -> str:
    """Why an address does not listen; empty when it does."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError as exc:
        return f"nothing listens on {address}: {exc}"
    return ""


def load(
    topology_file: Path | str | None,
    *,
    state_dir: Path | str,
    project: str = "",
    region: str = "",
    bindings_file: Path | str | None = None,
    images: Mapping[str, Path] | None = None,
    **settings: Any,
) -> LocalCloud:
    """A local cloud as files say, or an empty project without a topology; `settings` are LocalCloud's own.

    `images` are folders with a Dockerfile, by name, besides those of the topology.
    """
    if topology_file is None:
        topology = Topology.empty(project=project, region=region)
    else:
        topology = topologies.load(Path(topology_file), project=project, region=region)
        topologies.require_folders(topology)
    topology = topologies.with_images(topology, images or {})
    bindings = Bindings.load(Path(bindings_file)) if bindings_file else None
    return LocalCloud(topology, state_dir=state_dir, bindings=bindings, **settings)


def _own_bindings(topology: Topology) -> Bindings | None:
    return Bindings.load(topology.local.bindings) if topology.local.bindings else None


@contextlib.contextmanager
def _locked(folder: Path) -> Any:
    """Hold the state folder alone: two writers of the same databases would deliver everything twice."""
    folder.mkdir(parents=True, exist_ok=True)
    file: IO[str]
    with (folder / "lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateInUse(f"{folder} is in use by another local cloud; stop it or name another folder") from None
        yield

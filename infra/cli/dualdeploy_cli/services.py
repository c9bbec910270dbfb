"""The HTTP interface of cloud_deployer and mobile_publisher (docs/http.md), as people use it."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import urllib.parse
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import click
import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from dualdeploy_cli.exits import Refused, Unreachable
from dualdeploy_cli.session import Session

#: The target of each service that brings models to users.
TARGETS: Mapping[str, str] = {"cloud": "cloud_deployer", "mobile": "mobile_publisher"}
_TIMEOUT = 60


@dataclasses.dataclass(frozen=True)
class Service:
    """`target` is empty where only the address was named. Without `token` it is a local one.

    `backoff` is how many seconds pass before it is asked again.
    """

    target: str
    url: str
    token: str = ""
    backoff: float = 0.5


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a service said: `status` is the HTTP code, 0 where none came."""

    target: str
    url: str
    status: int
    body: Mapping[str, Any]

    @property
    def is_good(self) -> bool:
        return 200 <= self.status < 300

    @property
    def is_refusal(self) -> bool:
        """Whether the service understood and said no; everything else may pass."""
        return 400 <= self.status < 500


def find(session: Session, *, project: str, region: str, urls: Sequence[str], target: str) -> list[Service]:
    """The named services, else those of the project, else those of the local cloud. `target` limits it to one."""
    if urls:
        named = [dataclasses.replace(_named(url), backoff=session.backoff) for url in urls]
        token = "" if all(_is_local(each.url) for each in named) else _identity_token()
        return [each if _is_local(each.url) else dataclasses.replace(each, token=token) for each in named]
    wanted = [target] if target else list(TARGETS)
    if not project:
        project = session.project("")
    local = [Service(each, session.environ.get(f"{TARGETS[each].upper()}_URL", "")) for each in wanted]
    if session.is_local and all(each.url for each in local):
        return local
    return _deployed(project, region, wanted)


def _named(url: str) -> Service:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise click.UsageError(f"--url {url}: give the address of a service, https://…")
    return Service("", url.rstrip("/"))


def _is_local(url: str) -> bool:
    return urllib.parse.urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")


def _deployed(project: str, region: str, wanted: Sequence[str]) -> list[Service]:
    """Everything is deployed in one region, so a list finds it whichever that is."""
    places = [f"--region={region}"] if region else []
    listed = json.loads(_gcloud("run", "services", "list", f"--project={project}", *places, "--format=json") or "[]")
    urls = {each["metadata"]["name"]: each.get("status", {}).get("url", "") for each in listed}
    found = [Service(each, urls.get(TARGETS[each].replace("_", "-"), "")) for each in wanted]
    if missing := [TARGETS[each.target] for each in found if not each.url]:
        raise Refused(f"{' and '.join(missing)} is not deployed in {project}: dualdeploy deploy --project {project}")
    token = _identity_token()
    return [dataclasses.replace(each, token=token) for each in found]


def _identity_token() -> str:
    """Of the person that gcloud is signed in as, whom the history then names."""
    return _gcloud("auth", "print-identity-token")


def _gcloud(*command: str) -> str:
    try:
        done = subprocess.run(
            ["gcloud", *command], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError as missing:
        raise Refused("gcloud is not installed: https://docs.cloud.google.com/sdk/docs/install") from missing
    if done.returncode:
        raise Unreachable(f"gcloud {' '.join(command[:3])} failed: {done.stderr.strip()}\nSign in: gcloud auth login")
    return done.stdout.strip()


def post(service: Service, command: str, body: Mapping[str, Any], *, key: str = "") -> Answer:
    """Send a command. Repeating it is harmless: it carries a key, and the service knows it again."""
    return _ask(service, "POST", command, body=body, headers={"Idempotency-Key": key or str(uuid.uuid4())})


def get(service: Service, path: str) -> Answer:
    return _ask(service, "GET", path)


def _ask(
    service: Service,
    method: str,
    path: str,
    *,
    body: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    authorization = {"Authorization": f"Bearer {service.token}"} if service.token else {}
    # None: also what is sent, see `post`.
    retry = Retry(
        total=3, backoff_factor=service.backoff, status_forcelist=[503], allowed_methods=None, raise_on_status=False
    )
    try:
        with requests.Session() as session:
            session.mount("http://", HTTPAdapter(max_retries=retry))
            session.mount("https://", HTTPAdapter(max_retries=retry))
            url = f"{service.url}/{path}"
            # A service never redirects: a sign-in page does, and must not get the token.
            response = session.request(
                method,
                url,
                json=body,
                headers={**(headers or {}), **authorization},
                timeout=_TIMEOUT,
                allow_redirects=False,
            )
    except requests.RequestException as exc:
        return Answer(service.target, service.url, 0, {"error": f"{service.url} does not answer: {_cause(exc)}"})
    return Answer(service.target, service.url, response.status_code, _body(response, service))


def _cause(error: BaseException) -> str:
    """The last sentence of a chain of errors, which is the one that says something."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return str(error) or type(error).__name__


def _body(response: requests.Response, service: Service) -> Mapping[str, Any]:
    try:
        body = response.json()
    except ValueError:
        body = None
    if isinstance(body, Mapping):
        return body
    hint = {
        401: "the identity token was not taken; sign in: gcloud auth login",
        403: "this account may not call the service: name it in the Terraform variable `operators`",
        404: "this is not a service of Dual Deploy",
    }.get(response.status_code, "the answer is not JSON")
    return {"error": f"{service.url} answers {response.status_code}: {hint}"}

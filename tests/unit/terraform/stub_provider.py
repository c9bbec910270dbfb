"""A stand-in for the Google provider: it knows the schema, plans, applies to a cloud in memory, and reaches nothing.

Terraform itself does all the rest: it parses, evaluates every expression, checks every argument against the schema and
every module against its variables, keeps its state, and imports.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
import plugin_wire
from made_up_cloud import Cloud, Refused
from plugin_wire import MESSAGES, UNKNOWN, pack, unpack

SCHEMA = Path(__file__).with_name("provider_schema.json")
_NESTING = {"list": 2, "set": 3}
#: What is computed and is no text.
_EMPTY: Mapping[str, Any] = {"number": 0, "bool": False, "['map', 'string']": {}}

#: What Google would answer; everything else that is computed is made up.
_KNOWN_DATA = {
    "number": "123456789012",
    "member": "serviceAccount:service-123456789012@gs-project-accounts.iam.gserviceaccount.com",
}


def load_schema() -> Mapping[str, Any]:
    return json.loads(SCHEMA.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


class StubProvider:
    """Serves on loopback while it is entered.

    With `names` it plans computed texts as `<type>/<name>/<attribute>`, so that a plan shows what refers to what;
    without, they are unknown until apply, as they are in life. What is applied is in `cloud`.
    """

    def __init__(self, *, names: bool, cloud: Cloud | None = None) -> None:
        self._names = names
        self.cloud = cloud or Cloud()
        self._schema = load_schema()
        self._server = grpc.server(concurrent.futures.ThreadPoolExecutor(8))
        self._server.add_generic_rpc_handlers((_Handler(self),))
        self._port = self._server.add_insecure_port("127.0.0.1:0")

    def __enter__(self) -> StubProvider:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop(grace=None).wait()

    def environment(self) -> dict[str, str]:
        """Makes Terraform talk to this provider instead of starting one.

        Source: https://developer.hashicorp.com/terraform/plugin/debugging#starting-a-provider-in-debug-mode
        """
        attach = {
            "registry.terraform.io/hashicorp/google": {
                "Protocol": "grpc",
                "ProtocolVersion": 5,
                "Pid": os.getpid(),
                "Test": True,
                "Addr": {"Network": "tcp", "String": f"127.0.0.1:{self._port}"},
            }
        }
        return {"TF_REATTACH_PROVIDERS": json.dumps(attach)}

    # What Terraform asks ---------------------------------------------------------------------------------------

    def get_schema(self, _request: Any) -> Any:
        types = {"project": "string", "region": "string", "billing_project": "string", "user_project_override": "bool"}
        provider = {"attributes": {name: {"type": type_} for name, type_ in types.items()}, "blocks": {}}
        return MESSAGES["Schemas"](
            provider={"block": _block(provider)},
            resource_schemas=[
                {"key": name, "value": {"block": _block(block)}} for name, block in self._schema["resource"].items()
            ],
            data_source_schemas=[
                {"key": name, "value": {"block": _block(block)}} for name, block in self._schema["data"].items()
            ],
        )

    def prepare_provider_config(self, request: Any) -> Any:
        return MESSAGES["PreparedConfig"](prepared_config=request.config)

    def accept(self, _request: Any) -> Any:
        return MESSAGES["Diagnostics"]()

    def plan(self, request: Any) -> Any:
        proposed = unpack(request.proposed_new_state.msgpack)
        if proposed is None:
            return MESSAGES["Planned"](planned_state=request.proposed_new_state)
        name = proposed.get("name") or proposed.get("account_id") or proposed.get("role_id") or ""
        computed = self._computed(request.type_name, str(name), proposed)
        planned = _fill(self._schema["resource"][request.type_name], proposed, computed)
        prior = unpack(request.prior_state.msgpack)
        replaces = self.cloud.replaces(request.type_name, prior, proposed) if prior else []
        return MESSAGES["Planned"](
            planned_state={"msgpack": pack(planned)},
            requires_replace=[{"steps": [{"attribute_name": name}]} for name in replaces],
            legacy_type_system=True,
        )

    def apply(self, request: Any) -> Any:
        prior, planned = unpack(request.prior_state.msgpack), unpack(request.planned_state.msgpack)
        block = self._schema["resource"][request.type_name]
        new = planned and _known(block, planned, functools.partial(self.cloud.answers, request.type_name, planned))
        try:
            self.cloud.change(request.type_name, prior, new)
        except Refused as refused:
            error = {"severity": 1, "summary": str(refused)}
            return MESSAGES["Applied"](new_state=request.prior_state, diagnostics=[error], legacy_type_system=True)
        return MESSAGES["Applied"](new_state={"msgpack": pack(new)}, legacy_type_system=True)

    def read(self, request: Any) -> Any:
        found = self.cloud.find(request.type_name, unpack(request.current_state.msgpack))
        block = self._schema["resource"][request.type_name]
        return MESSAGES["Read"](new_state={"msgpack": pack(found and _of_this_schema(block, found))})

    def import_state(self, request: Any) -> Any:
        found = self.cloud.by_id(request.type_name, request.id)
        if found is None:
            error = {"severity": 1, "summary": f"Cannot import non-existent remote object {request.id}"}
            return MESSAGES["Imported"](diagnostics=[error])
        state = _of_this_schema(self._schema["resource"][request.type_name], found)
        one = {"type_name": request.type_name, "state": {"msgpack": pack(state)}}
        return MESSAGES["Imported"](imported_resources=[one])

    def upgrade(self, request: Any) -> Any:
        block = self._schema["resource"][request.type_name]
        state = _of_this_schema(block, json.loads(request.raw_state.json))
        return MESSAGES["Upgraded"](upgraded_state={"msgpack": pack(state)})

    def read_data(self, request: Any) -> Any:
        config = unpack(request.config.msgpack)
        block = self._schema["data"][request.type_name]
        state = _fill(block, config, lambda attribute, _kind: _KNOWN_DATA.get(attribute))
        return MESSAGES["State"](state={"msgpack": pack(state)})

    def _computed(self, kind: str, name: str, proposed: Mapping[str, Any]) -> Any:
        def value(attribute: str, type_: Any) -> Any:
            if not self._names:
                return UNKNOWN
            if kind == "google_service_account" and attribute in ("email", "member"):
                email = f"{proposed['account_id']}@{proposed['project']}.iam.gserviceaccount.com"
                return email if attribute == "email" else f"serviceAccount:{email}"
            return f"{kind}/{name}/{attribute}" if type_ == "string" else UNKNOWN

        return value


class _Handler(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Maps tfplugin5's methods to the provider's."""

    def __init__(self, provider: StubProvider) -> None:
        self._methods = {
            "/tfplugin5.Provider/GetSchema": ("Empty", provider.get_schema),
            "/tfplugin5.Provider/PrepareProviderConfig": ("Config", provider.prepare_provider_config),
            "/tfplugin5.Provider/Configure": ("Empty", provider.accept),
            "/tfplugin5.Provider/ValidateResourceTypeConfig": ("TypedConfig", provider.accept),
            "/tfplugin5.Provider/ValidateDataSourceConfig": ("TypedConfig", provider.accept),
            "/tfplugin5.Provider/PlanResourceChange": ("ToPlan", provider.plan),
            "/tfplugin5.Provider/ApplyResourceChange": ("ToApply", provider.apply),
            "/tfplugin5.Provider/ReadResource": ("ToRead", provider.read),
            "/tfplugin5.Provider/ImportResourceState": ("ToImport", provider.import_state),
            "/tfplugin5.Provider/UpgradeResourceState": ("ToUpgrade", provider.upgrade),
            "/tfplugin5.Provider/ReadDataSource": ("TypedConfig", provider.read_data),
            "/tfplugin5.Provider/Stop": ("Empty", provider.accept),
        }

    def service(self, details: Any) -> Any:
        if details.method not in self._methods:
            return None
        request, answer = self._methods[details.method]
        return grpc.unary_unary_rpc_method_handler(
            lambda message, _context: answer(message),
            request_deserializer=plugin_wire.MESSAGES[request].FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )


def _block(block: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "attributes": [
            {
                "name": name,
                "type": json.dumps(each["type"]).encode(),
                "required": each.get("required", False),
                "optional": not each.get("required") and not each.get("computed"),
                "computed": _is_computed(name, each),
            }
            for name, each in block["attributes"].items()
        ],
        "block_types": [
            {
                "type_name": name,
                "block": _block(each["block"]),
                "nesting": _NESTING[each["nesting"]],
                "min_items": 1 if each["required"] else 0,
                "max_items": 1 if each["single"] else 0,
            }
            for name, each in block["blocks"].items()
        ],
    }


def _is_computed(name: str, attribute: Mapping[str, Any]) -> bool:
    # `id` may be given nowhere in practice, and is always there afterwards.
    return bool(attribute.get("computed")) or (name == "id" and not attribute.get("required"))


def _fill(block: Mapping[str, Any], value: Mapping[str, Any], computed: Any) -> dict[str, Any]:
    """`value` with whatever is computed and not given."""
    filled = dict(value)
    for name, attribute in block["attributes"].items():
        if filled.get(name) is None and _is_computed(name, attribute):
            filled[name] = computed(name, attribute["type"])
    for name, nested in block["blocks"].items():
        if isinstance(filled.get(name), list):
            filled[name] = [
                _fill(nested["block"], item, computed) if isinstance(item, dict) else item for item in filled[name]
            ]
    return filled


def _known(block: Mapping[str, Any], value: Mapping[str, Any], answers: Callable[[str], str | None]) -> dict[str, Any]:
    """`value` with whatever was unknown until now."""
    known = dict(value)
    for name, attribute in block["attributes"].items():
        if known.get(name) is UNKNOWN:
            known[name] = answers(name) if attribute["type"] == "string" else _EMPTY.get(str(attribute["type"]), [])
        known[name] = _without_unknown(known.get(name))
    for name, nested in block["blocks"].items():
        known[name] = [_known(nested["block"], item, answers) for item in known.get(name) or [] if item is not UNKNOWN]
    return known


def _without_unknown(value: Any) -> Any:
    """A map or list that was given may hold what only an apply could tell."""
    if isinstance(value, dict):
        return {key: _without_unknown(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_unknown(item) for item in value]
    return "made-up" if value is UNKNOWN else value


def _of_this_schema(block: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
    """A stored state in today's schema: what that does not have is dropped, what it has besides is empty."""
    return {
        **{name: state.get(name) for name in block["attributes"]},
        **{
            name: [_of_this_schema(nested["block"], item) for item in state.get(name) or []]
            for name, nested in block["blocks"].items()
        },
    }


class TerraformFailed(Exception):
    """Terraform refused; the message is what it said."""


@dataclasses.dataclass(frozen=True)
class Terraform:
    """The terraform program in one folder, with the stub instead of the provider."""

    folder: Path
    provider: StubProvider

    def __call__(self, *arguments: str) -> str:
        """Run one command; returns its output. Raises TerraformFailed."""
        program = shutil.which("terraform")
        assert program, "whoever calls this looks first whether terraform is installed"
        done = subprocess.run(
            [program, *arguments],
            cwd=self.folder,
            env={**_quiet_environment(), **self.provider.environment()},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if done.returncode != 0:
            raise TerraformFailed(done.stdout + done.stderr)
        return done.stdout

    def plan(self, variables: Mapping[str, Any]) -> Mapping[str, Any]:
        """Initialise, plan from nothing, and return the plan as Terraform describes it in JSON."""
        (self.folder / "terraform.tfvars.json").write_text(json.dumps(variables))
        self("init", "-input=false", "-no-color")
        self("plan", "-input=false", "-no-color", "-lock=false", "-out=plan")
        return json.loads(self("show", "-json", "plan"))  # type: ignore[no-any-return]


def _quiet_environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TF_", "GOOGLE_"))}
    # Somebody's own settings, and a check for a newer version of Terraform, have no place here.
    return {**kept, "TF_CLI_CONFIG_FILE": os.devnull, "CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1"}

"""Every gcloud command and flag that a deployment uses exists in the installed SDK; the fake knows no others."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from shipping import preflight

_SPEC = importlib.util.spec_from_file_location("fake_tools", Path(__file__).with_name("fake_tools.py"))
assert _SPEC
assert _SPEC.loader
fake_tools = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(fake_tools)

#: Printed for people to type, in messages and in docs.
FOR_PEOPLE = {
    "ai endpoints undeploy-model": {"--deployed-model-id", "--region", "--project"},
    "auth login": set(),
    "billing accounts list": set(),
    "billing projects link": {"--billing-account"},
    "projects add-iam-policy-binding": {"--member", "--role"},
    "iam roles undelete": {"--project"},
    "iam service-accounts add-iam-policy-binding": {"--member", "--role"},
    "projects create": set(),
    "run services logs read": {"--region", "--project"},
    "storage buckets update": {"--update-labels"},
    "storage rm": {"--recursive"},
}

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("command", sorted({*fake_tools.GCLOUD, *FOR_PEOPLE}))
def test_gcloud_has_the_command_and_every_flag(command: str) -> None:
    if shutil.which("gcloud") is None:
        pytest.skip("gcloud is not installed here: its flags can only be compared where it is")
    done = subprocess.run(
        ["gcloud", *command.split(), "--help"], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    text = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
    # Those of every command are named once, at the end.
    known = set(re.findall(r"--[a-z-]+", text.replace("--[no-]", "--"))) | {"--format", "--project"}
    assert {*fake_tools.GCLOUD.get(command, ()), *FOR_PEOPLE.get(command, ())} <= known


def test_vertex_ai_is_where_the_installed_sdk_says() -> None:
    found = shutil.which("gcloud")
    if found is None:
        pytest.skip("gcloud is not installed here: its regions can only be compared where it is")
    root = Path(found).resolve().parent.parent
    [constants] = root.rglob("googlecloudsdk/command_lib/ai/constants.py")
    text = constants.read_text(encoding="utf-8")
    trains, serves = (
        set(re.findall(r"'([a-z0-9-]+)'", re.search(rf"^{name} = \((.*?)^\)", text, re.MULTILINE | re.DOTALL)[1]))
        for name in ("SUPPORTED_TRAINING_REGIONS", "SUPPORTED_OP_REGIONS")
    )
    assert trains & serves == preflight.VERTEX_REGIONS


def test_terraform_has_the_commands_that_are_used() -> None:
    if shutil.which("terraform") is None:
        pytest.skip("terraform is not installed here")
    for command, flags in fake_tools.TERRAFORM.items():
        # What `plan` takes, `apply` takes too, and what `apply` takes, `destroy` does.
        also = {"apply": ("plan",), "destroy": ("apply", "plan")}.get(command, ())
        said = "".join(help_of_terraform(each) for each in (command, *also))
        # `apply -json` is documented elsewhere: https://developer.hashicorp.com/terraform/internals/machine-readable-ui
        assert {flag for flag in flags if flag not in said} <= {"-json"}, command


def help_of_terraform(command: str) -> str:
    done = subprocess.run(
        ["terraform", *command.split(), "-help"], capture_output=True, text=True, check=False, timeout=100
    )
    return done.stdout + done.stderr

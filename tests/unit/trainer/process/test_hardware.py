"""Number format and compiler, decided from what the devices say of themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.process.failures import UnusableJob
from trainer.process.hardware import Device, cards, compiled, policy, require_use_of

T4, V100 = Device("GPU", (7, 5)), Device("GPU", (7, 0))
L4, A100, H100 = Device("GPU", (8, 9)), Device("GPU", (8, 0)), Device("GPU", (9, 0))
P100 = Device("GPU", (6, 0))
TPU = Device("TPU")


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        ([], "float32"),
        ([P100], "float32"),
        ([V100], "mixed_float16"),
        ([T4, T4], "mixed_float16"),
        ([A100], "mixed_bfloat16"),
        ([L4, L4, L4, L4], "mixed_bfloat16"),
        ([H100], "mixed_bfloat16"),
        ([T4, A100], "mixed_float16"),
        ([TPU], "mixed_bfloat16"),
        ([Device("GPU")], "float32"),
    ],
)
def test_auto_takes_the_format_that_every_device_is_faster_with(devices: list[Device], expected: str) -> None:
    assert policy("auto", devices) == expected


@pytest.mark.parametrize("wanted", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_a_format_that_was_asked_for_is_taken_whatever_the_device(wanted: str) -> None:
    assert {policy(wanted, devices) for devices in ([], [T4], [A100])} == {wanted}  # type: ignore[arg-type]


@pytest.mark.parametrize(("devices", "expected"), [([], False), ([P100], False), ([T4], True), ([H100], True)])
def test_auto_compiles_for_a_gpu_with_tensor_cores(devices: list[Device], expected: bool) -> None:
    assert compiled("auto", devices, replicas=1) is expected


def test_what_was_asked_for_is_followed_but_not_with_several_replicas(caplog: pytest.LogCaptureFixture) -> None:
    assert compiled("on", [], replicas=1)
    assert not compiled("off", [H100], replicas=1)
    assert not compiled("auto", [H100, H100], replicas=2)
    assert caplog.text == ""
    assert not compiled("on", [H100, H100], replicas=2)
    assert "xla: on is not followed, because 2 replicas" in caplog.text


CARD = [Path("/dev/nvidia0")]


def test_a_gpu_that_tensorflow_cannot_use_ends_the_job_at_once() -> None:
    with pytest.raises(UnusableJob, match="/dev/nvidia0, and TensorFlow sees no GPU: the driver is probably too old"):
        require_use_of(CARD, [])


def test_without_cuda_no_gpu_is_meant_to_be_used() -> None:
    assert cards() == []


@pytest.mark.parametrize(("there", "devices"), [([], []), (CARD, [T4]), ([], [TPU])])
def test_a_machine_is_used_as_it_is(there: list[Path], devices: list[Device]) -> None:
    require_use_of(there, devices)

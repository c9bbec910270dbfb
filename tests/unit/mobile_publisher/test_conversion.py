"""Running the converter: its limits and its ends, with small programs in the place of TensorFlow."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mobile_publisher import conversion
from mobile_publisher.conversion import ConversionFailed, ConversionOutOfMemory, ConversionTimedOut
from support.processes import is_alive

#: Every stand-in is called with the converter's own arguments: sys.argv[1:].
PREAMBLE = "import os, sys, time; from pathlib import Path; option = dict(zip(sys.argv[1::2], sys.argv[2::2])); "
WRITES_A_MODEL = "Path(option['--output']).write_bytes(b'\\x1c\\0\\0\\0TFL3' + bytes(100))"


def program(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", PREAMBLE + code]


@pytest.fixture
def saved_model(tmp_path: Path) -> Path:
    folder = tmp_path / "pixels_model"
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(b"enough for a stand-in")
    return folder


def test_a_conversion_reports_what_it_wrote(saved_model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "model.tflite"
    done = conversion.convert(saved_model, output, variant="float16", converter=program(WRITES_A_MODEL))
    assert done.path == output
    assert done.variant == "float16"
    assert done.bytes == output.stat().st_size == 108
    assert 0 < done.seconds < 60
    assert list(output.parent.iterdir()) == [output]


def test_the_converter_is_told_the_variant_and_the_model(saved_model: Path, tmp_path: Path) -> None:
    code = "Path(option['--output']).write_bytes(b'0000TFL3' + option['--variant'].encode())"
    conversion.convert(saved_model, tmp_path / "a", variant="dynamic", converter=program(code))
    assert (tmp_path / "a").read_bytes() == b"0000TFL3dynamic"


def test_the_converter_is_not_told_what_the_service_knows(
    saved_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIREBASE_KEY_FILE", "/secrets/key.json")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/secrets/key.json")
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "2")
    code = "Path(option['--output']).write_bytes(b'0000TFL3' + repr(dict(os.environ)).encode())"
    conversion.convert(saved_model, tmp_path / "a", variant="dynamic", converter=program(code))
    told = (tmp_path / "a").read_text()
    assert "/secrets/key.json" not in told
    assert "'TF_NUM_INTRAOP_THREADS': '2'" in told
    assert "'PATH'" in told


def test_a_failed_conversion_says_what_the_converter_said_last(saved_model: Path, tmp_path: Path) -> None:
    code = "sys.exit('op FancyActivation is not supported')"
    with pytest.raises(ConversionFailed, match=r"code 1.*FancyActivation"):
        conversion.convert(saved_model, tmp_path / "a", variant="float32", converter=program(code))


def test_a_failed_conversion_leaves_the_former_file_alone(saved_model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "model.tflite"
    output.parent.mkdir()
    output.write_bytes(b"the one before")
    code = WRITES_A_MODEL + "; sys.exit(1)"
    with pytest.raises(ConversionFailed):
        conversion.convert(saved_model, output, variant="float32", converter=program(code))
    assert output.read_bytes() == b"the one before"
    assert list(output.parent.iterdir()) == [output]


@pytest.mark.parametrize("code", ["pass", "Path(option['--output']).write_bytes(b'<html>')"])
def test_a_converter_that_writes_no_model_has_failed(saved_model: Path, tmp_path: Path, code: str) -> None:
    with pytest.raises(ConversionFailed, match="wrote no TFLite file"):
        conversion.convert(saved_model, tmp_path / "a", variant="float32", converter=program(code))


def test_a_conversion_over_its_time_is_ended_with_everything_it_started(saved_model: Path, tmp_path: Path) -> None:
    noted = tmp_path / "grandchild"
    code = (
        "import subprocess; grandchild = subprocess.Popen(['sleep', '60']); "
        f"Path({str(noted)!r}).write_text(str(grandchild.pid)); "
        "print('still optimising', flush=True); time.sleep(60)"
    )
    with pytest.raises(ConversionTimedOut, match=r"after 2 s.*still optimising"):
        conversion.convert(saved_model, tmp_path / "a", variant="float32", timeout=2, converter=program(code))
    assert _is_gone(int(noted.read_text()))


def test_a_conversion_over_its_memory_is_ended(saved_model: Path, tmp_path: Path) -> None:
    code = "hoard = bytearray(os.urandom(1)) * (200 << 20); print('have it', flush=True); time.sleep(60)"
    with pytest.raises(ConversionOutOfMemory, match="more than the 100 MiB"):
        conversion.convert(
            saved_model, tmp_path / "a", variant="float32", memory_bytes=100 << 20, converter=program(code)
        )


def test_a_conversion_within_its_memory_is_not(saved_model: Path, tmp_path: Path) -> None:
    code = "hoard = bytearray(20 << 20); time.sleep(0.2); " + WRITES_A_MODEL
    conversion.convert(saved_model, tmp_path / "a", variant="float32", memory_bytes=200 << 20, converter=program(code))
    assert (tmp_path / "a").is_file()


@pytest.mark.parametrize(
    "code",
    [
        "os.kill(os.getpid(), 9)",
        "sys.stderr.write('terminate called after throwing std::bad_alloc'); os.abort()",
        "raise MemoryError",
    ],
)
def test_a_converter_that_the_system_let_starve_ran_out_of_memory(saved_model: Path, tmp_path: Path, code: str) -> None:
    with pytest.raises(ConversionOutOfMemory):
        conversion.convert(saved_model, tmp_path / "a", variant="float32", converter=program(code))


def test_a_very_talkative_converter_neither_blocks_nor_floods_the_message(saved_model: Path, tmp_path: Path) -> None:
    code = "print('x' * (4 << 20)); sys.exit('the last word')"
    with pytest.raises(ConversionFailed, match=r"the last word$") as caught:
        conversion.convert(saved_model, tmp_path / "a", variant="float32", converter=program(code))
    assert len(str(caught.value)) < 4000


def test_representative_pictures_reach_the_converter_whole(saved_model: Path, tmp_path: Path) -> None:
    pictures = [np.full((4, 4, 3), value, np.float32) for value in (0, 255)]
    code = "import shutil; shutil.copy(option['--representative'], " + repr(str(tmp_path / "seen.npz")) + "); "
    conversion.convert(
        saved_model,
        tmp_path / "a",
        variant="int8",
        representative=pictures,
        converter=program(code + WRITES_A_MODEL),
    )
    with np.load(tmp_path / "seen.npz") as seen:
        np.testing.assert_array_equal(seen["samples"], np.stack(pictures))


def test_int8_without_pictures_is_refused_before_anything_starts(saved_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="representative pictures"):
        conversion.convert(saved_model, tmp_path / "a", variant="int8", converter=program("pass"))


def test_pictures_of_different_sizes_are_refused(saved_model: Path, tmp_path: Path) -> None:
    pictures = [np.zeros((4, 4, 3), np.float32), np.zeros((5, 5, 3), np.float32)]
    with pytest.raises(ValueError, match="of one size"):
        conversion.convert(
            saved_model, tmp_path / "a", variant="int8", representative=pictures, converter=program("pass")
        )


def test_a_folder_that_is_not_a_saved_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConversionFailed, match=r"no saved_model\.pb"):
        conversion.convert(tmp_path / "nothing", tmp_path / "a", variant="float32")


def test_an_unknown_variant_is_refused(saved_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dynamic, float32, float16, int8"):
        conversion.convert(saved_model, tmp_path / "a", variant="int4")  # type: ignore[arg-type]


def test_the_converter_leaves_when_the_service_dies(tmp_path: Path) -> None:
    # The child's own lifeline, without TensorFlow: its function alone, its stdin held by "the service".
    package = str(Path(conversion.__file__).parents[1])
    code = (
        f"import sys, time; sys.path.insert(0, {package!r}); "
        "from mobile_publisher import convert_child; convert_child._leave_when_stdin_ends(); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    try:
        time.sleep(0.3)
        assert child.poll() is None
        assert child.stdin is not None
        child.stdin.close()
        assert child.wait(timeout=10) == 1
    finally:
        child.kill()
        child.wait()


def test_the_memory_of_a_process_that_is_gone_is_zero() -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", "pass"])
    child.wait()
    assert conversion.resident_bytes(child.pid) == 0
    assert conversion.resident_bytes(os.getpid()) > 10 << 20


def _is_gone(pid: int) -> bool:
    """Whether the process ends within a second."""
    for _ in range(20):
        if not is_alive(pid):
            return True
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    return False

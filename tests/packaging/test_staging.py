"""`make package`: self-contained, the same bytes every time, and a clear answer where that is impossible."""

from __future__ import annotations

import re
import shutil
import tomllib
import zipfile
from pathlib import Path

import pytest

from dualdeploy import __file__ as shared_library
from dualdeploy_demo.stack import procfile_command
from shipping import package

REPOSITORY = Path(__file__).resolve().parents[2]
EVENT_SERVICES = ["training_launcher", "job_notifier", "cloud_deployer", "mobile_publisher"]
WEB_SERVICES = ["console", "gateway"]
HTTP_SERVICES = [*EVENT_SERVICES, *WEB_SERVICES]
SERVICES = [*HTTP_SERVICES, "trainer", "predictor"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A copy of what packaging reads, to be changed at will."""
    copy = tmp_path / "repository"
    workspace = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["uv"]["workspace"]
    members = [path for member in workspace["members"] for path in REPOSITORY.glob(f"{member}/pyproject.toml")]
    of_the_workspace = ["pyproject.toml", "uv.lock", *(str(path.relative_to(REPOSITORY)) for path in members)]
    for part in (*of_the_workspace, "shared", "services/job_notifier", "services/Dockerfile", "infra/topology.json"):
        (copy / part).parent.mkdir(parents=True, exist_ok=True)
        source = REPOSITORY / part
        if source.is_dir():
            shutil.copytree(source, copy / part, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        else:
            shutil.copy(source, copy / part)
    return copy


def test_building_twice_gives_identical_bytes(repository: Path, tmp_path: Path) -> None:
    first, digest = package.package("job_notifier", repository=repository, output=tmp_path / "first")
    # Another checkout, made later by somebody with another umask, where the service has already been run.
    other = tmp_path / "elsewhere"
    shutil.copytree(repository, other, copy_function=shutil.copy)
    for path in other.rglob("*.py"):
        path.chmod(0o600)
    for folder in ("services/job_notifier/job_notifier/__pycache__", "shared/src/dualdeploy/__pycache__"):
        (other / folder).mkdir()
        (other / folder / "settings.cpython-311.pyc").write_bytes(b"bytecode")
    second, same_digest = package.package("job_notifier", repository=other, output=tmp_path / "second")
    assert contents(first) == contents(second)
    assert digest == same_digest
    archives = [folder.with_suffix(".zip").read_bytes() for folder in (first, second)]
    assert archives[0] == archives[1]
    assert {path.stat().st_mode & 0o777 for path in second.rglob("*") if path.is_file()} == {0o644}


def test_a_changed_line_of_the_shared_library_changes_the_digest(repository: Path, tmp_path: Path) -> None:
    _, before = package.package("job_notifier", repository=repository, output=tmp_path / "out")
    with (repository / "shared" / "src" / "dualdeploy" / "clock.py").open("a") as module:
        module.write("# changed\n")
    _, after = package.package("job_notifier", repository=repository, output=tmp_path / "out")
    assert before != after


def test_packaging_again_leaves_nothing_of_before(repository: Path, tmp_path: Path) -> None:
    folder, _ = package.package("job_notifier", repository=repository, output=tmp_path / "out")
    (folder / "left_over.py").write_text("")
    package.package("job_notifier", repository=repository, output=tmp_path / "out")
    assert not (folder / "left_over.py").exists()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["job_notifier", "job_notifier.zip"]


def test_an_unknown_service_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(package.NotPackageable, match="job_notifier"):
        package.package("jobnotifier", output=tmp_path)


def test_a_lock_that_lags_behind_is_refused(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What is new is not looked for anywhere.
    monkeypatch.setenv("UV_OFFLINE", "1")
    project = repository / "services" / "job_notifier" / "pyproject.toml"
    project.write_text(project.read_text().replace("dependencies = [", 'dependencies = ["no-such-package-of-ours",'))
    with pytest.raises(package.NotPackageable, match="make lock"):
        package.package("job_notifier", repository=repository, output=tmp_path / "out")


def test_a_missing_lock_is_refused(repository: Path, tmp_path: Path) -> None:
    (repository / "uv.lock").unlink()
    with pytest.raises(package.NotPackageable, match="make lock"):
        package.package("job_notifier", repository=repository, output=tmp_path / "out")


def test_a_base_image_is_taken_by_digest_only(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(package.NotPackageable, match="by digest"):
        package.package("job_notifier", repository=repository, output=tmp_path, base_image="python:3.11-slim")
    pinned = "python:3.11-slim@sha256:" + "0123456789abcdef" * 4
    folder, _ = package.package("job_notifier", repository=repository, output=tmp_path / "out", base_image=pinned)
    bases = re.findall(r"^FROM (\S+)", (folder / "Dockerfile").read_text(), flags=re.MULTILINE)
    assert bases == [pinned, pinned]


@pytest.mark.parametrize("service", SERVICES)
def test_a_staged_service_is_whole_and_holds_nothing_else(service: str, tmp_path: Path) -> None:
    folder, _ = package.package(service, output=tmp_path)
    names = set(contents(folder))
    wheel = next(name for name in names if name.endswith(".whl"))
    entry = {"Procfile", "main.py"} if service in HTTP_SERVICES else set()
    assert {"Dockerfile", "requirements.txt", "dependencies.txt", f"{service}/__init__.py", *entry} <= names
    others = [name for name in SERVICES if name != service]
    assert not [
        name for name in names if "__pycache__" in name or name.split("/")[0] in (*others, "tests", "local_cloud")
    ]
    library = Path(shared_library).parent
    # Its data as well: a table of prices that stayed behind would be missed by the first run only.
    shared = {str(path.relative_to(library)) for kind in ("*.py", "*.json") for path in library.rglob(kind)}
    assert "contracts/prices.json" in shared
    with zipfile.ZipFile(folder / wheel) as archive:
        packed = {name.removeprefix("dualdeploy/") for name in archive.namelist() if name.startswith("dualdeploy/")}
    assert packed == shared


@pytest.mark.parametrize("service", SERVICES)
def test_every_requirement_is_pinned_with_a_hash(service: str, tmp_path: Path) -> None:
    folder, _ = package.package(service, output=tmp_path)
    joined = (folder / "requirements.txt").read_text().replace("\\\n", " ")
    requirements = [line for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert len(requirements) > 10
    assert [line for line in requirements if "--hash=sha256:" not in line] == []
    assert [line for line in requirements if "==" not in line and not line.startswith("./vendor/")] == []


@pytest.mark.parametrize("service", SERVICES)
def test_tensorflow_is_shipped_where_it_is_needed_and_with_cuda_where_it_trains(service: str) -> None:
    lock = package.locked_requirements(service, REPOSITORY)
    builds = set(re.findall(r"^(tensorflow-cpu|nvidia-cudnn|keras)\b", lock, flags=re.MULTILINE))
    on_processors = {"tensorflow-cpu", "keras"}
    wanted = {"trainer": {"nvidia-cudnn", "keras"}, "predictor": on_processors, "mobile_publisher": on_processors}
    assert builds == wanted.get(service, set())


@pytest.mark.parametrize("service", HTTP_SERVICES)
def test_an_image_runs_the_command_of_the_procfile(service: str) -> None:
    command = procfile_command(REPOSITORY / "services" / service / "Procfile")
    assert package.dockerfile(service, REPOSITORY / "services" / service).splitlines()[-1] == f"CMD exec {command}"


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_requires_hashes_compiles_bytecode_and_does_not_run_as_root(service: str) -> None:
    text = package.dockerfile(service, REPOSITORY / "services" / service)
    installs = re.findall(r"pip install (.*)", text)
    assert installs == [
        f"--no-cache-dir --require-hashes --no-deps -r {name}" for name in ("dependencies.txt", "requirements.txt")
    ]
    assert "compileall -q -j 0 /venv/lib" in text
    assert text.index("\nUSER 10001") < text.index("\nENTRYPOINT" if "\nENTRYPOINT" in text else "\nCMD ")
    # A training job serves nothing that could be asked for its health.
    assert ("\nHEALTHCHECK" in text) == (service != "trainer")


def test_the_example_of_an_image_of_ones_own_is_held_to_the_same() -> None:
    folder = REPOSITORY / "infra" / "own_container"
    text = (folder / "Dockerfile").read_text(encoding="utf-8")
    assert re.findall(r"pip install (.*)", text) == ["--no-cache-dir --require-hashes --no-deps -r requirements.txt"]
    assert text.index("\nUSER 10001") < text.index("\nENTRYPOINT")
    assert all((folder / name).exists() for name in re.findall(r"^COPY (\S+) ", text, flags=re.MULTILINE))


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_copies_only_what_is_staged(service: str, tmp_path: Path) -> None:
    folder, _ = package.package(service, output=tmp_path)
    copies = re.findall(
        r"^COPY (?!--from)(\S+) ", package.dockerfile(service, REPOSITORY / "services" / service), flags=re.MULTILINE
    )
    assert copies
    assert [source for source in copies if not (folder / source).exists()] == []


def test_every_image_starts_from_one_base_by_digest() -> None:
    builds = [package.dockerfile(service, REPOSITORY / "services" / service) for service in SERVICES]
    others = ("infra/deploy/cloudbuild.yaml", "infra/own_container/Dockerfile")
    builds += [(REPOSITORY / path).read_text(encoding="utf-8") for path in others]
    bases = {
        base for text in builds for base in re.findall(r"^(?:FROM|    name:) (python:\S+)", text, flags=re.MULTILINE)
    }
    assert len(bases) == 1, bases
    assert re.fullmatch(r"python:3\.11-slim@sha256:[0-9a-f]{64}", bases.pop())

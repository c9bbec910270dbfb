"""`python -m shipping.package SERVICE…`: stage what is shipped, the same bytes every time.

`build/<service>/` holds everything that the service needs and nothing else. `docker build` and `gcloud run deploy
--source` receive this folder; `build/<service>.zip` is the same folder as Cloud Run functions take their source.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]

#: 1980-01-02, one day after the first moment that a zip file can hold, so that no time zone falls before it.
SOURCE_DATE_EPOCH = 315_619_200
_ZIP_DATE = (1980, 1, 2, 0, 0, 0)

#: What lies in a service's folder and is not part of it. What it needs is staged in its own way.
_NOT_SHIPPED = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "tests", "pyproject.toml", "*.md")

#: `python:3.11-slim`, followed by a digest or by the name of a stage.
_BASE_IMAGE = re.compile(r"^FROM python:\S+", flags=re.MULTILINE)
_PROCFILE = re.compile(r"web: (.+)\n")
_BY_DIGEST = re.compile(r"\S+@sha256:[0-9a-f]{64}")


class NotPackageable(Exception):
    """The service cannot be staged; the message says what to do."""


def package(
    service: str, *, repository: Path = REPOSITORY, output: Path | None = None, base_image: str = ""
) -> tuple[Path, str]:
    """Stage one service; returns its folder and the digest of everything in it.

    `output` is the folder that gets `<service>/` (default `build`), `base_image` replaces the Dockerfile's base and
    must name a digest. What was staged before is replaced at the very end. Raises NotPackageable.
    """
    folders = service_folders(repository)
    if service not in folders:
        raise NotPackageable(f"there is no service {service!r}; there are {', '.join(sorted(folders))}")
    if base_image and not _BY_DIGEST.fullmatch(base_image):
        raise NotPackageable(f"base image {base_image!r}: name it by digest, python:3.11-slim@sha256:<64 hex digits>")
    source = repository / folders[service]
    output = output or repository / "build"
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{service}-", dir=output) as scratch:
        stage = Path(scratch, service)
        shutil.copytree(source, stage, ignore=_NOT_SHIPPED)
        (stage / "Dockerfile").write_text(dockerfile(service, source, base_image=base_image), encoding="utf-8")
        wheel = build_wheel(repository / "shared", stage / "vendor")
        _stage_requirements(locked_requirements(service, repository), stage, wheel=wheel)
        _normalise(stage)
        digest = tree_digest(stage)
        archive = write_zip(Path(scratch, f"{service}.zip"), _contents(stage))
        _replace(stage, output / service)
        archive.replace(output / f"{service}.zip")
    return output / service, digest


def service_folders(repository: Path) -> Mapping[str, str]:
    """Every deployable of the topology, services and images alike, and its folder."""
    topology = json.loads((repository / "infra" / "topology.json").read_text(encoding="utf-8"))
    kinds = ("services", "web_services", "images")
    return {name: entry["folder"] for kind in kinds for name, entry in topology[kind].items()}


def dockerfile(service: str, source: Path, *, base_image: str = "") -> str:
    """What the image of a service is built by: its own file, or that of all HTTP services with its name and command."""
    own = source / "Dockerfile"
    if own.is_file():
        text = own.read_text(encoding="utf-8")
    else:
        command = _PROCFILE.fullmatch((source / "Procfile").read_text(encoding="utf-8"))
        if command is None:
            raise NotPackageable(f"services/{service}/Procfile must be one line, web: and the command")
        text = (source.parent / "Dockerfile").read_text(encoding="utf-8")
        text = text.replace("${SERVICE}", service).replace("${COMMAND}", command[1])
    return _BASE_IMAGE.sub(f"FROM {base_image}", text) if base_image else text


def build_wheel(project: Path, output: Path) -> Path:
    """Build the wheel of `project` (a folder with pyproject.toml) into `output`, without fetching anything."""
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="wheel-") as built:
        _uv("build", "--quiet", "--offline", "--wheel", "--out-dir", built, str(project))
        (made,) = Path(built).glob("*.whl")
        with zipfile.ZipFile(made) as wheel:
            files = {name: wheel.read(name) for name in wheel.namelist() if not name.endswith("/")}
            # Compressed bytes depend on the zlib of whoever builds: hence written again, uncompressed.
            return write_zip(output / made.name, files)


def locked_requirements(service: str, repository: Path) -> str:
    """Everything that the image of a service installs but our own, as uv.lock pins it, each with its hashes."""
    options = ["--no-default-groups", "--all-extras", "--no-emit-workspace", "--no-header", "--no-annotate"]
    # Whatever index this machine installs from, the lock names PyPI.
    lock = ["--project", str(repository), "--locked", "--default-index", "https://pypi.org/simple"]
    try:
        return _uv("export", "--quiet", *lock, "--package", service, *options)
    except NotPackageable as exc:
        raise NotPackageable(f"uv.lock does not pin what the pyproject.toml files name: make lock\n{exc}") from exc


def write_zip(path: Path, contents: Mapping[str, bytes]) -> Path:
    """A zip file that depends on names and bytes only: sorted, uncompressed, one date, one mode."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in sorted(contents.items()):
            entry = zipfile.ZipInfo(name, date_time=_ZIP_DATE)
            entry.external_attr = 0o100644 << 16
            entry.create_system = 3  # Unix, wherever this runs
            archive.writestr(entry, data)
    return path


def tree_digest(folder: Path) -> str:
    """SHA-256 over the names and the bytes of every file: equal digests mean that nothing has to be deployed."""
    digest = hashlib.sha256()
    for name, data in sorted(_contents(folder).items()):
        digest.update(f"{name}\0{hashlib.sha256(data).hexdigest()}\n".encode())
    return digest.hexdigest()


def _uv(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "uv", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NotPackageable(f"uv {arguments[0]}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def _stage_requirements(locked: str, stage: Path, *, wheel: Path) -> None:
    """dependencies.txt is what is locked; requirements.txt is that and our own wheel, every line with its hash.

    Two files, because an image installs the first in a layer of its own: gigabytes that a change of ours leaves alone.
    One of them complete, because a function's build reads requirements.txt only.
    """
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (stage / "dependencies.txt").write_text(locked, encoding="utf-8")
    ours = f"./vendor/{wheel.name} --hash=sha256:{sha256}\n"
    (stage / "requirements.txt").write_text(locked + ours, encoding="utf-8")


def _contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _normalise(folder: Path) -> None:
    """Same modes and times on every machine, whatever the umask and the checkout were."""
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (SOURCE_DATE_EPOCH, SOURCE_DATE_EPOCH))


def _replace(stage: Path, target: Path) -> None:
    """Put `stage` where `target` is; whoever is interrupted in between packages again."""
    if target.exists():
        shutil.rmtree(target)
    stage.replace(target)


def main(argv: Sequence[str] | None = None) -> int:
    """Stage the services named on the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="shipping.package", description="Stage what is shipped into build/<service>/."
    )
    parser.add_argument("services", nargs="*", metavar="SERVICE", help="which ones; none means all")
    parser.add_argument("--output", type=Path, default=None, help="folder that gets <service>/ (default: build)")
    parser.add_argument(
        "--base-image",
        default=os.environ.get("BASE_IMAGE", ""),
        help="base of the images by digest, python:3.11-slim@sha256:… (or BASE_IMAGE; default: the tag)",
    )
    options = parser.parse_args(argv)
    try:
        for service in options.services or sorted(service_folders(REPOSITORY)):
            folder, digest = package(service, output=options.output, base_image=options.base_image)
            print(f"{folder}  sha256:{digest}")
    except NotPackageable as exc:
        print(f"shipping.package: {exc}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Every command: its help teaches, wrong arguments end with 2, data can be had as JSON, the Makefile calls it."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from dualdeploy.errors import CannotEverSucceed, CredentialsUnavailable, RetryLater
from dualdeploy_cli import exits, program
from dualdeploy_cli.exits import explained
from support.command_line import call, invoke, session

REPOSITORY = Path(__file__).resolve().parents[3]
COMMANDS = program.program.commands
#: What is missing or wrong, for each command that can be called wrongly; the others take no argument.
WRONG = {
    "demo": ["--data", "/nowhere"],
    "demo-data": ["--data", "/nowhere"],
    "up": ["--image", "tulips=/nowhere"],
    "shards": [],
    "validate": ["/nowhere"],
    "check-module": ["--classes", "1", "net.py"],
    "runs": ["--most", "0"],
    "run": [],
    "status": ["Flowers"],
    "predict": ["flowers"],
    "retrain": ["../flowers"],
    "redeploy": ["flowers", "--run", "flowers-0123456789ab"],
    "rollback": [],
    "abort": ["flowers", "--url", "cloud-deployer"],
    "hold": ["flowers", "--target", "both"],
    "resume": ["flowers", "roses"],
    "retire": ["--confirm"],
    "completion": ["tcsh"],
}
#: They print a script, not data.
WITHOUT_JSON = {"completion"}


def parsed(words: list[str]) -> click.Context:
    """The context of a command line of the program; raises UsageError where that does not exist."""
    name, *arguments = words
    with click.Context(program.program) as parent:
        return COMMANDS[name].make_context(name, arguments, parent=parent)


def examples(command: click.Command) -> list[str]:
    """The command lines below Example in the help."""
    _, _, below = (command.help or "").partition("Example")
    return [line.strip() for line in below.splitlines() if "dualdeploy" in line]


def test_every_command_that_the_issue_names_is_there_and_in_one_section() -> None:
    wanted = (
        "demo up down runs run status retrain redeploy rollback abort hold resume retire replay validate shards "
        "predict firebase-migrate doctor deploy plan destroy"
    )
    shown = [each.name for commands in program.SECTIONS.values() for each in commands]
    assert set(wanted.split()) <= set(COMMANDS)
    assert sorted(shown) == sorted(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_it_does_and_each_example_in_it_can_be_typed(name: str) -> None:
    command = COMMANDS[name]
    code, text = invoke(name, "--help", width=80)
    assert code == exits.OK
    assert max(map(len, text.splitlines())) <= 80
    assert len(command.get_short_help_str(limit=200)) > 10
    for option in command.params:
        assert not isinstance(option, click.Option) or option.help, option
    shown = examples(command)
    assert shown
    for line in shown:
        words = shlex.split(re.split(r"  +| #| \|| >|\)", line.partition("dualdeploy ")[2])[0], comments=True)
        words = [word for word in words if word != "&&"]
        context = parsed(
            [word.replace("my/shards", ".").replace("rose.jpg", __file__) for word in words if "*" not in word]
            + [__file__ for word in words if "*" in word]
        )
        assert context.command is command


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_command_line_ends_with_2_and_a_hint(name: str) -> None:
    result = call(name, *WRONG[name])
    assert (result.exit_code, result.stdout) == (exits.USAGE, "")
    assert "Error: " in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_option_is_told_with_2(name: str) -> None:
    code, text = invoke(name, "--no-such-option")
    assert (code, "No such option" in text) == (exits.USAGE, True)


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - WITHOUT_JSON))
def test_data_can_be_had_as_json(name: str) -> None:
    assert "as_json" in {option.name for option in COMMANDS[name].params}


# Errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (CannotEverSucceed("the document is broken"), exits.REFUSED, "the document is broken"),
        (RetryLater("the ledger is busy"), exits.UNREACHABLE, "the ledger is busy\nThe same command may work"),
        (CredentialsUnavailable("no file"), exits.UNREACHABLE, "gcloud auth application-default login"),
        (FileNotFoundError(2, "No such file or directory", "labels.txt"), exits.REFUSED, "labels.txt: No such file"),
        (KeyError("dataset"), exits.BUG, "a fault of this program: KeyError: 'dataset'"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_an_error_has_a_code_and_a_sentence(error: Exception, code: int, says: str) -> None:
    told = explained(error)
    assert (told.exit_code, says in told.message) == (code, True)


def test_an_error_of_a_command_ends_the_program_without_a_trace() -> None:
    given = session()

    def broken(_name: str) -> None:
        raise KeyError("a fault")

    given.bucket = broken  # type: ignore[assignment]
    given.environ = {"GOOGLE_CLOUD_PROJECT": "demo"}
    result = call("runs", given=given)
    assert (result.exit_code, result.stdout) == (exits.BUG, "")
    assert "DUALDEPLOY_DEBUG=1" in result.stderr


def test_the_table_of_exit_codes_is_documented() -> None:
    page = (REPOSITORY / "docs" / "cli.md").read_text(encoding="utf-8")
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    assert documented == {exits.OK, exits.REFUSED, exits.USAGE, exits.UNREACHABLE, exits.BUG, exits.STOPPED}


def test_the_page_lists_every_command_with_the_first_sentence_of_its_help() -> None:
    page = (REPOSITORY / "docs" / "cli.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([a-z-]+)` \| (.*) \|$", page, re.MULTILINE)
    assert listed == [
        (each.name, each.get_short_help_str(limit=300)) for commands in program.SECTIONS.values() for each in commands
    ]


def test_completion_knows_commands_and_options() -> None:
    for shell in ("bash", "zsh", "fish"):
        code, script = invoke("completion", shell)
        assert (code, "_DUALDEPLOY_COMPLETE" in script) == (exits.OK, True)
    complete = ShellComplete(program.program, {}, "dualdeploy", "_DUALDEPLOY_COMPLETE")
    assert "rollback" in {item.value for item in complete.get_completions([], "ro")}
    assert "--to-run" in {item.value for item in complete.get_completions(["rollback"], "--to")}


# The Makefile ------------------------------------------------------------------------------------------------------

#: A value for every variable that a target may be given, with a quote and a dollar where people write sentences.
VARIABLES = {
    "DATA": ".", "YAML": __file__, "LABELS": "a,b", "REALISTIC": "1", "IMAGES": "photos", "OUT": "made",
    "TO": "gs://data/flowers", "DATASET": "flowers", "SHARDS": "3", "MAX_BAD": "0.2", "CONFIG": "config",
    "TO_RUN": "flowers-0123456789ab", "REASON": "it's a $PATH of $5", "URL": "http://localhost:1",
    "PROJECT": "my-project", "REGION": "europe-west4", "ID": "flowers-0123456789ab", "ALL": "1", "JSON": "1",
    "BUCKET": "phones", "SERVICE": "cloud_deployer", "FILE": "net.py", "CLASSES": "3", "SIZE": "96", "TARGET": "cloud",
    "CLOUD": "keras:ResNet50V2", "MOBILE": "net.py",
    "METHOD": "automl", "IMAGE": "tulips=.",
}  # fmt: skip
TARGETS = sorted(set(COMMANDS) & set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)))


@pytest.fixture(scope="module")
def dry() -> dict[str, str]:
    """What `make -n` prints for each target, without variables and with all of them."""

    def make(*variables: str) -> dict[str, str]:
        # One make for all targets: each prints the line of its own.
        command = ["make", "--dry-run", "--silent", "--old-file=.venv/.installed", *TARGETS, *variables]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
        lines = re.findall(r"^\S*bin/dualdeploy (.*)$", done.stdout.replace("\\\n", " "), re.MULTILINE)
        return {line.split()[0]: line for line in lines}

    bare, full = make(), make(*(f"{key}={value}" for key, value in VARIABLES.items()))
    return {**{f"{name} bare": line for name, line in bare.items()}, **{f"{name} full": full[name] for name in full}}


@pytest.mark.parametrize("target", TARGETS)
def test_each_target_calls_the_command_of_its_name_with_options_that_exist(target: str, dry: dict[str, str]) -> None:
    words = shlex.split(dry[f"{target} full"])
    context = parsed(words)
    given = {key: value for key, value in context.params.items() if value}
    assert given, "a target with all of its variables gives something"
    if "reason" in context.params:
        assert context.params["reason"] == VARIABLES["REASON"]
    # What people leave away is not given as an empty value.
    assert "''" not in dry[f"{target} bare"]


def test_every_variable_of_the_help_text_is_passed_on(dry: dict[str, str]) -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for target in TARGETS:
        described = re.search(rf"^{target}:.*## (.*)$", makefile, re.MULTILINE)
        assert described
        for variable in set(re.findall(r"\b([A-Z_]+)=", described[1])) - {"DATA"}:
            value = {"ALL": "--all", "JSON": "--json", "REALISTIC": "--realistic"}.get(variable, VARIABLES[variable])
            assert value in " ".join(shlex.split(dry[f"{target} full"])), (target, variable)

"""What the simulator's page is given, and what it may ask this service for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import console.service
from support.console_world import NEW, OWN, World
from support.phone_world import with_held_out_pictures

PAGE = "/datasets/flowers/simulator"


def page_of(world: World) -> str:
    answer = world.client.get(PAGE)
    assert answer.status_code == 200
    return str(answer.get_data(as_text=True))


@pytest.fixture
def complete(live: World, tmp_path: Path) -> World:
    """A console with LiteRT.js and held-out pictures."""
    (tmp_path / "litert").mkdir()
    (tmp_path / "litert" / "index.js").write_text("export {};")
    (tmp_path / "litert" / "litert_wasm_internal.wasm").write_bytes(b"\0asm" + bytes(1000))
    for name in ("simulator.js", "console.css"):
        (tmp_path / name).write_text("")
    live.folder = tmp_path
    live.serve("mobile", NEW)
    with_held_out_pictures(live)
    return live


def test_the_page_has_held_out_pictures_of_each_class_by_turns(complete: World) -> None:
    page = page_of(complete)
    assert re.findall(r'data-label="([^"]+)"', page) == ["red", "green", "blue", "red"]
    addresses = re.findall(r'<img src="([^"]+)"', page)
    assert addresses == [f"/runs/{NEW}/pictures/{number}" for number in range(4)]
    shown = complete.client.get(addresses[0])
    assert (shown.status_code, shown.mimetype) == (200, "image/png")
    assert shown.get_data().startswith(b"\x89PNG")
    assert complete.client.get(f"/runs/{NEW}/pictures/4").status_code == 404


@pytest.mark.parametrize("path", ["/runs/x..y/pictures/0", "/runs/flowers-000000000000/pictures/0"])
def test_a_picture_of_what_is_not_a_run_is_not_there(path: str, complete: World) -> None:
    assert complete.client.get(path).status_code == 404


@pytest.mark.parametrize("golden", [None, b"{", b'{"examples": [{}]}', b'{"examples": 3}', b'{"examples": []}'])
def test_a_golden_set_that_is_gone_or_broken_leaves_a_page_for_photos_of_ones_own(
    golden: bytes | None, complete: World
) -> None:
    name = f"runs/{NEW}/mobile/golden.json"
    generation = complete.models.read(name).generation
    if golden is None:
        complete.models.delete(name, expect=generation)
    else:
        complete.models.put(name, golden, expect=generation)
    assert "There are no held-out pictures" in page_of(complete)


def test_without_litert_the_page_says_which_command_fetches_it(complete: World) -> None:
    (complete.folder / "litert" / "index.js").unlink()  # type: ignore[operator]  # it has a folder
    page = page_of(complete)
    assert "make simulator" in page
    assert "<script" not in page


def test_before_a_file_is_published_the_page_says_so(complete: World) -> None:
    complete.serve("mobile", NEW, current=None)
    page = page_of(complete)
    assert "Nothing is published for phones yet" in page
    assert "<script" not in page


def test_without_a_gateway_the_page_says_what_is_not_set_and_the_cloud_is_not_asked(complete: World) -> None:
    page = page_of(complete)
    assert "GATEWAY_URL, APP_CHECK_APP, APP_CHECK_DEBUG_TOKEN are not set" in page
    assert 'data-cloud="missing"' in page
    answer = complete.client.post("/predict/flowers", data=b"x", headers=OWN)
    assert (answer.status_code, answer.get_json()["reason"]) == (404, "console")


def test_only_the_simulator_may_compile_webassembly_and_no_page_may_run_text(complete: World) -> None:
    policy = complete.client.get(PAGE).headers["Content-Security-Policy"]
    assert "script-src 'self' 'wasm-unsafe-eval';" in policy
    assert "'unsafe-" not in policy
    assert "connect-src 'self';" in policy
    assert "wasm" not in complete.client.get("/datasets/flowers").headers["Content-Security-Policy"]


def test_files_of_one_version_are_kept_for_ever_and_of_another_not_at_all(complete: World) -> None:
    client = complete.client
    (folder,) = re.findall(r'data-litert="([^"]+)"', page_of(complete))
    with client.get(f"{folder}litert_wasm_internal.wasm") as wasm:
        assert wasm.mimetype == "application/wasm"
        assert wasm.headers["Content-Encoding"] == "gzip"
        assert len(wasm.get_data()) < 1000
        assert "immutable" in wasm.headers["Cache-Control"]
    with client.get("/static/0123456789abcdef/litert/index.js") as older:
        assert (older.status_code, older.headers["Cache-Control"]) == (200, "no-store")
    for path in ("/static/x/no.js", "/static/x/../main.py", "/static/x/litert"):
        assert client.get(path).status_code == 404


def test_the_client_for_apps_is_among_the_files_that_are_served(live: World) -> None:
    served = Path(console.service.__file__).with_name("static") / "client"
    sources = Path(__file__).resolve().parents[3] / "shared" / "js" / "src"
    assert served.resolve() == sources
    page = live.client.get("/datasets/flowers").get_data(as_text=True)
    (folder,) = re.findall(r'src="(/static/[^"]+/)live.js"', page)
    with live.client.get(f"{folder}client/router.js") as router:
        assert router.status_code == 200
        assert "javascript" in router.mimetype


@pytest.mark.parametrize(
    "path", ["/v0/b/ledger/o/models/x/latest.json", "/v0/b/mobile/o/other/latest.json", "/v0/b/mobile/o/model"]
)
def test_nothing_but_what_phones_get_is_passed_on(path: str, live: World) -> None:
    assert live.client.get(path).status_code == 404


def test_a_page_of_another_site_cannot_ask_the_cloud_model(live: World) -> None:
    headers: Any = {"Sec-Fetch-Site": "cross-site"}
    assert live.client.post("/predict/flowers", data=b"x", headers=headers).status_code == 403


def test_what_is_too_large_for_the_gateway_is_not_passed_on(live: World) -> None:
    assert live.client.post("/predict/flowers", data=bytes(1_000_001), headers=OWN).status_code == 413

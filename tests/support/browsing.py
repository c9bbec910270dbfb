"""What tests in a real browser look for on every page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

#: A window as a phone has it.
PHONE = {"viewport": {"width": 390, "height": 800}, "device_scale_factor": 2}
#: Pictures of the docs, which these tests make.
IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"


def faults(visit: Any) -> list[str]:
    """What axe-core finds that keeps people from using the page."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(visit.page).response["violations"]
    return [
        f"{each['id']}: {each['nodes'][0]['html'][:120]}" for each in found if each["impact"] in ("serious", "critical")
    ]


def is_wider_than_the_window(visit: Any) -> bool:
    return bool(visit.page.evaluate("document.scrollingElement.scrollWidth > window.innerWidth"))

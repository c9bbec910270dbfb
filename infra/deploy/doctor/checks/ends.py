"""What Google, or Python, has announced to end: with the dates that Terraform's alerts have, from the topology."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator, Mapping
from typing import Any

from doctor.checks import buckets, services
from doctor.examination import Check, Look
from doctor.findings import Finding, Place
from doctor.reads import NotThere

_FIREBASE, _CHANNEL = "firebase_ml_hosting", "firebase-ml"


def checks(look: Look) -> Iterator[Check]:
    for name, end in look.chain.topology["ends"].items():
        if name != _FIREBASE:
            about = name.replace("_", " ")
            base = f"BASE_IMAGE=python:3.13-slim@sha256:… make package   then: {look.chain.deploy}"
            yield _end(look, Check(Place.IMAGE, about, list), end, base)
    images = Check(Place.IMAGE, "images in use", lambda: _images(look, images))
    yield images
    firebase = Check(Place.FIREBASE, "model hosting", lambda: _firebase(look, firebase))
    yield firebase


def _end(look: Look, named: Check, end: Mapping[str, Any], remedy: str) -> Check:
    return Check(named.place, named.about, lambda: [_judged(look, named, end, remedy)])


def _judged(look: Look, check: Check, end: Mapping[str, Any], remedy: str) -> Finding:
    today, day = look.now.date(), datetime.date.fromisoformat(end["ends"])
    if today >= day:
        return check.broken(end["text"], remedy)
    left = f"{(day - today).days} days are left, until {end['ends']}"
    if today >= datetime.date.fromisoformat(end["warn_from"][:10]):
        return check.warning(f"{end['text']} {left}", remedy)
    return check.ok(left)


def _firebase(look: Look, check: Check) -> Iterator[Finding]:
    end = look.chain.topology["ends"][_FIREBASE]
    names = [each.dataset for each in buckets.usable(look) if _CHANNEL in each.publishing.channels]
    if not names:
        yield check.ok(f"no data set publishes through {_CHANNEL}")
        return
    found = _judged(look, check, end, f"make firebase-migrate PROJECT={look.chain.project}   (docs/phones.md)")
    yield check.finding(
        found.state, f"{found.says}. {', '.join(names)} publish through it".replace("..", "."), found.remedy
    )


# Images --------------------------------------------------------------------------------------------------------


def _images(look: Look, check: Check) -> Iterator[Finding]:
    used = [*_configured(look), *_deployed(look)]
    is_fine = True
    for where, image in used:
        for end in look.chain.topology["image_ends"]:
            if end["image"] in image:
                found = _judged(look, check, end, f"{look.chain.deploy}   then: make redeploy DATASET=… URL=…")
                is_fine = False
                yield check.finding(found.state, f"{where} uses {image}. {found.says}", found.remedy)
    if is_fine:
        yield check.ok(f"{len({image for _, image in used})}, none of them Google's prebuilt ones")


def _configured(look: Look) -> Iterator[tuple[str, str]]:
    """The images that services are told to train and serve with."""
    for service in look.chain.services:
        with contextlib.suppress(NotThere):
            given = services.variables(services.running(look, service))
            for image in look.chain.topology["images"]:
                if value := given.get(f"{image.upper()}_IMAGE"):
                    yield f"{service}'s {image.upper()}_IMAGE", value


def _deployed(look: Look) -> Iterator[tuple[str, str]]:
    """The images of models that endpoints serve."""
    api, where = f"{look.chain.region}-aiplatform", f"/v1/projects/{look.chain.project}/locations/{look.chain.region}"
    for endpoint in look.google.pages(api, f"{where}/endpoints", "endpoints", needs="aiplatform.endpoints.list"):
        for deployed in endpoint.get("deployedModels", []):
            version = f"@{deployed['modelVersionId']}" if deployed.get("modelVersionId") else ""
            name = deployed["model"].partition("@")[0] + version
            with contextlib.suppress(NotThere):
                model = look.google.get(api, f"/v1/{name}", needs="aiplatform.models.get")
                image = model.get("containerSpec", {}).get("imageUri", "")
                yield f"endpoint {endpoint['name'].rsplit('/', 1)[-1]}", image

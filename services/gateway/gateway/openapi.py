"""What gateway answers, as OpenAPI 3.1: for people, generated clients, and tests that send odd requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dualdeploy.contracts.dataset_name import DATASET_NAME

_ERROR = {
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["error", "reason"],
                "properties": {"error": {"type": "string"}, "reason": {"type": "string"}},
            }
        }
    }
}
_RETRY_AFTER = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}

_PREDICTION = {
    "type": "object",
    "required": ["label", "confidence", "run", "modelVersion"],
    "properties": {
        "label": {"type": "string"},
        "confidence": {"type": "number", "minimum": 0, "maximum": 1},
        "probabilities": {"type": "object", "additionalProperties": {"type": "number"}},
        "run": {"type": "string", "description": "the run that trained the model which answered"},
        "modelVersion": {"type": "string", "description": "its version in the Model Registry"},
    },
}

#: What the app's own model said, for the log: header → what it means.
PHONE_HEADERS: Mapping[str, str] = {
    "X-Phone-Label": "the label that the phone's model gave, percent-encoded UTF-8",
    "X-Phone-Confidence": "its probability, 0 to 1",
    "X-Phone-Version": "the version of the phone's model",
    "X-Phone-Kept": "how many answers of the phone were kept, without asking, since the cloud answered last",
}


def _answer(text: str, *, waits: bool = False) -> dict[str, Any]:
    return {"description": text, **_ERROR, **({"headers": _RETRY_AFTER} if waits else {})}


def describe(service: str) -> dict[str, Any]:
    """The document that GET /openapi.json answers."""
    headers = [
        {
            "name": name,
            "in": "header",
            "required": False,
            "description": text,
            "schema": {"type": "string", "maxLength": 200},
        }
        for name, text in PHONE_HEADERS.items()
    ]
    picture = {"schema": {"type": "string", "format": "binary", "contentMediaType": "application/octet-stream"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": f"Dual Deploy: {service}", "version": "1"},
        "paths": {
            "/predict/{dataset}": {
                "post": {
                    "operationId": "predict",
                    "summary": "What the cloud model says of one picture",
                    "parameters": [
                        {
                            "name": "dataset",
                            "in": "path",
                            "required": True,
                            "schema": {"type": "string", "pattern": f"^{DATASET_NAME.pattern}$"},
                        },
                        *headers,
                    ],
                    "security": [{"appCheck": []}, {"appCheck": [], "user": []}],
                    "requestBody": {
                        "required": True,
                        "content": {"image/png": picture, "image/jpeg": picture},
                    },
                    "responses": {
                        "200": {
                            "description": "the answer",
                            "content": {"application/json": {"schema": _PREDICTION}},
                        },
                        "400": _answer("not a picture that the model can take"),
                        "401": _answer("a token is missing or not valid"),
                        "403": _answer("the app is not one of those that may ask"),
                        "404": _answer("not the name of a data set"),
                        "413": _answer("more than 1 MB"),
                        "415": _answer("a compressed body"),
                        "429": _answer("over a quota", waits=True),
                        "503": _answer("nothing serves, or it does not answer", waits=True),
                        "504": _answer("not answered in time", waits=True),
                    },
                }
            },
            "/healthz": {
                "get": {
                    "operationId": "health",
                    "responses": {"200": {"description": "ok"}, "503": _answer("this process cannot do its work")},
                }
            },
        },
        "components": {
            "securitySchemes": {
                "appCheck": {"type": "apiKey", "in": "header", "name": "X-Firebase-AppCheck"},
                "user": {"type": "http", "scheme": "bearer", "bearerFormat": "ID token of Firebase Auth"},
            }
        },
    }

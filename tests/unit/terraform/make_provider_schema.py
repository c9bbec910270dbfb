"""`python make_provider_schema.py LIB OUTPUT`: the part of the Google provider's schema that infra/terraform uses.

`terraform providers schema` needs the provider, which is not everywhere to be had. HashiCorp published the same facts
as bindings on PyPI (cdktf-cdktf-provider-google): LIB is the folder `package/lib` of the archive inside that wheel.
Only names and types are taken. Run again when infra/terraform uses a resource that provider_schema.json does not have.

The last bindings are of 6.50.0; what 7.0 changed in the resources that we use is applied, from its upgrade guide:
https://registry.terraform.io/providers/hashicorp/google/latest/docs/guides/version_7_upgrade
8.0 changed nothing that we use, and `make schema` compares with the bindings of 8.x that Pulumi still publishes.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TERRAFORM = Path(__file__).resolve().parents[3] / "infra" / "terraform"

_TYPES: Mapping[str, Any] = {
    "string": "string",
    "number": "number",
    "boolean": "bool",
    "stringList": ["list", "string"],
    "stringMap": ["map", "string"],
    "numberList": ["list", "number"],
    "booleanMap": ["map", "bool"],
}
_READ_TYPES: Mapping[str, Any] = {
    "String": "string",
    "Number": "number",
    "Boolean": "bool",
    "StringMap": ["map", "string"],
    "List": ["list", "string"],
    "NumberList": ["list", "number"],
}
_ATTRIBUTE = re.compile(
    r"^ {12}(?P<name>\w+): \{\n\s+value: (?P<value>.*?),\n\s+isBlock: (?P<block>\w+),\n\s+type: \"(?P<type>\w+)\",\n"
    r"\s+storageClassType: \"(?P<storage>\w+)\"",
    flags=re.MULTILINE | re.DOTALL,
)
_COMPUTED = re.compile(r"get(String|Number|Boolean|StringMap|List|NumberList)Attribute\('(\w+)'\)")


def used() -> Mapping[str, list[str]]:
    """The types that our configuration declares."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(TERRAFORM.rglob("*.tf")))
    return {
        kind: sorted(set(re.findall(rf'^{kind} "(\w+)"', text, flags=re.MULTILINE))) for kind in ("resource", "data")
    }


def read(folder: Path) -> dict[str, Any]:
    """The block of one resource or data source."""
    source = (folder / "index.js").read_text(encoding="utf-8")
    classes = dict(re.findall(r"^class (\w+) extends [^\n]*\n(.*?)^\}", source, flags=re.MULTILINE | re.DOTALL))
    functions = dict(
        re.findall(r"^function (\w+)ToHclTerraform\(struct\) \{(.*?)^\}", source, flags=re.MULTILINE | re.DOTALL)
    )
    top = next(body for name, body in classes.items() if "synthesizeHclAttributes()" in body)
    return _block(top, top.split("synthesizeHclAttributes()", 1)[1], classes=classes, functions=functions)


def _block(
    class_body: str, settable: str, *, classes: Mapping[str, str], functions: Mapping[str, str]
) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    blocks: dict[str, Any] = {}
    # What can be reset is optional; what holds at most one block has no list class.
    # A name that the bindings have already taken gets `Attribute` at its end.
    reset = re.findall(r"^    reset(\w+)\(\)", class_body, flags=re.MULTILINE)
    optional = {name.lower() for name in reset} | {name.lower().removesuffix("attribute") for name in reset}
    single = set(re.findall(r"new \w+OutputReference\(this, \"(\w+)\"", class_body))
    for match in _ATTRIBUTE.finditer(_dedented(settable)):
        name = match["name"]
        is_required = name.replace("_", "") not in optional
        if name == "timeouts":
            continue
        if match["block"] == "true":
            struct = re.search(r"(\w+)ToHclTerraform", match["value"])
            assert struct, name
            inner = classes.get(f"{struct[1][0].upper()}{struct[1][1:]}OutputReference", "")
            blocks[name] = {
                "nesting": "set" if match["type"] == "set" else "list",
                "single": name in single,
                "required": is_required,
                "block": _block(inner, functions[struct[1]], classes=classes, functions=functions),
            }
        else:
            attributes[name] = {"type": _type(match["storage"], match["type"]), "required": is_required}
    for kind, name in _COMPUTED.findall(class_body):
        if name not in attributes and name not in blocks:
            attributes[name] = {"type": _READ_TYPES[kind], "computed": True}
    return {"attributes": dict(sorted(attributes.items())), "blocks": dict(sorted(blocks.items()))}


def _type(storage: str, collection: str) -> Any:
    kind = _TYPES.get(storage, "dynamic")
    return ["set", kind[1]] if isinstance(kind, list) and collection == "set" else kind


def _dedented(settable: str) -> str:
    """Attributes of a struct are indented less than those of a resource."""
    return re.sub(r"^ {8}(\w+: \{)$", r"            \1", settable, flags=re.MULTILINE)


def main(lib: Path, output: Path) -> None:
    version = re.search(r"providerVersion: '([\d.]+)'", (lib / "pubsub-topic" / "index.js").read_text(encoding="utf-8"))
    assert version
    schema: dict[str, Any] = {"provider": "hashicorp/google", "version": f"{version[1]}, changed as 7.0 was"}
    for kind, names in used().items():
        prefix = "data-google-" if kind == "data" else ""
        schema[kind] = {name: read(lib / (prefix + name.removeprefix("google_").replace("_", "-"))) for name in names}
    # 7.0: "service_config.service is changed from Argument to Attribute".
    function = schema["resource"]["google_cloudfunctions2_function"]["blocks"]["service_config"]["block"]
    function["attributes"]["service"] = {"type": "string", "computed": True}
    output.write_text(json.dumps(schema, indent=0, sort_keys=True).replace("\n", "") + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

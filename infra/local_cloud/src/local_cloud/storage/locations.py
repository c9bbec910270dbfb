"""Where buckets can lie, by the names that Cloud Storage gives to locations.

Source: https://docs.cloud.google.com/storage/docs/locations, as of November 2026.
"""

from __future__ import annotations

from local_cloud.storage.errors import invalid

MULTI_REGIONS = frozenset({"ASIA", "EU", "US"})
DUAL_REGIONS = frozenset({"ASIA1", "EUR4", "EUR5", "EUR7", "EUR8", "NAM4"})
REGIONS = frozenset(
    {
        "AFRICA-SOUTH1",
        "ASIA-EAST1",
        "ASIA-EAST2",
        "ASIA-NORTHEAST1",
        "ASIA-NORTHEAST2",
        "ASIA-NORTHEAST3",
        "ASIA-SOUTH1",
        "ASIA-SOUTH2",
        "ASIA-SOUTHEAST1",
        "ASIA-SOUTHEAST2",
        "ASIA-SOUTHEAST3",
        "AUSTRALIA-SOUTHEAST1",
        "AUSTRALIA-SOUTHEAST2",
        "EUROPE-CENTRAL2",
        "EUROPE-NORTH1",
        "EUROPE-NORTH2",
        "EUROPE-SOUTHWEST1",
        "EUROPE-WEST1",
        "EUROPE-WEST2",
        "EUROPE-WEST3",
        "EUROPE-WEST4",
        "EUROPE-WEST6",
        "EUROPE-WEST8",
        "EUROPE-WEST9",
        "EUROPE-WEST10",
        "EUROPE-WEST12",
        "ME-CENTRAL1",
        "ME-CENTRAL2",
        "ME-WEST1",
        "NORTHAMERICA-NORTHEAST1",
        "NORTHAMERICA-NORTHEAST2",
        "NORTHAMERICA-SOUTH1",
        "SOUTHAMERICA-EAST1",
        "SOUTHAMERICA-WEST1",
        "US-CENTRAL1",
        "US-EAST1",
        "US-EAST4",
        "US-EAST5",
        "US-SOUTH1",
        "US-WEST1",
        "US-WEST2",
        "US-WEST3",
        "US-WEST4",
    }
)
#: Today's and, behind them, those of old.
STORAGE_CLASSES = frozenset(
    {"STANDARD", "NEARLINE", "COLDLINE", "ARCHIVE", "MULTI_REGIONAL", "REGIONAL", "DURABLE_REDUCED_AVAILABILITY"}
)


def location_type(location: str) -> str:
    """What kind of place a location is, in whatever case it is written. Raises ApiError 400 where there is none."""
    name = location.upper()
    if name in MULTI_REGIONS:
        return "multi-region"
    if name in DUAL_REGIONS:
        return "dual-region"
    if name in REGIONS:
        return "region"
    raise invalid("The specified location constraint is not valid.")


def require_storage_class(name: object) -> None:
    """Refuse a storage class that Cloud Storage does not have. Raises ApiError 400."""
    if name not in STORAGE_CLASSES:
        raise invalid("Invalid argument.")

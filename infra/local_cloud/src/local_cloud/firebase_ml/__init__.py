"""Firebase ML's model hosting (v1beta2) on loopback; the real service shuts down on 15 June 2027."""

from local_cloud.firebase_ml.service import FirebaseMl

__all__ = ["FirebaseMl"]

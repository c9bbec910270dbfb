"""From a laptop, or from Cloud Build, to Google Cloud: everything, or one service alone.

Runs on a bare Python: Cloud Build starts it in an image that has gcloud and nothing of ours.
"""

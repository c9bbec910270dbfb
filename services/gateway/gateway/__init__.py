"""Answers apps that have no credentials of Google Cloud: their attested pictures go to the endpoint."""

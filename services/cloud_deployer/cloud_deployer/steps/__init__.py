"""The steps of a release, one file for each group; `route` has their order."""

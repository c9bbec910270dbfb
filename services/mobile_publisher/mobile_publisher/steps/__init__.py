"""The steps of a release for phones, one file for each group; `route` says in which order they are taken."""

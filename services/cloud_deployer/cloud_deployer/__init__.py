"""A trained cloud model: into the Model Registry, onto the endpoint, and out with what it replaces."""

"""What stands for AutoML's search on the local cloud: commands that infra/topology.json names, imported by no one.

The contract of both is in `local_cloud.vertex.searches`: a folder with pictures in, a model and its scores out.
"""

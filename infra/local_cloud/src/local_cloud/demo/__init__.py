"""What the local demonstration needs besides the cloud: data that may be given away."""

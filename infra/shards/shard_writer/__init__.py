"""`make shards`: a folder or a list of pictures becomes TFRecord shards that train. Without TensorFlow."""

"""Pictures and the files that hold them: the format of a shard, the judge of a picture, its pixels."""

"""The process that trains: arguments, storage, progress, its end."""

"""The way of a trained model to its users: routes as data, the worker that takes them, commands and their HTTP."""

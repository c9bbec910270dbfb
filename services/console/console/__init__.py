"""Pages for operators: what serves, what is under way, what waits, and the buttons that change it."""

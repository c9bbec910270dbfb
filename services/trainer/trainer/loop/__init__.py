"""One training: phases, steps, evaluation."""

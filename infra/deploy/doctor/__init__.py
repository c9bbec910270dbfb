"""`make doctor`: which part of the chain is broken, and the command that mends it. It reads, and changes nothing."""

"""What every service answers over HTTP with: events, and who calls."""

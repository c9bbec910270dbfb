"""What the Dual Deploy services share: events, the ledger, and Google's clients behind small ports."""

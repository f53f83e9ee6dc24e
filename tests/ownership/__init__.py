"""Who owns a message when processes die: measured with real processes, SIGKILL, and a ledger outside the broker."""

"""What a bridge lets one device, or a stranger, take of it: rates, the quarantine, and who is known."""

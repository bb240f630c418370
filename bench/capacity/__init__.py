"""What an installation needs, from what was measured: costs, the worst morning, the plan, and its check."""

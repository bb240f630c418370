"""Long tests with many real servers."""

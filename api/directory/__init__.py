"""Changes of the directory: of one entry, and of many by files of CSV and NDJSON."""

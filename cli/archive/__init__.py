"""Archives: all events by day of receipt, and the operators' facts, as Parquet in a directory or a bucket."""

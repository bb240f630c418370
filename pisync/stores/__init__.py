"""The stores behind interfaces: in MongoDB the truth, in Redis its projection, in memory both for tests."""

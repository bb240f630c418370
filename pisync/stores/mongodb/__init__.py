"""The stores in MongoDB: the truth. Nothing else in PiSync speaks to MongoDB."""

"""The local stack: the three servers, the bridges and the api as children of one `pisync up`."""

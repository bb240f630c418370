"""The HTTP contract, a module a resource."""

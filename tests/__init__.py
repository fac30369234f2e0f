"""The tests, and beside them the small models, batches and runs that they share."""

"""The models, one file per paper; each follows `types.Model`."""

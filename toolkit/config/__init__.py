"""YAML to checked, resolved components: schema, overrides, registry, signatures, trust, JSON Schema, catalog.

Nothing is built here: `envs` and `training` build what a config names.
"""

"""YAML to checked, resolved components: schema, overrides, registry, signatures, trust, JSON Schema, catalog.

It builds no environment, model or callback: `envs` and `training` do.
"""

"""What :mod:`toolkit.testing` checks, one module for each kind of component."""

"""Many runs out of one file: what they are, how they are trained, where they stand."""

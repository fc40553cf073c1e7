"""One component of each kind for sb3-toolkit, put to use on CartPole."""
